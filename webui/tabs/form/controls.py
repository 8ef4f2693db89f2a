"""The controls of a form: each built from the description of its field in `webui.core.request`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from samplers.registry import Registry
from webui.core.fields import Group, RequestField, fields_of
from webui.core.plugin_fields import GUIDANCE
from webui.core.request import Request
from webui.core.upscale_request import pixel_upscalers
from webui.gradio_ext.gradio_events import signal
from webui.gradio_ext.option_rows import connect_options
from webui.tabs.form.page_context import Page
from webui.templates import render
from weights.model_info import ModelInfo

from .card_view import chips
from .describe import note
from .form import Form
from .form_state import fresh, recall_options
from .plugin_menus import build_plugin_options, build_sampler_menu, build_schedule_menu, plugin_choices
from .size_controls import size_slider, sizes_html


def build_control(field: RequestField, mode: str, **changes: Any) -> Component:
    """The widget of a field: a number box, slider, radio, checkbox or text box.

    changes  arguments of the widget that differ from the description here
    """
    arguments: dict[str, Any] = dict(
        value=field.default,
        label=field.setting.label,
        info=field.setting.help or None,
        elem_id=f"{mode}-{field.name.replace('_', '-')}",
        interactive=True,
    )
    if "choices" in changes:
        return gr.Dropdown(**arguments | changes)
    if field.values:
        return gr.Radio(field.choices, **arguments | dict(min_width=180) | changes)
    if field.kind is bool:
        return gr.Checkbox(**arguments | changes)
    if field.kind in (str, tuple):
        return gr.Textbox(**arguments | dict(value=as_text(field.default)) | changes)
    arguments |= dict(minimum=field.low, maximum=field.high, min_width=120)
    step = changes.get("step", field.setting.step)
    if step:
        return gr.Slider(**arguments | dict(step=step) | changes)
    return gr.Number(**arguments | dict(precision=0 if field.kind is int else None) | changes)


def as_text(value: Any) -> Any:
    """The value of a text box: several numbers as "0, 0, 64, 0"."""
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else value


def shown_value(control: Component, value: Any) -> Any:
    """The value of a field as its widget takes it."""
    if isinstance(control, gr.Textbox):
        return as_text(value)
    # A menu would take a tuple for one name.
    return list(value) if isinstance(value, tuple) else value


def build_group(
    mode: str, group: Group, schema: type[Request] = Request, **changes: Mapping[str, Any]
) -> dict[str, Component]:
    """The widgets of a group side by side, by field; those with `changes`, by field too, come first."""
    fields = {name: field for name, field in fields_of(schema).items() if field.setting.group == group}
    with gr.Row():
        wide = {name: {"scale": 2} if field.setting.step else {} for name, field in fields.items()}
        order = {**changes, **fields}
        return {name: build_control(fields[name], mode, **{**wide[name], **changes.get(name, {})}) for name in order}


@dataclass(frozen=True, eq=False)
class PromptBox:
    """The prompt, what is said of its words, and the chips that write it."""

    prompt: gr.Textbox
    words: gr.HTML
    chips: gr.HTML


def build_prompt(mode: str, info: ModelInfo | None) -> PromptBox:
    """The prompt of a tab and, below it, its tokens and words and the chips of a model."""
    field = fields_of(Request)["prompt"]
    prompt = build_control(
        field, mode, placeholder="What do you want to see?", lines=2, max_lines=8, elem_classes="prompt"
    )
    words = gr.HTML(elem_id=f"{mode}-tokens", elem_classes="tokens-box")
    return PromptBox(prompt, words, gr.HTML(chips(mode, info), elem_id=f"{mode}-chips"))


def build_input(mode: str, schema: type[Request] = Request, **strength: Any) -> dict[str, Component]:
    """The controls that count with an input picture; `strength` is changed in its widget."""
    amount = build_control(fields_of(schema)["strength"], mode, **strength)
    return {"strength": amount, **build_group(mode, "input", schema)}


def build_inpaint(mode: str, schema: type[Request] = Request) -> dict[str, Component]:
    """The controls that count with a mask or with new sides."""
    return build_group(mode, "inpaint", schema)


def upscaler_choices(names: Sequence[str]) -> list[tuple[str, str]]:
    """The menu of upscalers, the default first."""
    return [("Default", ""), *((name, name) for name in names)]


def other_models(field: str, names: Iterable[str]) -> list[tuple[str, str]]:
    """The menu of a field that may name another model than the form's own; without one first."""
    return [({"hires_model": "As above"}.get(field, "None"), ""), *((name, name) for name in names)]


