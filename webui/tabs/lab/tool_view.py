"""Wire a tool of the Lab to the page: start, stop, follow its job, and resume after a reload."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.blocks import Block

from webui.core.request import RequestError
from webui.engine.events import Snapshot
from webui.engine.job_context import Task
from webui.engine.jobs import Job
from webui.gradio_ext.gradio_events import LONG, QUIET, RAW, on_change
from webui.tabs.form.describe import note, problem
from webui.tabs.form.job_events import idle, resumer, snapshots, stop_job, submit, working
from webui.tabs.form.page_context import Page

from .lab_text import status

Updates = dict[Block, Any]
View = Callable[[Snapshot], Awaitable[Updates]]


@dataclass(frozen=True, eq=False)
class Tool:
    """A wired tool; `resume` follows its job into `outputs` when a page has been opened."""

    mode: str
    resume: Callable[..., Any]
    outputs: list[Block]


@dataclass(frozen=True, eq=False)
class Start:
    """An event that starts a tool (`button.click`), its inputs, and `make`, see `connect_tool`."""

    listen: Callable[..., Any]
    inputs: Sequence[gr.components.Component]
    make: Callable[..., Task]


@dataclass(frozen=True, eq=False)
class Buttons:
    """Start, stop and the status line of a tool."""

    mode: str
    label: str
    idle: str
    start: gr.Button
    stop: gr.Button
    message: gr.HTML


def build_buttons(mode: str, label: str, idle: str) -> Buttons:
    """Build the row of buttons and the status line that every tool has."""
    with gr.Row(elem_classes="run"):
        start = gr.Button(
            label, variant="primary", elem_id=f"{mode}-start", elem_classes="generate", min_width=120, scale=3
        )
        stop = gr.Button("Stop", elem_id=f"{mode}-stop", elem_classes="stop", interactive=False, min_width=80, scale=1)
    message = gr.HTML(status(None, idle, str), elem_id=f"{mode}-message")
    return Buttons(mode, label, idle, start, stop, message)


def connect_tool(
    page: Page,
    buttons: Buttons,
    inputs: Sequence[gr.components.Component],
    outputs: Sequence[Block],
    make: Callable[..., Task],
    view: Callable[[Job], View],
    finished: Callable[[Mapping[str, Any]], str],
    starts: Sequence[Start] = (),
) -> Tool:
    """Wire a tool.

    make      make(*values of inputs) -> task, in a thread; its RequestError is shown and changes nothing else
    view      view(job) -> the function that turns each snapshot of the job into {output: update}
    finished  the sentence about a run from its info
    starts    events beside the tool's button
    """
    mode, every = buttons.mode, [buttons.message, buttons.start, buttons.stop, *outputs]

    def updates(text: str, pair: Sequence[Any]) -> Updates:
        return {buttons.message: text, **dict(zip((buttons.start, buttons.stop), pair, strict=True))}

    async def run(
        make: Callable[..., Task], request: gr.Request, token: str, given: Sequence[Any]
    ) -> AsyncGenerator[Any, None]:
        token = token or request.session_hash or ""
        before = page.job(token, mode)
        if before is not None and before.outcome is None:
            gr.Info("This tool is still at work. Stop it first, or wait for it.")
            yield gr.skip()
            return
        try:
            job = await submit(page, lambda: page.engine.submit_task(make(*given), page.owner(token, mode)))
        except RequestError as error:
            yield updates(problem(str(error)), idle(value=buttons.label))
            return
        async for each in follow(job):
            yield each

    async def follow(job: Job) -> AsyncGenerator[Any, None]:
        news, show = snapshots(page, job), view(job)
        try:
            async for now in news:
                if now is None:
                    yield gr.skip()
                    continue
                text = status(now, buttons.idle, finished)
                pair = idle(value=buttons.label) if now.outcome else working(job, value="At work")
                yield updates(text, pair) | await show(now)
        finally:
            # Not left to the garbage collector: the job has to know at once that nobody looks any more.
            await news.aclose()

    for start in (Start(buttons.start.click, inputs, make), *starts):
        _listen(page, start, run, every)
    buttons.stop.click(lambda token: stop_job(page, token, mode), page.token, buttons.stop, **QUIET)
    return Tool(mode, resumer(page, mode, follow, gr.skip()), every)


def _listen(page: Page, start: Start, run: Callable[..., AsyncGenerator[Any, None]], outputs: Sequence[Block]) -> None:
    async def begin(request: gr.Request, token: str, *given: Any) -> AsyncGenerator[Any, None]:
        updates = run(start.make, request, token, given)
        try:
            async for each in updates:
                yield each
        finally:
            await updates.aclose()

    start.listen(begin, [page.token, *start.inputs], outputs, concurrency_limit=None, **LONG, **RAW)


def connect_cost(
    box: gr.HTML,
    watched: Sequence[gr.components.Component],
    inputs: Sequence[gr.components.Component],
    tell: Callable[..., str],
) -> None:
    """Update the cost of a tool with every change: tell(*values of inputs) is a sentence, or raises RequestError."""

    def show(*given: Any) -> str:
        try:
            return note(tell(*given))
        except RequestError as error:
            return problem(str(error))

    on_change(watched, show, inputs, box, **QUIET, **RAW)
