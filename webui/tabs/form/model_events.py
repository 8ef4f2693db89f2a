"""What the page says about the model in its menu, and how many tokens of it a prompt takes."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

import gradio as gr

from webui.gradio_ext.gradio_events import QUIET, RAW, on_change
from webui.tabs.form.page_context import Page
from weights.catalog import ModelInfo

from .form import Form

SHOWN = 4  # files that cannot be used, by name; a folder may be full of them


def connect_model(page: Page, form: Form, tokens: gr.HTML) -> None:
    """Count the prompt's tokens as it is typed, and tell what is to know about the model and the files beside it."""
    prompt, model, revision = form.fields["prompt"], form.fields["model"], form.revision

    def count(text: str | None, name: str | None) -> str:
        # What is too long to run is not read either.
        short = len(text or "") <= page.engine.limits.prompt
        return tokens_note(page.engine.count_tokens(text or "", name or "") if short else None)

    def describe(name: str | None) -> str:
        return model_note(page.engine.models().get(name or ""), page.engine.refused())

    on_change([prompt, model, revision, page.status], count, [prompt, model], tokens, **QUIET, **RAW)
    on_change([model, revision], describe, model, form.model_note, **QUIET, **RAW)


def tokens_note(count: tuple[int, int] | None) -> str:
    """A prompt's tokens of those that its chunks hold; nothing while no model is there to count with."""
    if count is None:
        return ""
    used, room = count
    return f"<p class='tokens' title='What the text encoder reads: longer prompts take more chunks'>{used} of {room} tokens</p>"


def model_note(found: ModelInfo | None, refused: Mapping[str, str]) -> str:
    """What is to know about a model, and which files cannot be used and why; all of it comes from files."""
    lines = [f"<p class='note'>{escape(note)}</p>" for note in found.notes] if found else []
    reasons = list(refused.values())
    if reasons:
        shown = "".join(f"<li>{escape(reason)}</li>" for reason in reasons[:SHOWN])
        more = f"<li>and {len(reasons) - SHOWN} more</li>" if len(reasons) > SHOWN else ""
        lines.append(
            f"<details class='note refused'><summary>{_cannot(len(reasons))}</summary><ul>{shown}{more}</ul></details>"
        )
    return "".join(lines)


def _cannot(count: int) -> str:
    return "One model in weights/ cannot be used" if count == 1 else f"{count} models in weights/ cannot be used"
