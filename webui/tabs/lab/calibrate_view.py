"""The tool Calibrate: calls, schedule and prompts, the errors before and after, and calibrations as files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from webui.core.calibrations import FILE, CalibrationFile, keep_calibrations, read_calibrations
from webui.core.request import RequestError
from webui.core.text import as_sentence
from webui.engine.calibration import BUDGETS, PICTURES, Calibrated, CalibrationTask, make_calibration
from webui.engine.events import Snapshot
from webui.engine.jobs import Job
from webui.gradio_ext.files import served_bytes, uploaded
from webui.gradio_ext.gradio_events import QUIET, RAW, Updates
from webui.tabs.form.describe import note, problem, seconds_text
from webui.tabs.form.form import Form
from webui.tabs.form.job_events import JobEvents, View
from webui.tabs.form.page_context import Page
from webui.templates import render

from .figures import calibration_figure
from .lab_form import build_schedule, request_of
from .tool_view import build_buttons, connect_tool

TOOL = "calibrate"
CALLS = (4, 5, 6, 8, 10, 12, 16)
IDLE = (
    "Fits the numbers of the sampler Calibrated to the model, with the guidance and the size above, and tests them on "
    "other prompts beside Euler, DPM++ 2M and UniPC. What is better than all of them is kept."
)
SHARED = "A shared page does not calibrate; its owner can, with python launch.py calibrate."


def build_calibrate(page: Page, form: Form) -> JobEvents:
    """Build the tab's content and wire it."""
    with gr.Column(elem_classes="card"):
        with gr.Row():
            calls = gr.CheckboxGroup(
                [(str(count), count) for count in CALLS],
                value=list(BUDGETS),
                label="Network calls a picture",
                elem_id=f"{TOOL}-calls",
                interactive=True,
            )
            pictures = gr.Slider(
                4,
                64,
                value=PICTURES,
                step=4,
                label="Pictures to fit",
                info="As many others are tested.",
                elem_id=f"{TOOL}-pictures",
                interactive=True,
            )
            schedule = build_schedule(page, TOOL, "Karras", "The one that the result will be drawn with.")
        prompts = gr.Textbox(
            label="Prompts, one a line",
            placeholder="Empty: what the model's card names, or common subjects",
            lines=2,
            max_lines=8,
            elem_id=f"{TOOL}-prompts",
        )
        again = gr.Checkbox(label="Also what has been kept before", elem_id=f"{TOOL}-again", interactive=True)
    buttons = build_buttons(TOOL, "Calibrate", IDLE)
    plot = gr.Plot(show_label=False, visible=False, elem_id=f"{TOOL}-plot")
    table = gr.HTML(elem_id=f"{TOOL}-table")
    with gr.Row():
        export = gr.DownloadButton("Save as a file", size="sm", visible=False, elem_id=f"{TOOL}-export")
        taken = gr.UploadButton("Take from a file", file_types=[".json"], size="sm", elem_id=f"{TOOL}-import")
    message = gr.HTML(elem_id=f"{TOOL}-taken")

    def make(calls: Any, pictures: Any, schedule: Any, prompts: Any, again: Any, *given: Any) -> CalibrationTask:
        if page.engine.settings.public:
            raise RequestError(SHARED)
        request, _ = request_of(form, given)
        # The browser may send anything; only known numbers of calls are used.
        budgets = [count for count in CALLS if isinstance(calls, list) and count in calls]
        lines = [line.strip() for line in str(prompts or "").splitlines() if line.strip()]
        count = pictures if type(pictures) is int else PICTURES
        names = [str(schedule or "")]
        return make_calibration(
            page.engine, request, schedules=names, budgets=budgets, prompts=lines, pictures=count, again=bool(again)
        )

    def take(file: Any) -> str:
        try:
            return note(take_file(page, uploaded(file)))
        except RequestError as error:
            return problem(str(error))

    taken.upload(take, taken, message, **QUIET, **RAW)

    def view(job: Job) -> View:
        shown = -1

        async def show(now: Snapshot) -> Updates:
            nonlocal shown
            found: Sequence[Calibrated] = now.parts
            if len(found) == shown:
                return {}
            shown = len(found)
            if not found:
                return {plot: gr.update(visible=False), table: "", export: gr.update(visible=False)}
            kept = any(one.kept for one in found)
            path = served_bytes(exported(found), FILE) if kept else None
            return {
                plot: gr.update(value=calibration_figure(found), visible=True),
                table: results_table(found),
                export: gr.update(value=path, visible=kept),
            }

        return show

    inputs = [calls, pictures, schedule, prompts, again, *form.inputs]
    return connect_tool(page, buttons, inputs, [plot, table, export], make, view, _finished)


def exported(found: Sequence[Calibrated]) -> bytes:
    """A file of what was kept and measured."""
    files = [one.file for one in found]
    names = CalibrationFile.model_fields
    joined = {name: tuple(each for file in files for each in getattr(file, name)) for name in names}
    return CalibrationFile(**joined).model_dump_json(indent=1).encode()


def results_table(found: Sequence[Calibrated]) -> str:
    """The errors of each number of calls, and how to draw with what was kept."""
    heads = ("calls", "Calibrated", "the best of the others", "share", "")
    rows = []
    for one in sorted(found, key=lambda one: one.calibration.steps):
        made = one.calibration
        share = f"{made.error / made.best.error:.2f}" if made.best.error else ""
        how = f"kept: {made.steps} steps of {made.schedule}" if one.kept else "not kept"
        rows.append((str(made.steps), f"{made.error:.4f}", f"{made.best.error:.4f}, {made.best.name}", share, how))
    return render("tables", "table", heads, rows)


def take_file(page: Page, path: Path) -> str:
    """Keep the calibrations of an uploaded file; a sentence about them. Raises RequestError."""
    if page.engine.settings.public:
        raise RequestError(SHARED)
    try:
        found = read_calibrations(path)
        if not found.calibrations and not found.schedules:
            raise ValueError("the file has no calibrations")
        keep_calibrations(page.engine.outputs, found)
    except (OSError, ValueError) as error:
        raise RequestError(as_sentence(str(error))) from None
    made = [*found.calibrations, *found.schedules]
    names = sorted({f"{one.steps} steps of {one.schedule_name} at guidance {one.guidance:g}" for one in made})
    return f"Taken: {', '.join(names)}."


def _finished(info: Mapping[str, Any]) -> str:
    return f"Calibrated with {info['calls']} network calls of all pictures in {seconds_text(info['seconds'])}"
