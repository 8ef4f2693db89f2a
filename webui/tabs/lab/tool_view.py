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
from webui.gradio_ext.gradio_events import QUIET, Updates, on_change
from webui.tabs.form.describe import note, problem
from webui.tabs.form.job_events import JobButtons, JobEvents, View, build_job_buttons
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
    idle: str
    pair: JobButtons
    message: gr.HTML


def build_buttons(mode: str, label: str, idle: str) -> Buttons:
    """Build the row of buttons and the status line that every tool has."""
    pair = build_job_buttons(mode, label, "At work")
    message = gr.HTML(status(None, idle, str), elem_id=f"{mode}-message")
    return Buttons(mode, idle, pair, message)


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

    pair = buttons.pair
    every = [buttons.message, pair.start, pair.stop, *outputs]
    events = JobEvents(page, buttons.mode, pair, view_of, lambda text: {buttons.message: problem(text)}, every)
    for start in (Start(pair.start.click, inputs, make), *starts):
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

    on_change(watched, show, inputs, box, **QUIET)
