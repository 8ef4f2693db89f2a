"""Comparisons that need no explanation, put into the axes of a grid by a button each."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import gradio as gr

from samplers.registry import Registry
from webui.core.menus import chosen_name, sampler_groups
from webui.core.request import RequestError
from webui.gradio_ext.gradio_events import QUIET
from webui.tabs.form.controls import small_button
from webui.tabs.form.form import Form
from webui.tabs.form.page_context import Page
from weights.card import Card

from .axes_view import NOTHING, AxesView, Described, axes_updates

SAMPLERS, GUIDANCE, WORD = "Every sampler, 5 to 20 steps", "Guidance 1 to 10", "One word changed"
PRESETS = (SAMPLERS, GUIDANCE, WORD)
STEPS = "5, 10, 15, 20"
OTHERS = ("cat", "house", "tree", "rocket", "flower")  # in place of a word, for models without a card
MOST_WORDS = 5


def build_presets(page: Page, tool: str, form: Form, axes: AxesView) -> None:
    """Build a button for each ready comparison, which sets the axes."""

    def choose(name: str, prompt: Any, model: Any) -> list[Any]:
        info = page.engine.models().get(chosen_name(model))
        card, most = info.card if info else None, page.engine.limits.cells
        try:
            chosen = preset_axes(name, str(prompt or ""), page.registry, card, most)
        except RequestError as error:
            gr.Info(str(error))
            return [gr.skip()] * len(axes.inputs)
        return [*axes_updates(chosen, page.registry), "same"]

    with gr.Row(elem_classes="keep"):
        for number, name in enumerate(PRESETS, start=1):
            button = small_button(name, f"{tool}-preset{number}")
            inputs = [form.fields["prompt"], form.fields["model"]]
            button.click(partial(choose, name), inputs, axes.inputs, **QUIET)


def preset_axes(name: str, prompt: str, registry: Registry, card: Card | None, most: int) -> list[Described]:
    """The axes of one of PRESETS; all of them have the same seed in every cell.

    card  of the model, which says what else it draws
    most  cells that a grid may have
    Raises RequestError where a word is to be changed and the prompt has none.
    """
    if name == SAMPLERS:
        names = every_sampler(registry)[: most // len(STEPS.split(","))]
        return [Described("steps", (), STEPS), Described("sampler", names, ""), NOTHING]
    if name == GUIDANCE:
        return [Described("guidance", (), "1, 2, 3, 5, 7, 10"), NOTHING, NOTHING]
    return [Described("prompt", (), replacement(prompt, card)), NOTHING, NOTHING]


def every_sampler(registry: Registry) -> list[str]:
    """The samplers that draw with any model; the bridges, which are there to compare with, are left out."""
    groups = sampler_groups(registry.samplers)
    names = [name for title, group in groups.items() if title != "Bridges" for name in group]
    return [name for name in names if not registry.samplers[name].item.distilled]


def replacement(prompt: str, card: Card | None) -> str:
    """The axis that puts other words in the place of one: of the longest that the card knows, or of the last one."""
    words = [word.strip(',.;:!?()[]{}"') for word in prompt.split()]
    words = [word for word in words if word]
    if not words:
        raise RequestError("Write a prompt first: one of its words is changed.")
    known = card.familiar if card else ()
    plain = prompt.casefold()
    old = max((each for each in known if each.casefold() in plain), key=len, default="")
    # As it is written in the prompt, which is where it is replaced.
    at = plain.find(old.casefold())
    old = prompt[at : at + len(old)] if old else words[-1]
    return f"{old} -> {', '.join([old, *_others(old, known or OTHERS)])}"


def _others(old: str, names: Sequence[str]) -> list[str]:
    return [each for each in names if "," not in each and each.casefold() != old.casefold()][:MOST_WORDS]
