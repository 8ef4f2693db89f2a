"""What other tabs do with a picture: show it in PNG Info, or send its settings to a form."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from webui.core.record import replay as request_of
from webui.core.storage import input_path
from webui.gradio_ext.files import served
from webui.importers.imported_settings import ImportedSettings

from .apply_settings import fill
from .form_events import refilled
from .page_context import Page
from .workbench import Workbench


@dataclass(frozen=True, eq=False)
class Info:
    """How a picture comes to the tab: an event gives `arrival(path)` to `outputs`, and cancels `replays`."""

    outputs: list[Any]
    replays: list[Any]


def arrival(path: str | None) -> list[Any]:
    """Updates for `Info.outputs`: a picture that was made here and is served, or none that could be shown."""
    shown = [gr.skip()] * 2 if path is None else [path, gr.Tabs(selected="info")]
    return [shown[0], "", gr.update(interactive=True), gr.update(interactive=False), shown[1]]


def send_offer(page: Page, bench: Workbench, saved: Any, offer: ImportedSettings, path: Path) -> list[Any]:
    """Updates for `send_outputs`: the offer in a form, and what could not be matched below it."""
    updates, notes = fill(page, bench.form, saved, offer.fields, offer.open)
    told = sent_html(offer.program, offer.missing, (*offer.notes, *notes))
    picture = [_input_of(page, offer) or served(path)] if bench.mode == "img2img" else []
    return [*updates, told, *picture, gr.Tabs(selected=bench.mode)]


def send_outputs(bench: Workbench, tabs: gr.Tabs) -> list[Any]:
    """The outputs that `send_offer` is for."""
    picture = [bench.form.fields["image"]] if bench.mode == "img2img" else []
    return [*refilled(bench.form), bench.result.message, *picture, tabs]


def _input_of(page: Page, offer: ImportedSettings) -> str | None:
    """The kept picture that one from img2img was made from; never on a shared page, where it is somebody else's."""
    digest = (offer.record or {}).get("input_digest")
    if page.engine.settings.public or not isinstance(digest, str) or not digest.isalnum():
        return None
    if request_of(offer.record).mode != "img2img":
        return None
    path = input_path(page.engine.settings.outputs, digest)
    return served(path) if path.is_file() else None


def unmatched_html(missing: Iterable[str], notes: Iterable[str]) -> str:
    """What is missing here, as a problem, and what else could not be matched; empty if all could."""
    missing, notes = tuple(missing), tuple(notes)
    parts = [f"<p class='line problem' role='alert'>{escape(each)}</p>" for each in missing]
    if notes:
        parts.append("<p class='unmatched'>Not matched:</p><ul class='unmatched'>")
        parts += [f"<li>{escape(each)}</li>" for each in notes]
        parts.append("</ul>")
    return "".join(parts)


def sent_html(program: str, missing: Iterable[str], notes: Iterable[str]) -> str:
    """What a form says after settings were sent to it."""
    head = f"<p class='line' role='status'>The settings of the picture by {escape(program)} are in the form.</p>"
    return head + unmatched_html(missing, notes)
