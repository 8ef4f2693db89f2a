"""The form that the Lab's tools share; with an input picture it makes an img2img request."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gradio as gr

from webui.core.menus import in_order, schedules_in_order
from webui.core.request import Request
from webui.gradio_ext.gradio_events import QUIET
from webui.tabs.form.controls import build_form, build_input, build_prompt, build_upload
from webui.tabs.form.form import Form, to_request
from webui.tabs.form.form_events import connect_form
from webui.tabs.form.model_events import connect_model
from webui.tabs.form.page_context import Page

MODE = "lab"


def build_settings(page: Page) -> Form:
    """Build the prompt and, folded, all other settings."""
    with gr.Column(elem_classes="lab-settings", elem_id="lab-settings"):
        prompt = build_prompt(MODE, page.first_model)
        with gr.Accordion("Settings of the run", open=False, elem_id="lab-more"):
            with gr.Column(elem_classes="lab-form"):
                more = _picture()
                form = build_form(page, MODE, prompt.prompt, more)
    connect_form(page, form)
    connect_model(page, form, prompt)
    return form


def _picture() -> dict[str, gr.components.Component]:
    with gr.Column(elem_classes="card"):
        image = build_upload("lab-image", "Input picture, for img2img", 150)
    return {"image": image, **build_input(MODE, info="Counts only with an input picture.")}


def build_samplers(page: Page, tool: str, defaults: Sequence[str]) -> gr.Dropdown:
    """The menu of the samplers that a tool compares."""
    names = in_order(page.registry.samplers)
    menu = gr.Dropdown(
        names,
        value=[name for name in defaults if name in names],
        multiselect=True,
        label="Samplers",
        elem_id=f"{tool}-samplers",
        interactive=True,
    )
    _follow_plugins(page, menu, lambda: in_order(page.registry.samplers))
    return menu


def build_schedule(page: Page, tool: str, default: str, info: str | None = None) -> gr.Dropdown:
    """The menu of a tool's schedule."""
    names = schedules_in_order(page.registry.schedules)
    menu = gr.Dropdown(
        names,
        value=default if default in names else next(iter(names), None),
        label="Schedule",
        info=info,
        elem_id=f"{tool}-schedule",
        interactive=True,
    )
    _follow_plugins(page, menu, lambda: schedules_in_order(page.registry.schedules))
    return menu


def _follow_plugins(page: Page, menu: gr.Dropdown, names: Callable[[], Sequence[str]]) -> None:
    """Fill a menu anew when plugins have been loaded anew; what is chosen stays."""
    page.plugins.change(lambda: gr.update(choices=[(name, name) for name in names()]), None, menu, **QUIET)


def request_of(form: Form, given: Any) -> tuple[Request, Mapping[str, Any]]:
    """The request for one picture from the form's values, and every sampler's and schedule's options.

    Raises RequestError.
    """
    values = form.values(given) | {"count": 1}
    return to_request("img2img" if values.get("image") else "txt2img", values), values["options"]