def build_hires(page: Page, mode: str, schema: type[Request] = Request, of_sizes: bool = True) -> dict[str, Component]:
    """The folded controls of a second pass that enlarges the picture; `of_sizes`: with the menu of upscalers."""
    most_steps, choices = page.engine.limits.steps, plugin_choices(page.registry)
    choices |= {"hires_model": other_models("hires_model", page.engine.models())}
    names = ("hires_sampler", "hires_schedule", "hires_model")
    menus = {name: dict(choices=choices[name], min_width=120) for name in names}
    with gr.Accordion("Hires fix", open=False, elem_id=f"{mode}-hires", elem_classes="more"):
        gr.HTML(note("A second pass enlarges the picture and draws its details anew; at 1 it keeps the size."))
        first = dict(hires_scale={}, hires_strength={}, hires_strength_as={}, hires_steps=dict(maximum=most_steps))
        menu = {"upscaler": _upscaler_menu(mode, schema, page.engine.upscalers())} if of_sizes else {}
        return build_group(mode, "hires", schema, **first, **menus) | menu


def build_refiner(page: Page, mode: str, schema: type[Request] = Request) -> dict[str, Component]:
    """The folded controls of a model that draws the last steps."""
    with gr.Accordion("Refiner", open=False, elem_id=f"{mode}-refine", elem_classes="more"):
        # So wide that they stand below each other in the narrow column.
        menu = dict(choices=other_models("refiner", page.engine.models()), min_width=260)
        return build_group(mode, "refiner", schema, refiner=menu, refiner_switch=dict(min_width=260))


def build_tiles(page: Page, mode: str, schema: type[Request] = Request) -> dict[str, Component]:
    """The folded controls of a picture that is drawn in tiles."""
    with gr.Accordion("Enlarge and draw in tiles", open=False, elem_id=f"{mode}-tiles", elem_classes="more"):
        gr.HTML(note("Adds detail to a picture that is larger than the model makes, at a low strength."))
        controls = build_group(mode, "tiles", schema)
        return controls | {"upscaler": _upscaler_menu(mode, schema, pixel_upscalers(page.engine.upscalers()))}


def _upscaler_menu(mode: str, schema: type[Request], names: Sequence[str]) -> Component:
    return build_control(fields_of(schema)["upscaler"], mode, choices=upscaler_choices(names), min_width=120)


