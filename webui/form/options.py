"""The widgets of the options that the chosen sampler and schedule declare; their values outlive each choice."""

from __future__ import annotations

import time
from html import escape
from typing import Any

import gradio as gr

from samplers.options import Option

from ..shared import QUIET, RAW, Page

FEW = 200  # whole numbers up to this many get a slider
WIDE = 1000  # a range this much wider than its low end is no use on a linear slider


def build_options(
    page: Page, kind: str, choice: gr.Dropdown, store: gr.State, revision: gr.Number, edits: gr.Number
) -> None:
    """Show the options of what `choice` names, here; their values go to store[kind][name].

    kind      "samplers" or "schedules"
    revision  changes when the form was filled from outside, so that the widgets are drawn again
    edits     is changed with each change of an option
    Only widgets live in here: an event drawn with them would be orphaned when another sampler is chosen in mid-run.
    """

    # Without `triggers`, each change of a value would draw the widgets again and take the focus away. Of the choice only
    # the visitor's own: what fills a form changes the revision too, and drawn twice at once, the first widgets' events
    # would arrive when their listeners are gone.
    @gr.render(inputs=[choice, store], triggers=[choice.input, revision.change], queue=False, show_progress="hidden")
    def draw(name: str | None, values: dict[str, Any]) -> None:
        options = options_of(page, kind, name, values)
        if not options:
            return
        names = [option.name for option in options]
        with gr.Column(elem_classes="options"):
            widgets = [widget(option, values[kind][name][option.name], (kind, name, option.name)) for option in options]

        def keep(kept: dict[str, Any], *given: Any) -> tuple[dict[str, Any], float]:
            return {**kept, kind: {**kept[kind], name: dict(zip(names, given, strict=True))}}, time.time()

        changes = [each.change for each in widgets]
        gr.on(changes, keep, [store, *widgets], [store, edits], trigger_mode="always_last", **QUIET, **RAW)


def options_of(page: Page, kind: str, name: str | None, values: dict[str, Any]) -> tuple[Option, ...]:
    """The declared options of a sampler or schedule; none for a name that is not known."""
    entry = getattr(page.registry, kind).get(name or "")
    return entry.item.options if entry and name in values.get(kind, {}) else ()


def widget(option: Option, value: Any, key: tuple[str, str, str]) -> gr.components.Component:
    """One option as a control. Help texts are a plugin's own words, and Gradio would read them as Markdown and HTML."""
    # Gradio takes a control without static listeners for an output, so each has to say that it is interactive.
    common = dict(
        label=title(option.name),
        info=escape(option.help) or None,
        interactive=True,
        key=key,
        preserved_by_key=None,
        elem_id=f"option-{'-'.join(key)}".replace(" ", "_"),
    )
    if option.kind == "bool":
        return gr.Checkbox(value, **common)
    if option.kind == "choice":
        return gr.Dropdown(list(option.choices), value=value, **common)
    if option.kind == "text":
        return gr.Textbox(value, max_length=option.longest, **common)
    if on_slider(option):
        step = option.step or (1 if option.kind == "int" else None)
        return gr.Slider(option.low, option.high, value=value, step=step, **common)
    return gr.Number(
        value, minimum=option.low, maximum=option.high, precision=0 if option.kind == "int" else None, **common
    )


def on_slider(option: Option) -> bool:
    """Whether a linear slider reaches all values of a number well."""
    if option.kind == "int":
        return option.high - option.low <= FEW
    return option.low <= 0 or option.high / option.low < WIDE


def title(name: str) -> str:
    """An argument's name as a label."""
    return name.replace("_", " ").strip().capitalize()
