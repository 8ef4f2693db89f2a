"""Between the Schedule tab and the forms: settings there and back, the last result, a picture's run, a pasted list."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from webui.core.request import RequestError
from webui.engine.engine import Engine
from webui.gradio_ext.files import uploaded
from webui.gradio_ext.gradio_events import QUIET, RAW
from webui.tabs.form.controls import size_slider
from webui.tabs.form.describe import note, problem, steps_text
from webui.tabs.form.form import Form
from webui.tabs.form.page_context import Page
from webui.tabs.form.workbench import Workbench, newest_result, results_of

from .recorded_run import load, loaded_note
from .run_plot import FIELDS
from .run_summary import custom_settings
from .run_view import RunView, steps_update

CUSTOM = "Custom"
GUIDANCE = ("guidance", "guidance_low", "guidance_high")


def connect_paste(page: Page, view: RunView, pasted: gr.Textbox, use: gr.Button, message: gr.HTML) -> None:
    """Make a pasted list the schedule Custom of the plot."""
    fields = view.fields

    def paste(options: dict[str, Any], text: Any) -> list[Any]:
        if CUSTOM not in page.registry.schedules:
            return [*[gr.skip()] * 5, problem("The schedule Custom is not loaded, so a list cannot be used.")]
        try:
            numbers, count = custom_settings(text)
        except RequestError as error:
            return [*[gr.skip()] * 5, problem(str(error))]
        most = page.engine.limits.steps
        if count > most:
            return [*[gr.skip()] * 5, problem(f"The list has {count} numbers; allowed here are {most} steps.")]
        chosen = {**options, "schedules": {**options["schedules"], CUSTOM: {"numbers": numbers}}}
        said = note(f"The list is the schedule Custom now, of {steps_text(count)}.")
        return [chosen, CUSTOM, steps_update(count), 1.0, time.time(), said]

    outputs = [view.options, fields["schedule"], fields["steps"], fields["strength"], view.revision, message]
    use.click(paste, [view.options, pasted], outputs, **QUIET, **RAW)


def connect_loading(
    page: Page, view: RunView, benches: Sequence[Workbench], opened: gr.UploadButton, last: gr.Button, message: gr.HTML
) -> None:
    """Draw the run of an uploaded picture, or that of the newest result."""

    def show(path: Path) -> list[Any]:
        try:
            run = load(path)
        except RequestError as error:
            return [gr.skip(), problem(str(error)), gr.skip()]
        return [run, loaded_note(page.engine, run), time.time()]

    def from_upload(file: Any) -> list[Any]:
        try:
            return show(uploaded(file))
        except RequestError:
            return [gr.skip(), problem("The file did not arrive; choose it again."), gr.skip()]

    def from_results(*given: Any) -> list[Any]:
        try:
            return show(newest_result(given))
        except RequestError as error:
            return [gr.skip(), problem(str(error)), gr.skip()]

    outputs = [view.loaded, message, view.edits]
    opened.upload(from_upload, opened, outputs, **QUIET, **RAW)
    last.click(from_results, results_of(benches), outputs, **QUIET)


def connect_taking(view: RunView, form: Form, take: gr.Button) -> None:
    """Take the settings of a form into the plot."""

    def bring(*given: Any) -> list[Any]:
        values = form.values(given)
        strength = (values["strength"], values["strength_as"]) if form.mode == "img2img" else (1.0, "steps")
        guidance = (values[name] for name in GUIDANCE)
        chosen = (
            values["model"],
            values["sampler"],
            values["schedule"],
            steps_update(values["steps"]),
            *strength,
            *guidance,
        )
        return [values["options"], *chosen, time.time()]

    outputs = [view.options, *(view.fields[name] for name in FIELDS), view.revision]
    take.click(bring, form.inputs, outputs, **QUIET, **RAW)


def connect_using(page: Page, view: RunView, form: Form, tabs: gr.Tabs, use: gr.Button) -> None:
    """Put the settings of the plot into a form and show it."""
    more = [form.fields[name] for name in ("strength", "strength_as") if name in form.fields]
    guided = [form.fields[name] for name in GUIDANCE]
    sized = [form.fields[name] for name in ("width", "height")]

    def put(options: dict[str, Any], theirs: dict[str, Any], model_there: Any, *given: Any) -> list[Any]:
        values = dict(zip(FIELDS, given, strict=True))
        strength = [values["strength"], values["strength_as"]] if more else []
        fitting = _follow(page.engine, values["model"], model_there)
        guidance = (values[name] for name in GUIDANCE)
        chosen = [*(values[name] for name in FIELDS[:4]), *strength, *guidance, *fitting]
        return [merged(theirs, options, values), *chosen, time.time(), gr.Tabs(selected=form.mode)]

    outputs = [form.options, *(form.fields[name] for name in FIELDS[:4]), *more, *guided, *sized, form.revision, tabs]
    inputs = [view.options, form.options, form.fields["model"], *(view.fields[name] for name in FIELDS)]
    use.click(put, inputs, outputs, **QUIET, **RAW)


def merged(theirs: Mapping[str, Any], ours: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A form's options with those of the chosen sampler and schedule put in."""
    result = {kind: dict(kept) for kind, kept in theirs.items()}
    for kind, name in (("samplers", values["sampler"]), ("schedules", values["schedule"])):
        if name in ours.get(kind, {}):
            result[kind][name] = ours[kind][name]
    return result


def _follow(engine: Engine, model: Any, before: Any) -> list[Any]:
    """Width and height as another model wants them; nothing where it stays."""
    found = engine.models().get(model or "")
    if found is None or model == before:
        return [gr.skip()] * 2
    return [gr.update(**size_slider(found)), gr.update(**size_slider(found))]
