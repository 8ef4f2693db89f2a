"""The menu of LoRAs below a prompt, which writes `<lora:name:0.8>` into it."""

from __future__ import annotations

from typing import Any

import gradio as gr

from webui.gradio_ext.gradio_events import QUIET, RAW, on_change
from webui.tabs.form.page_context import Page
from weights.extra_networks import ExtraNetworks

from .form import Form

# A name stands in the prompt once: choosing it again changes its strength.
INSERT = """(prompt, name, strength) => {
    if (!name) return prompt;
    const others = (prompt || "").replaceAll(
        /\\s*<lora:([^:<>]*)[^<>]*>/g, (tag, other) => other.trim() === name ? "" : tag);
    return `${others.trimEnd()} <lora:${name}:${strength ?? 1}>`.trimStart();
}"""


def build_lora_menu(mode: str, prompt: gr.Textbox, extra: ExtraNetworks) -> gr.Dropdown:
    """A folded menu of the LoRAs and a strength, and a button that puts both into the prompt."""
    with gr.Accordion("LoRA", open=False, elem_id=f"{mode}-loras", elem_classes="more"), gr.Row():
        menu = gr.Dropdown(
            names(extra),
            value=None,
            label="LoRA",
            info="from weights/loras/",
            elem_id=f"{mode}-lora",
            interactive=True,
            min_width=140,
            scale=2,
        )
        strength = gr.Slider(
            -1, 2, 0.8, step=0.05, label="Strength", elem_id=f"{mode}-lora-strength", interactive=True, min_width=120
        )
        add = gr.Button("Into the prompt", size="sm", elem_id=f"{mode}-lora-add", min_width=90, scale=1)
    add.click(None, [prompt, menu, strength], prompt, js=INSERT, api_visibility="private")
    return menu


def connect_lora_menu(page: Page, form: Form, menu: gr.Dropdown) -> None:
    """Read the menu anew when the page is opened or a model has been."""

    def refresh() -> dict[str, Any]:
        return gr.update(choices=names(page.engine.extra))

    on_change([form.revision, page.status], refresh, None, menu, **QUIET, **RAW)


def names(extra: ExtraNetworks) -> list[str]:
    """The names of the LoRAs that can be used."""
    return [name for name, file in extra.loras().items() if not file.problem]
