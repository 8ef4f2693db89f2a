"""Copy a form's settings as an address, and fill the form from the address when a page is opened."""

from __future__ import annotations

from typing import Any

import gradio as gr

from webui.core.fields import fields_of
from webui.core.links import from_query, to_query
from webui.core.plugin_fields import PLUGIN_FIELDS, PluginField
from webui.core.request import Request, RequestError
from webui.gradio_ext.gradio_events import QUIET, Updates, gather
from webui.tabs.form.page_context import Page

from .apply_settings import fill
from .describe import line, problem
from .form import to_request
from .form_events import refilled, restore
from .result_panel import chosen_of
from .workbench import Workbench


def connect_link(page: Page, bench: Workbench) -> None:
    """Wire the button that copies a form's settings as a link."""
    form, query = bench.form, gr.Textbox(visible=False, container=False)

    def write(made: list[tuple[str, int]], chosen: int, *given: Any) -> Updates:
        try:
            request, picture = to_request(form.mode, form.values(given)), chosen_of(made, chosen)
            if request.seed == -1 and picture:
                # Whoever sends a link while looking at a picture means that one.
                request = request.model_copy(update={"seed": picture[1]})
            return {query: to_query(shortened(page, request))}
        except RequestError as error:
            return {query: "", bench.result.message: problem(f"No link was made. {error}")}

    inputs = [bench.result.made, bench.result.chosen, *form.inputs]
    written = gather(bench.link.click, write, inputs, [query, bench.result.message], **QUIET)
    written.then(None, [query], None, js=f"(query) => window.sigmalab.hold(query, '{form.mode}')", **QUIET)


def shortened(page: Page, request: Request) -> Request:
    """The request without the options that have their defaults: a link leaves them out."""

    def changed(entry: Any, options: Any) -> dict[str, Any]:
        usual = {option.name: option.default for option in entry.item.options} if entry else {}
        return {name: value for name, value in options.items() if name not in usual or value != usual[name]}

    def short(each: PluginField) -> dict[str, Any]:
        return changed(each.entries(page.registry).get(getattr(request, each.name)), getattr(request, each.options))

    return request.model_copy(update={each.options: short(each) for each in PLUGIN_FIELDS})


def open_form(page: Page, bench: Workbench, saved: Any, query: str) -> Updates:
    """Updates for `open_outputs`: the form as the browser kept it, or as the link has it if it is for this form."""
    form = bench.form
    fields, problems = from_query(query) if isinstance(query, str) else ({}, {})
    mode = fields.get("mode", "txt2img")
    if not (fields or problems) or mode != form.mode:
        return restore(page, form, saved)
    missing = {name: text for name in fields if fields[name] and (text := _unknown(page, name, fields[name]))}
    fields = {name: value for name, value in fields.items() if name not in missing}
    # A field that the link leaves out gets its default; one that is wrong there stays as the form has it.
    usual = {
        name: field.default for name, field in fields_of(Request).items() if name not in ("image", "model", *problems)
    }
    updates, notes = fill(page, form, saved, usual | fields, missing)
    said = [*missing.values(), *problems.values(), *notes]
    told = problem(" ".join(said)) if said else line("The settings of the link are in the form.")
    return updates | {bench.result.message: told}


def open_outputs(bench: Workbench) -> list[gr.components.Component]:
    """The outputs of `open_form`."""
    return [*refilled(bench.form), bench.result.message]


def mode_of(query: str, modes: list[str]) -> str | None:
    """The tab that a link is for; None if it holds no settings."""
    fields, problems = from_query(query) if isinstance(query, str) else ({}, {})
    mode = fields.get("mode", "txt2img")
    return mode if (fields or problems) and mode in modes else None


def _unknown(page: Page, field: str, name: Any) -> str:
    """Why a plugin or model of a link cannot be chosen; "" if it can, and for any other field."""
    nouns = {each.name: (each.noun, each.entries(page.registry)) for each in PLUGIN_FIELDS}
    noun, known = {**nouns, "model": ("model", page.engine.models())}.get(field, ("", (name,)))
    return "" if name in known else f"Unknown {noun} {name!r}; known are {', '.join(known)}."
