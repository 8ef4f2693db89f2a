"""The Model Context Protocol under `/mcp`, for agents.

Gradio has a server of its own, which is not used: it wants mcp 1 and a pydantic that the other packages here are past,
and it makes a tool of every endpoint.
"""

from __future__ import annotations

import asyncio
import contextvars
from typing import Annotated, Any

from mcp.server.mcpserver import Context, Image, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.transport_security import TransportSecuritySettings
from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Receive, Scope, Send

from webui.core.new_record import packages
from webui.core.request import RequestError
from webui.engine.engine import Engine
from webui.engine.events import Progress

from .api_jobs import ApiJobs
from .mcp_tools import PICTURE, Report, Tools, as_json, typed
from .script_api import RunFailed, arguments

PATH = "/mcp"
ABOUT = (
    "Sigmalab draws pictures with diffusion models and measures samplers. `catalog` names the samplers, schedules, "
    "models and their options; empty names and 0 are the model's defaults, seed -1 is random."
)
Picture = Annotated[str, Field(description=PICTURE)]


def mcp_server(engine: Engine, jobs: ApiJobs) -> MCPServer:
    """The server with its tools, not started."""
    tools = Tools(engine, jobs)
    server: MCPServer = MCPServer(
        "sigmalab", title="Sigmalab", instructions=ABOUT, version=packages()["sigmalab"], log_level="WARNING"
    )

    async def draw(given: dict[str, Any], context: Context) -> list[Any]:
        """Draw pictures from words. Returns the pictures, and JSON with their files, seeds and what ran."""
        return await drawn(given, context)

    async def edit(given: dict[str, Any], context: Context) -> list[Any]:
        """Draw pictures from a picture and words; with a mask (white is drawn anew), a part of it only."""
        return await drawn({name: value for name, value in given.items() if value != ""}, context)

    async def schedule(given: dict[str, Any], context: Context) -> str:
        """The noise levels of exactly the run that these settings would make; nothing is drawn."""
        return as_json(await told(run_in_threadpool(tools.schedule, given)))

    async def drawn(given: dict[str, Any], context: Context) -> list[Any]:
        pictures, info = await told(tools.draw(given, reporter(context)))
        return [*(Image(data=data, format="png") for data in pictures), as_json(info)]

    for function, fields in (
        (draw, arguments("txt2img")),
        (edit, arguments("img2img")),
        (schedule, arguments("schedule")),
    ):
        server.add_tool(typed(function, fields, Context), structured_output=False)

    @server.tool(structured_output=False)
    async def read_recipe(picture: Picture) -> str:
        """What a picture of this or another program says about how it was made, and the request that it stands for."""
        return as_json(await told(run_in_threadpool(tools.recipe, picture)))

    @server.tool(structured_output=False)
    async def catalog() -> str:
        """Samplers and schedules with their options, models, and the plugin files that `check_sampler` takes."""
        found = await told(run_in_threadpool(tools.catalog))
        return as_json(dict(found, plugin_files=list(tools.plugin_files())))

    @server.tool(structured_output=False)
    async def check_sampler(
        file: Annotated[str, Field(description="a plugin file that is already here, such as plugins/euler.py")],
        distilled: Annotated[bool, Field(description="its samplers are for networks such as LCM's")] = False,
    ) -> str:
        """Run every check of the plugin kit on a plugin file: what failed, what was expected, and where to look."""
        return as_json(await told(run_in_threadpool(tools.check, file, distilled)))

    @server.tool(structured_output=False)
    async def measure_order(
        samplers: Annotated[list[str], Field(description="names of samplers; their own noise is switched off")],
        context: Context,
        schedule: Annotated[str, Field(description="name of a schedule")] = "Karras",
        options: Annotated[dict[str, dict[str, Any]], Field(description="{sampler: {option: value}}")] = {},  # noqa: B006
        model: Annotated[str, Field(description="a model; without one, a mixture with an exact answer")] = "",
        prompt: Annotated[str, Field(description="on a model")] = "",
        guidance: Annotated[float, Field(description="on a model; 1 is none")] = 1.0,
        seed: Annotated[int, Field(description="on a model")] = 0,
    ) -> str:
        """Measure the error of samplers over network calls, and the order of accuracy that it shows."""
        given: dict[str, Any] = dict(samplers=samplers, schedule=schedule, options=options, model=model)
        given |= dict(prompt=prompt, guidance=guidance, seed=seed)
        return as_json(await told(tools.measure(given, reporter(context))))

    return server


async def told(answer: Any) -> Any:
    """The answer; what is wrong becomes an error that the client's model can read."""
    try:
        return await answer
    except (RequestError, RunFailed) as error:
        raise ToolError(str(error)) from error


def reporter(context: Context) -> Report:
    """Tells the client how far a job is."""

    async def report(progress: Progress) -> None:
        await context.report_progress(progress.calls, progress.total_calls, progress.text)

    return report


class McpApp:
    """The ASGI app of a server, which begins to run with the first request, in that request's event loop."""

    def __init__(self, server: MCPServer, max_body: int):
        # The page's own guard has looked at Host and Origin.
        trusted = TransportSecuritySettings(enable_dns_rebinding_protection=False)
        self._server = server
        self._app: ASGIApp = server.streamable_http_app(
            streamable_http_path=PATH, stateless_http=True, max_request_body_size=max_body, transport_security=trusted
        )
        self._running: asyncio.Task | None = None
        self._started: asyncio.Event | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._started is None:
            self._started = asyncio.Event()
            # In a context of its own: it must not take the first caller for everybody.
            self._running = asyncio.create_task(self._run(self._started), context=contextvars.Context())
        await self._started.wait()
        await self._app(scope, receive, send)

    async def _run(self, started: asyncio.Event) -> None:
        async with self._server.session_manager.run():
            started.set()
            await asyncio.Event().wait()
