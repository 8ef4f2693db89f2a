"""The form that the Lab's tools share; with an input picture it makes an img2img request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr

from webui.core.request import Request
from webui.tabs.form.controls import build_form, build_input, build_prompt
from webui.tabs.form.form import Form, to_request
from webui.tabs.form.form_events import connect_form
from webui.tabs.form.model_events import connect_model
from webui.tabs.form.page_context import Page

MODE = "lab"


@dataclass(frozen=True, eq=False)
class LabForm:
    """The form and the box around it, which is hidden for tools that do not use it."""

    form: Form
    box: gr.Column


def build_settings(page: Page) -> LabForm:
    """The prompt, and all else folded away."""
    with gr.Column(elem_classes="lab-settings", elem_id="lab-settings") as box:
        prompt, tokens = build_prompt(MODE)
        with gr.Accordion("Settings of the run", open=False, elem_id="lab-more"):
            with gr.Column(elem_classes="lab-form"):
                more = _picture()
                form = build_form(page, MODE, prompt, more)
    connect_form(page, form)
    connect_model(page, form, tokens)
    return LabForm(form, box)


def _picture() -> dict[str, gr.components.Component]:
    with gr.Column(elem_classes="card"):
        image = gr.Image(
            type="filepath",
            image_mode=None,
            sources=["upload", "clipboard"],
            label="Input picture, for img2img",
            height=150,
            elem_id="lab-image",
            interactive=True,
            buttons=[],
        )
    return {"image": image, **build_input(MODE, info="Counts only with an input picture.")}


def request_of(form: Form, given: Any) -> tuple[Request, Mapping[str, Any]]:
    """The request for one picture from the form's values, and every sampler's and schedule's options.

    Raises RequestError.
    """
    values = form.values(given) | {"count": 1}
    return to_request("img2img" if values.get("image") else "txt2img", values), values["options"]
