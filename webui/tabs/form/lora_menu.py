"""The menu of LoRAs below a prompt, which writes `<lora:name:0.8>` into it, and the settings of distilled ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from webui.core.distilled_loras import few_steps_in
from webui.core.menus import chosen_name
from webui.gradio_ext.gradio_events import QUIET, Updates, gather, on_change
from webui.tabs.form.page_context import Page
from weights.extra_networks import ExtraNetworks
from weights.model_info import ModelInfo

from .apply_settings import fill
from .form import Form
from .form_events import refilled

# A name stands in the prompt once: choosing it again changes its strength.
INSERT = """(prompt, name, strength) => {
    if (!name) return prompt;
    const others = (prompt || "").replaceAll(
        /\\s*<lora:([^:<>]*)[^<>]*>/g, (tag, other) => other.trim() === name ? "" : tag);
    return `${others.trimEnd()} <lora:${name}:${strength ?? 1}>`.trimStart();
}"""


@dataclass(frozen=True, eq=False)
class LoraMenu:
    """The menu, and a button that takes over the settings that a LoRA in the prompt, or the model, is made for."""

    menu: gr.Dropdown
    few_steps: gr.Button


def build_lora_menu(mode: str, prompt: gr.Textbox, extra: ExtraNetworks) -> LoraMenu:
    """A folded menu of the LoRAs and a strength, and a button that puts both into the prompt."""
    with gr.Accordion("LoRA", open=False, elem_id=f"{mode}-loras", elem_classes=["card", "expert", "more"]), gr.Row():
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
    return LoraMenu(menu, gr.Button("", size="sm", visible=False, elem_id=f"{mode}-few-steps"))


def few_steps_button(prompt: str, model: ModelInfo | None = None) -> dict[str, Any]:
    """An update of the button: hidden unless a prompt names a LoRA that is made for few steps, or the model is."""
    found = few_steps_in(prompt, model)
    return gr.update(visible=found is not None, value=f"Use {found}" if found else "")


def connect_lora_menu(page: Page, form: Form, loras: LoraMenu) -> None:
    """Read the menu anew when the page is opened or a model has been; take over settings."""

    def refresh() -> dict[str, Any]:
        return gr.update(choices=names(page.engine.extra))

    def take_over(prompt: str, model: str, kept: Any) -> Updates:
        found = few_steps_in(prompt or "", page.engine.models().get(chosen_name(model)))
        return fill(page, form, kept, found.fields)[0] if found else gr.skip()

    on_change([form.revision, page.status], refresh, None, loras.menu, since=form.revision, **QUIET)
    given = [form.fields["prompt"], form.fields["model"], page.kept[form.mode]]
    gather(loras.few_steps.click, take_over, given, refilled(form), **QUIET)


def names(extra: ExtraNetworks) -> list[str]:
    """The names of the LoRAs that can be used."""
    return [name for name, file in extra.loras().items() if not file.problem]
