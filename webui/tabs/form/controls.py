"""The controls of a tab, as widgets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr

from samplers.registry import Registry
from webui.core.limits import MAX_CLIP_SKIP, MAX_GUIDANCE, MAX_SIGMA, SEEDS, sides
from webui.core.menus import sampler_choices, schedules_in_order
from webui.tabs.form.page_context import Page
from weights.catalog import ModelInfo

from .form import Form
from .form_state import FIELDS, fresh, recall_options
from .option_widgets import build_options, connect_options

FITS = [("Crop", "crop"), ("Pad", "pad"), ("Stretch", "stretch")]
MEANINGS = [("Share of the steps", "steps"), ("Noise level", "noise")]
EXAMPLES = (
    "red apple",
    "rocket",
    "cat face on a blue background",
    "sunflower",
    "blue whale",
    "birthday cake",
    "crescent moon",
    "octopus",
)


def build_prompt(mode: str) -> tuple[gr.Textbox, gr.HTML]:
    """The prompt and, below it, its tokens and examples that fill it with one click."""
    prompt = gr.Textbox(
        "",
        label="Prompt",
        placeholder="What do you want to see?",
        lines=2,
        max_lines=8,
        elem_id=f"{mode}-prompt",
        elem_classes="prompt",
    )
    tokens = gr.HTML(elem_id=f"{mode}-tokens", elem_classes="tokens-box")
    with gr.Row(elem_classes="examples"):
        for text in EXAMPLES:
            example = gr.Button(text, size="sm", elem_classes="chip", min_width=0, scale=0)
            # Filled in by the browser itself: nothing to ask the server.
            example.click(None, None, prompt, js=f"() => {text!r}", api_visibility="private")
    return prompt, tokens


def build_form(
    page: Page,
    mode: str,
    prompt: gr.Textbox,
    more: Mapping[str, gr.components.Component],
) -> Form:
    """The remaining controls of a tab, below one another; `more` are those that were built elsewhere."""
    engine, registry = page.engine, page.registry
    models = engine.models()
    found = next(iter(models.values()), None)
    start = fresh(registry, found)
    store = gr.State(recall_options(None, registry))
    revision, edits = (gr.Number(0, visible="hidden", elem_id=f"{mode}-{name}") for name in ("revision", "edits"))
    with gr.Column(elem_classes="card"):
        negative = gr.Textbox(
            "",
            label="Negative prompt",
            placeholder="What it should keep away from",
            lines=1,
            max_lines=6,
            elem_id=f"{mode}-negative",
        )
    with gr.Column(elem_classes="card"):
        sampler, schedule = build_menus(registry, mode, start["sampler"])
        note = gr.HTML(elem_id=f"{mode}-note")
        boxes = (
            build_options(mode, "samplers", registry.samplers, sampler),
            build_options(mode, "schedules", registry.schedules, schedule),
        )
        connect_options(boxes, store, revision, edits)
        with gr.Row():
            steps = gr.Number(
                start["steps"],
                label="Steps",
                precision=0,
                minimum=1,
                maximum=engine.limits.steps,
                elem_id=f"{mode}-steps",
                min_width=90,
                interactive=True,
            )
            guidance = gr.Slider(
                0,
                MAX_GUIDANCE,
                value=start["guidance"],
                step=0.1,
                label="Guidance scale",
                elem_id=f"{mode}-guidance",
                min_width=180,
                scale=2,
                interactive=True,
            )
        conditioning = _build_conditioning(mode)
        plan = gr.HTML(elem_id=f"{mode}-plan")
    with gr.Column(elem_classes="card"):
        with gr.Row():
            width = gr.Slider(**side(found), label="Width", elem_id=f"{mode}-width", min_width=130, interactive=True)
            height = gr.Slider(**side(found), label="Height", elem_id=f"{mode}-height", min_width=130, interactive=True)
        with gr.Row():
            count = gr.Number(
                1,
                label="Pictures",
                precision=0,
                minimum=1,
                maximum=engine.limits.count,
                elem_id=f"{mode}-count",
                min_width=90,
                interactive=True,
            )
            seed = gr.Number(
                0,
                label="Seed",
                precision=0,
                minimum=0,
                maximum=SEEDS - 1,
                elem_id=f"{mode}-seed",
                min_width=140,
                scale=2,
                interactive=True,
            )
        random_seed = gr.Checkbox(
            True,
            label="A new seed each time",
            info="The seed that was used is shown above; untick to keep it.",
            elem_id=f"{mode}-random",
            interactive=True,
        )
    with gr.Column(elem_classes="card"):
        model = gr.Dropdown(
            list(models), value=start["model"] or None, label="Model", elem_id=f"{mode}-model", interactive=True
        )
        model_note = gr.HTML(elem_id=f"{mode}-model-note")
    fields = dict(
        zip(
            FIELDS,
            (
                *(prompt, negative, model, sampler, schedule, steps, guidance),
                *(width, height, seed, random_seed, count, *conditioning),
            ),
            strict=True,
        )
    )
    return Form(mode, fields | dict(more), store, boxes, revision, edits, note, plan, model_note)


def _build_conditioning(mode: str) -> tuple[gr.components.Component, ...]:
    """What few change about prompt and guidance, folded: clip skip, rescale, and the interval's two ends."""
    with gr.Accordion("More about prompt and guidance", open=False, elem_id=f"{mode}-more", elem_classes="more"):
        with gr.Row():
            clip_skip = gr.Number(
                1,
                label="Clip skip",
                info="1 is the text encoder's last layer",
                precision=0,
                minimum=1,
                maximum=MAX_CLIP_SKIP,
                elem_id=f"{mode}-clip-skip",
                min_width=120,
                interactive=True,
            )
            rescale = gr.Slider(
                0,
                1,
                value=0,
                step=0.05,
                label="Guidance rescale",
                info="Against over-exposure; 0 is off",
                elem_id=f"{mode}-rescale",
                min_width=160,
                scale=2,
                interactive=True,
            )
        return clip_skip, rescale, *build_interval(mode)


