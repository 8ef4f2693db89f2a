"""Wire a tool of the Lab to the page: start, stop, follow its job, and resume after a reload."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr
from gradio.blocks import Block

from webui.core.request import RequestError
from webui.engine.events import Snapshot
from webui.engine.job_context import Task
from webui.engine.jobs import Job
from webui.gradio_ext.gradio_events import QUIET, RAW, Updates, on_change
from webui.tabs.form.describe import note, problem
from webui.tabs.form.job_events import JobButtons, JobEvents, View
from webui.tabs.form.page_context import Page

from .lab_text import status


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
) -> JobEvents:
    """Wire a tool.

    make      make(*values of inputs) -> task, in a thread; its RequestError is shown and changes nothing else
    view      view(job) -> the function that turns each snapshot of the job into {output: update}
    finished  the sentence about a run from its info
    starts    events beside the tool's button
    """

    def view_of(job: Job) -> View:
        show = view(job)

        async def updates(now: Snapshot) -> Updates:
            return {buttons.message: status(now, buttons.idle, finished)} | await show(now)

        return updates

    def submit(make: Callable[..., Task], owner: str, *given: Any) -> Job:
        return page.engine.submit_task(make(*given), owner)

    pair = JobButtons(buttons.start, buttons.stop, buttons.label, "At work")
    every = [buttons.message, buttons.start, buttons.stop, *outputs]
    events = JobEvents(page, buttons.mode, pair, view_of, lambda text: {buttons.message: problem(text)}, every)
    for start in (Start(buttons.start.click, inputs, make), *starts):
        events.connect(start.listen, start.inputs, partial(submit, start.make))
    events.connect_stop()
    return events


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
