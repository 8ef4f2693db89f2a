"""What the page says about the model in its menu, and how many tokens of it a prompt takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from webui.core.menus import chosen_name
from webui.gradio_ext.gradio_events import QUIET, Updates, on_change
from webui.tabs.form.page_context import Page
from webui.templates import render
from weights.model_info import ModelInfo

from .card_view import chips, read_prompt, wall, words_note
from .controls import PromptBox
from .form import Form
from .lora_menu import few_steps_button
from .prompt_notes import example_of

SHOWN = 4  # files that cannot be used, by name; a folder may be full of them


def connect_model(
    page: Page, form: Form, box: PromptBox, stage: gr.HTML | None = None, few_steps: gr.Button | None = None
) -> None:
    """Tell of the prompt's tokens and words as it is typed, and what is to know about the model and its card.

    stage      where the wall of the model's pictures is shown
    few_steps  see `lora_menu.LoraMenu`
    """
    prompt, model, revision = form.fields["prompt"], form.fields["model"], form.revision
    syntax = form.fields["prompt_syntax"]
    first = page.first_model
    # What the page was built with: the wall of the same model need not be sent again.
    shown = gr.State(first.name if first else "")

    def read(*given: Any) -> Updates:
        text, name, syntax = (each if isinstance(each, str) else "" for each in given)
        info = page.engine.models().get(chosen_name(name))
        button = {few_steps: few_steps_button(text, info)} if few_steps else {}
        return {box.words: said_of(text, name, syntax), **button}

    def said_of(text: str, name: str, syntax: str) -> str:
        extra, limits = page.engine.extra, page.engine.limits
        # What is too long to run is not read either.
        if len(text) > limits.prompt:
            return ""
        info = page.engine.models().get(chosen_name(name))
        example, notes = example_of(text, extra, syntax or "full", limits.choices)
        counted = tokens_note(page.engine.count_tokens(example, name), notes)
        if info is None or info.card is None:
            return counted
        words = tuple(extra.embeddings_in(example))
        return words_note(form.mode, info, read_prompt(info.card, example, words)) + counted

    def describe(name: str | None) -> str:
        return model_note(page.engine.models().get(chosen_name(name)), page.engine.refused())

    def introduce(name: str | None, before: str) -> Updates:
        info = page.engine.models().get(chosen_name(name))
        if info is None or info.name == before:
            return gr.skip()
        walls = {stage: wall(form.mode, info)} if stage else {}
        return {box.chips: chips(form.mode, info), shown: info.name, **walls}

    said = [box.words, *([few_steps] if few_steps else [])]
    filled: dict[str, Any] = dict(since=revision, **QUIET)
    on_change([prompt, model, syntax, revision, page.status], read, [prompt, model, syntax], said, **filled)
    on_change([model, revision], describe, model, form.model_note, **filled)
    walls = [stage] if stage else []
    on_change([model, revision], introduce, [model, shown], [box.chips, shown, *walls], **filled)


def tokens_note(count: tuple[int, int] | None, notes: Sequence[str] = ()) -> str:
    """A prompt's tokens of those that its chunks hold, and what is to know about it.

    count  None while no model is there to count with
    """
    if count is None and not notes:
        return ""
    return render("form", "tokens", *(count or (0, 0)), notes)


def model_note(found: ModelInfo | None, refused: Mapping[str, str]) -> str:
    """What is to know about a model, and which files cannot be used and why; all of it comes from files."""
    return render("form", "model_note", found.notes if found else (), list(refused.values()), SHOWN)