def build_menus(registry: Registry, mode: str, sampler: str) -> tuple[gr.Dropdown, gr.Dropdown]:
    """The menus of samplers and schedules side by side, `sampler` and the model's own schedule chosen."""
    menus = {
        "sampler": (sampler_choices(registry.samplers), sampler),
        "schedule": (schedule_choices(registry.schedules), ""),
    }
    with gr.Row():
        first, second = (
            gr.Dropdown(
                choices,
                value=value,
                label=name.capitalize(),
                elem_id=f"{mode}-{name}",
                interactive=True,
                min_width=120,
            )
            for name, (choices, value) in menus.items()
        )
    return first, second


def schedule_update(own_grid: bool) -> gr.Dropdown:
    """The menu of schedules for a sampler: of no use where it makes its own steps."""
    info = "This sampler makes its own steps." if own_grid else None
    # gr.update would leave out None: the words would stay when another sampler is chosen.
    return gr.Dropdown(interactive=not own_grid, info=info)


def build_interval(mode: str) -> tuple[gr.Number, gr.Number]:
    """The two ends of the sigmas in which guidance acts, side by side."""
    ends = (
        ("low", "Guide above sigma", "Below it, no guidance"),
        ("high", "Guide up to sigma", "0 is no upper end"),
    )
    with gr.Row():
        low, high = (
            gr.Number(
                0,
                label=label,
                info=info,
                minimum=0,
                maximum=MAX_SIGMA,
                elem_id=f"{mode}-guidance-{end}",
                min_width=120,
                interactive=True,
            )
            for end, label, info in ends
        )
    return low, high


def schedule_choices(schedules: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The menu of schedules, the model's own first; what that is says the note about the run."""
    return [("Model's own", ""), *((name, name) for name in schedules_in_order(schedules))]


def side(found: ModelInfo | None) -> dict[str, int]:
    """Range, step and default of a side in pixels, as the model can make it."""
    if found is None:
        return dict(minimum=8, maximum=1024, step=8, value=64)
    smallest, largest, step = sides(found)
    return dict(minimum=smallest, maximum=largest, step=step, value=found.defaults.size)
