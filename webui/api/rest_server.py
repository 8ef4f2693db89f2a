"""The app of the APIs that clients of other programs speak, with its errors and its description."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from webui.core.new_record import packages
from webui.core.request import RequestError
from webui.engine.engine import Engine
from webui.engine.queue_room import QueueFull
from webui.gradio_ext.guard import MAX_API_BODY
from webui.templates import render

from .api_jobs import ApiJobs, CallerGone
from .openai_routes import openai_routes
from .script_api import RunFailed
from .sdapi_request import Translator
from .sdapi_routes import sdapi_routes

ABOUT = "Other programs' APIs, over the same requests, limits and queue as the page. docs/apis.md has examples."
GONE = 499  # nginx's status for a caller who hung up; nobody reads it


def rest_app(engine: Engine) -> FastAPI:
    """The app that answers `/sdapi/v1`, `/v1`, `/openapi.json` and `/docs`, and `/mcp`, whichever are wanted."""
    # FastAPI's own page of a description loads its code from another server.
    app = FastAPI(title="Sigmalab", version=packages()["sigmalab"], description=ABOUT, docs_url=None, redoc_url=None)
    jobs, settings = ApiJobs(engine), engine.settings
    if settings.api:
        translator = Translator(engine, settings.api_fit)
        app.include_router(sdapi_routes(engine, jobs, translator))
        app.include_router(openai_routes(engine, jobs, translator))
    if settings.mcp:
        # Slow to import, and not needed without.
        from .mcp_server import PATH, McpApp, mcp_server

        app.router.routes.append(Route(PATH, McpApp(mcp_server(engine, jobs), MAX_API_BODY), include_in_schema=False))

    @app.get("/docs", include_in_schema=False)
    def docs() -> HTMLResponse:
        return HTMLResponse(render("api", "page", ABOUT, list(described(app.openapi()))))

    @app.exception_handler(RequestError)
    def refused(http: HttpRequest, error: RequestError) -> Response:
        if isinstance(error, QueueFull):
            seconds = math.ceil(engine.queue.seconds_until_room() or 10.0)
            return problem(http, 429, str(error), {"retry-after": str(seconds)})
        return problem(http, 422, str(error))

    @app.exception_handler(RunFailed)
    def failed(http: HttpRequest, error: RunFailed) -> Response:
        return problem(http, 500, str(error))

    @app.exception_handler(CallerGone)
    def gone(http: HttpRequest, error: CallerGone) -> Response:
        return Response(status_code=GONE)

    @app.exception_handler(RequestValidationError)
    def unreadable(http: HttpRequest, error: RequestValidationError) -> Response:
        # Without what was sent, which may be anything.
        found = dict.fromkeys(f"{'.'.join(map(str, one['loc'][1:])) or 'body'}: {one['msg']}" for one in error.errors())
        return problem(http, 422, "; ".join(list(found)[:10]) + ".")

    @app.exception_handler(HTTPException)
    def other(http: HttpRequest, error: HTTPException) -> Response:
        text = f"There is no {http.method} {http.url.path}; /docs lists what there is." if _absent(error) else ""
        return problem(http, error.status_code, text or str(error.detail), error.headers)

    return app


def problem(http: HttpRequest, status: int, text: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """An error in the form of A1111's API or of OpenAI's."""
    if http.url.path.startswith("/v1/"):
        kind = "server_error" if status >= 500 else "invalid_request_error"
        error = dict(message=text, type=kind, param=None, code=None)
        return JSONResponse(dict(error=error), 400 if status == 422 else status, headers)
    return JSONResponse(dict(error="refused", detail=text, body="", errors=text), status, headers)


def described(openapi: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    """The endpoints of a description for the page that shows it, each with its arguments."""
    models = openapi.get("components", {}).get("schemas", {})
    for path, methods in openapi["paths"].items():
        for method, one in methods.items():
            fields = [dict(each, **each.get("schema", {})) for each in one.get("parameters", ())]
            for content in one.get("requestBody", {}).get("content", {}).values():
                model = models.get(str(content["schema"].get("$ref", "")).rpartition("/")[2], {})
                required = model.get("required", ())
                named = model.get("properties", {}).items()
                fields += [dict(each, name=name, required=name in required) for name, each in named]
            rows = [
                dict(
                    name=each["name"],
                    type=_type(each),
                    default="required" if each.get("required") else each.get("default", ""),
                    about=each.get("description", ""),
                )
                for each in fields
            ]
            yield dict(method=method.upper(), path=path, about=one.get("description", ""), fields=rows)


def _type(schema: Mapping[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_type(each) for each in schema["anyOf"] if each.get("type") != "null")
    return f"list of {_type(schema['items'])}" if "items" in schema else str(schema.get("type", "object"))


def _absent(error: HTTPException) -> bool:
    return error.status_code in (404, 405) and error.detail in ("Not Found", "Method Not Allowed")