def build_form(
    page: Page,
    mode: str,
    prompt: Component,
    more: Mapping[str, Component],
    schema: type[Request] = Request,
) -> Form:
    """The remaining controls of a tab, below one another; `more` are those that were built elsewhere."""
    engine, registry, fields = page.engine, page.registry, fields_of(schema)
    info = page.first_model
    start = fresh(registry, info, schema)
    store, sizes = gr.State(recall_options(None, registry)), gr.State({})
    revision, edits = (signal(name=f"{mode}-{name}") for name in ("revision", "edits"))
    controls: dict[str, Component] = {"prompt": prompt}
    with page.model_place():
        controls["model"] = build_model_menu(page, mode, start["model"])
    with gr.Column(elem_classes="card"):
        controls["sampler"] = sampler = build_sampler_menu(registry, mode, start["sampler"])
        note = gr.HTML(elem_id=f"{mode}-note")
        controls |= build_group(
            mode,
            "method",
            schema,
            steps=dict(value=start["steps"], maximum=engine.limits.steps, min_width=80),
            guidance=dict(value=start["guidance"], min_width=180),
        )
        with gr.Row(elem_classes="seeds"):
            controls |= build_group(
                mode,
                "seed",
                schema,
                count=dict(maximum=engine.limits.count, min_width=64),
                seed=dict(value=start["seed"], minimum=0, min_width=110, scale=2),
            )
            controls["random_seed"] = gr.Checkbox(
                start["random_seed"],
                label="New each time",
                elem_id=f"{mode}-random",
                elem_classes="lock",
                container=False,
                min_width=100,
                interactive=True,
            )
        shapes = gr.HTML(sizes_html(mode, info, start.get("width"), start.get("height")), elem_id=f"{mode}-shapes")
        plan = gr.HTML(elem_id=f"{mode}-plan")
    # The Lab's settings are folded already, all together.
    if mode != "lab":
        gr.HTML(render("form", "expert_button"), elem_classes="expert-button")
    # Folded by its style: what Gradio folds is not there for settings that come from a picture or a link.
    with gr.Column(elem_id=f"{mode}-expert", elem_classes=["card", *["expert"] * (mode != "lab")]):
        controls["negative_prompt"] = build_control(
            fields["negative_prompt"],
            mode,
            placeholder="What it should keep away from",
            lines=1,
            max_lines=6,
            elem_id=f"{mode}-negative",
        )
        controls["schedule"] = schedule = build_schedule_menu(registry, mode, start["schedule"])
        boxes = [
            build_plugin_options(page, mode, "samplers", sampler),
            build_plugin_options(page, mode, "schedules", schedule),
        ]
        controls |= build_group(mode, "size", schema, width=size_slider(info), height=size_slider(info))
        more_label = "More about prompt and guidance"
        with gr.Accordion(more_label, open=False, elem_id=f"{mode}-more", elem_classes="more"):
            method = build_guidance_menu(registry, mode)
            boxes.append(build_plugin_options(page, mode, GUIDANCE.kind, method))
            controls[GUIDANCE.name] = method
            controls |= build_group(mode, "conditioning", schema) | build_group(mode, "interval", schema)
        connect_options(boxes, store, revision, edits)
        if mode == "txt2img":
            controls |= build_hires(page, mode, schema)
        if mode != "lab":
            controls |= build_refiner(page, mode, schema)
            with gr.Accordion("Variations of a seed", open=False, elem_id=f"{mode}-variation", elem_classes="more"):
                controls |= build_group(mode, "variation", schema)
    model_note = gr.HTML(elem_id=f"{mode}-model-note")
    return Form(mode, controls | dict(more), store, boxes, revision, edits, sizes, shapes, note, plan, model_note)


def build_model_menu(page: Page, mode: str, model: str) -> gr.Dropdown:
    """The menu of models, `model` chosen."""
    return gr.Dropdown(
        list(page.engine.models()),
        value=model or None,
        label=fields_of(Request)["model"].setting.label,
        elem_id=f"{mode}-model",
        elem_classes=["models", f"models-{mode}"],
        min_width=150,
        scale=0,
        interactive=True,
    )


def build_guidance_menu(registry: Registry, mode: str) -> gr.Dropdown:
    """The menu of guidances, the usual one chosen."""
    menu = build_control(fields_of(Request)[GUIDANCE.name], mode, choices=plugin_choices(registry)[GUIDANCE.name])
    assert isinstance(menu, gr.Dropdown)
    return menu


def build_upload(elem_id: str, label: str, height: int, *, clipboard: bool = True, **looks: Any) -> gr.Image:
    """A picture to upload. Its file is not decoded, since its settings are in its bytes."""
    return gr.Image(
        type="filepath",
        image_mode=None,
        sources=["upload", "clipboard"] if clipboard else ["upload"],
        label=label,
        height=height,
        elem_id=elem_id,
        elem_classes="dropped",
        interactive=True,
        buttons=[],
        **looks,
    )


def build_gallery(elem_id: str, style: str, columns: int, buttons: Sequence[Any] = (), **looks: Any) -> gr.Gallery:
    """Pictures to look at, hidden until there are some; `style` is the class of their look in style.css."""
    return gr.Gallery(
        visible=False,
        show_label=False,
        type="filepath",
        columns=columns,
        object_fit="contain",
        height="auto",
        interactive=False,
        buttons=list(buttons),
        elem_id=elem_id,
        elem_classes=style,
        **looks,
    )


def small_button(text: str, elem_id: str, min_width: int = 0, visible: bool = True) -> gr.Button:
    """A button in a row of small ones."""
    return gr.Button(text, size="sm", scale=0, min_width=min_width, visible=visible, elem_id=elem_id)
