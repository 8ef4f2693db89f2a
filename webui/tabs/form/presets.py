"""Presets and prompt styles below a prompt: choose them, keep the form's own, import those of other programs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from webui.core.fields import fields_of, upload_fields
from webui.core.menus import chosen_name
from webui.core.request import Request, RequestError, sift
from webui.core.settings_folder import PRESETS, STYLES, SettingsFolder
from webui.core.styles import Style, keep_styles, read_style, read_styles
from webui.gradio_ext.files import uploaded
from webui.gradio_ext.gradio_events import QUIET, RAW, Updates, gather, on_change, on_choice
from webui.tabs.form.page_context import Page

from .apply_settings import fill
from .controls import build_control, small_button
from .describe import line, problem
from .form import Form, to_request
from .form_events import refilled

# What a preset leaves as it is: what is drawn, and what tells one picture from another.
NOT_IN_PRESETS = ("mode", "prompt", "negative_prompt", "seed", "variation_seed", "count", *upload_fields(Request))
HOW = "{prompt} in a style is the place of the prompt; without it the words stand behind the prompt."


@dataclass(frozen=True)
class PresetPanel:
    """The folded controls; `styles` is the control of the request's field."""

    styles: gr.Dropdown
    preset: gr.Dropdown
    name: gr.Textbox
    keep_preset: gr.Button
    keep_style: gr.Button
    drop_preset: gr.Button
    drop_style: gr.Button
    upload: gr.UploadButton
    said: gr.HTML


def build_presets(page: Page, mode: str) -> PresetPanel:
    """Build the panel, folded."""

    def button(label: str, name: str) -> gr.Button:
        return small_button(label, f"{mode}-{name}")

    with gr.Accordion("Styles and presets", open=False, elem_id=f"{mode}-presets", elem_classes=["card", "more"]):
        names = list(page.engine.styles())
        styles = build_control(
            fields_of(Request)["styles"], mode, choices=names, multiselect=True, value=[], max_choices=16
        )
        assert isinstance(styles, gr.Dropdown)
        preset = gr.Dropdown(
            list(kept_presets(page)),
            value=None,
            label="Preset",
            info="Settings that are kept by name; prompt and seed stay",
            elem_id=f"{mode}-preset",
            interactive=True,
        )
        name = gr.Textbox(
            label="Keep under a name",
            info=f"The prompts as a style, or all other settings as a preset. {HOW}",
            max_lines=1,
            elem_id=f"{mode}-keep-name",
        )
        with gr.Row(elem_classes="small-buttons"):
            keep_style, keep_preset = button("Keep style", "keep-style"), button("Keep preset", "keep-preset")
            drop_style, drop_preset = button("Delete style", "drop-style"), button("Delete preset", "drop-preset")
            upload = gr.UploadButton(
                "Import styles.csv",
                size="sm",
                scale=0,
                min_width=0,
                file_types=[".csv", ".json"],
                elem_id=f"{mode}-import-styles",
            )
        said = gr.HTML(elem_id=f"{mode}-presets-note")
    return PresetPanel(styles, preset, name, keep_preset, keep_style, drop_preset, drop_style, upload, said)


def connect_presets(page: Page, form: Form, panel: PresetPanel) -> None:
    """Wire the panel."""
    menus = [panel.styles, panel.preset]

    def listed() -> Updates:
        return {
            panel.styles: gr.update(choices=list(page.engine.styles())),
            panel.preset: gr.update(choices=list(kept_presets(page))),
        }

    def told(change: Callable[..., str]) -> Callable[..., Updates]:
        def answer(*given: Any) -> Updates:
            try:
                check_may_keep(page)
                text = change(*given)
            except RequestError as error:
                return {panel.said: problem(str(error))}
            return listed() | {panel.said: line(text)}

        return answer

    def keep_style(name: Any, prompt: Any, negative: Any) -> str:
        keep_styles(page.engine.outputs, [style_of(name, prompt, negative)])
        return f"The prompts are kept as the style {str(name).strip()}."

    def keep_preset(name: Any, *given: Any) -> str:
        title = str(name or "").strip()
        folder(page, PRESETS).save(title, preset_of(to_request(form.mode, form.values(given) | without_uploads())))
        return f"The settings are kept as the preset {title}."

    def drop(kind: str, name: Any) -> str:
        title = str(name or "").strip()
        folder(page, kind).delete(title)
        return f"{title} is deleted."

    def take(file: Any) -> str:
        path = uploaded(file)
        styles = read_styles(path, Path(str(file.get("orig_name") or path.name)).name)
        keep_styles(page.engine.outputs, styles)
        return f"{len(styles)} style{'s' if len(styles) != 1 else ''} imported."

    def use(name: Any, kept: Any) -> Updates:
        found = kept_presets(page).get(chosen_name(name))
        if found is None:
            return {panel.said: problem(f"The preset {name} is no longer there.")}
        fields, problems = sift({key: value for key, value in found.items() if key not in NOT_IN_PRESETS})
        updates, notes = fill(page, form, kept, fields)
        wrong = [*(text for key, text in problems.items() if key != "name"), *notes]
        said = problem(" ".join(wrong)) if wrong else line(f"The settings of {name} are in the form.")
        return updates | {panel.said: said, panel.name: name}

    changed = [*menus, panel.said]
    prompts = [form.fields[name] for name in ("prompt", "negative_prompt")]
    panel.keep_style.click(told(keep_style), [panel.name, *prompts], changed, **QUIET)
    gather(panel.keep_preset.click, told(keep_preset), [panel.name, *form.inputs], changed, **QUIET)
    panel.drop_style.click(told(lambda name: drop(STYLES, name)), panel.name, changed, **QUIET)
    panel.drop_preset.click(told(lambda name: drop(PRESETS, name)), panel.name, changed, **QUIET)
    panel.upload.upload(told(take), panel.upload, changed, **QUIET, **RAW)
    outputs = [*refilled(form), panel.said, panel.name]
    on_choice(panel.preset, use, [panel.preset, page.kept[form.mode]], outputs, **QUIET)
    # Kept in the other tab, or by hand in a file.
    on_change([form.revision], listed, None, menus, **QUIET)


def folder(page: Page, kind: str) -> SettingsFolder:
    """The settings of a kind of whoever asks."""
    return SettingsFolder(page.engine.outputs, kind)


def kept_presets(page: Page) -> dict[str, dict[str, Any]]:
    """The presets of whoever asks, by name."""
    return folder(page, PRESETS).all()


def check_may_keep(page: Page) -> None:
    """Raises RequestError where what a visitor keeps would be everybody's."""
    settings = page.engine.settings
    if settings.public and not settings.auth_file:
        raise RequestError(
            "Styles and presets of a shared page without accounts are its owner's; they stay as they are."
        )


def style_of(name: Any, prompt: Any, negative: Any) -> Style:
    """The prompts of a form as a style. Raises RequestError if there is nothing to keep."""
    style = read_style({"prompt": prompt or "", "negative_prompt": negative or ""}, str(name or "").strip())
    if style is None:
        raise RequestError("There is nothing to keep: write the words of the style into the prompt.")
    return style


def preset_of(request: Request) -> dict[str, Any]:
    """The settings of a request that a preset has."""
    return {name: value for name, value in request.to_json().items() if name not in NOT_IN_PRESETS}


def without_uploads() -> dict[str, None]:
    """The uploads of a form, none of them there."""
    return {name: None for name in upload_fields(Request)}
