"""Move settings between the Schedule tab and the forms, and load a finished run or a pasted list into the plot."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.blocks import Block

from webui.core.fields import fields_of
from webui.core.menus import chosen_name
from webui.core.request import Request, RequestError
from webui.gradio_ext.files import uploaded
from webui.gradio_ext.gradio_events import QUIET, RAW, gather
from webui.gradio_ext.lazy_tab import reach
from webui.tabs.form.describe import note, problem, steps_text
from webui.tabs.form.page_context import Page
from webui.tabs.form.size_controls import size_slider
from webui.tabs.form.workbench import Workbench, newest_result, results_of

from .recorded_run import load, loaded_note
from .run_plot import FIELDS
from .run_summary import custom_settings
from .run_view import RunView, steps_update

CUSTOM = "Custom"


def connect_paste(page: Page, view: RunView, pasted: gr.Textbox, use: gr.Button, message: gr.HTML) -> None:
    """Make a pasted list the schedule Custom of the plot."""
    fields = view.fields

    def paste(options: dict[str, Any], text: Any) -> dict[Block, Any]:
        if CUSTOM not in page.registry.schedules:
            return {message: problem("The schedule Custom is not loaded, so a list cannot be used.")}
        try:
            numbers, count = custom_settings(text)
        except RequestError as error:
            return {message: problem(str(error))}
        most = page.engine.limits.steps
        if count > most:
            return {message: problem(f"The list has {count} numbers; allowed here are {most} steps.")}
        return {
            view.options: {**options, "schedules": {**options["schedules"], CUSTOM: {"numbers": numbers}}},
            fields["schedule"]: CUSTOM,
            fields["steps"]: steps_update(count),
            fields["strength"]: 1.0,
            view.revision: time.time(),
            message: note(f"The list is the schedule Custom now, of {steps_text(count)}."),
        }

    outputs = [view.options, fields["schedule"], fields["steps"], fields["strength"], view.revision, message]
    use.click(paste, [view.options, pasted], outputs, **QUIET, **RAW)


def connect_loading(
    page: Page, view: RunView, benches: Sequence[Workbench], opened: gr.UploadButton, last: gr.Button, message: gr.HTML
) -> None:
    """Draw the run of an uploaded picture, or that of the newest result."""

    def show(path_of: Callable[[], Path]) -> dict[Block, Any]:
        try:
            run = load(path_of())
        except RequestError as error:
            return {message: problem(str(error))}
        return {view.loaded: run, message: loaded_note(page.engine, run), view.edits: time.time()}

    outputs = [view.loaded, message, view.edits]
    opened.upload(lambda file: show(lambda: uploaded(file)), opened, outputs, **QUIET, **RAW)
    last.click(lambda *given: show(lambda: newest_result(given)), results_of(benches), outputs, **QUIET)


def connect_taking(view: RunView, bench: Workbench, take: gr.Button) -> None:
    """Copy the settings of a form into the plot."""
    form = bench.form

    def copy(*given: Any) -> dict[Block, Any]:
        values = form.values(given)
        whole = {"strength": 1.0, "strength_as": "steps"} if form.mode == "txt2img" else {}
        values |= whole | {"steps": steps_update(values["steps"])}
        # img2img has no second pass.
        copied = {view.fields[name]: values.get(name, fields_of(Request)[name].default) for name in FIELDS}
        return {view.options: values["options"], **copied, view.revision: time.time()}

    outputs = [view.options, *(view.fields[name] for name in FIELDS), view.revision]
    gather(reach(bench.content, take.click), copy, form.inputs, outputs, **QUIET)


def connect_using(page: Page, view: RunView, bench: Workbench, tabs: gr.Tabs, use: gr.Button) -> None:
    """Copy the settings of the plot into a form and open it."""
    form = bench.form
    names = [name for name in FIELDS if name in form.fields]
    sizes = [form.fields[name] for name in ("width", "height")]

    def copy(options: dict[str, Any], form_options: dict[str, Any], form_model: Any, *given: Any) -> dict[Block, Any]:
        values = dict(zip(FIELDS, given, strict=True))
        updates: dict[Block, Any] = {form.fields[name]: values[name] for name in names}
        model_info = page.engine.models().get(chosen_name(values["model"]))
        # Another model brings its own size.
        if model_info is not None and values["model"] != form_model:
            updates |= {size: gr.update(**size_slider(model_info)) for size in sizes}
        updates |= {form.options: merged(form_options, options, values), form.revision: time.time()}
        return updates | {tabs: gr.Tabs(selected=form.mode)}

    outputs = [form.options, *(form.fields[name] for name in names), *sizes, form.revision, tabs]
    inputs = [view.options, form.options, form.fields["model"], *(view.fields[name] for name in FIELDS)]
    gather(reach(bench.content, use.click), copy, inputs, outputs, **QUIET)


def merged(form_options: Mapping[str, Any], options: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A form's options with those of the chosen sampler and schedule put in."""
    result = {kind: dict(kept) for kind, kept in form_options.items()}
    for kind, name in (("samplers", values["sampler"]), ("schedules", values["schedule"])):
        if isinstance(name, str) and name in options.get(kind, {}):
            result[kind][name] = options[kind][name]
    return result
