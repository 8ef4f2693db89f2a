"""What the page says about the model in its menu, and how many tokens of it a prompt takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import gradio as gr

from webui.core.menus import chosen_name
from webui.gradio_ext.gradio_events import QUIET, RAW, on_change
from webui.tabs.form.page_context import Page
from webui.templates import render
from weights.model_info import ModelInfo

from .form import Form
from .lora_menu import prompt_notes

SHOWN = 4  # files that cannot be used, by name; a folder may be full of them


def connect_model(page: Page, form: Form, tokens: gr.HTML) -> None:
    """Count the prompt's tokens as it is typed, and tell what is to know about the model and the files beside it."""
    prompt, model, revision = form.fields["prompt"], form.fields["model"], form.revision

    def count(text: str | None, name: str | None) -> str:
        # What is too long to run is not read either.
        short = len(text or "") <= page.engine.limits.prompt
        if not short:
            return tokens_note(None)
        return tokens_note(
            page.engine.count_tokens(text or "", name or ""), prompt_notes(text or "", page.engine.extra)
        )

    def describe(name: str | None) -> str:
        return model_note(page.engine.models().get(chosen_name(name)), page.engine.refused())

    on_change([prompt, model, revision, page.status], count, [prompt, model], tokens, **QUIET, **RAW)
    on_change([model, revision], describe, model, form.model_note, **QUIET, **RAW)


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
