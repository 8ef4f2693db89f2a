"""What other tabs do with a picture: show it in PNG Info, or send its settings to a form."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from webui.core.storage import input_path
from webui.gradio_ext.files import served
from webui.importers.imported_settings import ImportedSettings
from webui.templates import render

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
    told = render("messages", "sent", offer.program, offer.missing, (*offer.notes, *notes))
    picture = [_input_of(page, offer) or served(path)] if "image" in bench.form.fields else []
    return [*updates, told, *picture, gr.Tabs(selected=bench.mode)]


def send_outputs(bench: Workbench, tabs: gr.Tabs) -> list[Any]:
    """The outputs that `send_offer` is for."""
    picture = [bench.form.fields["image"]] if "image" in bench.form.fields else []
    return [*refilled(bench.form), bench.result.message, *picture, tabs]


def _input_of(page: Page, offer: ImportedSettings) -> str | None:
    """The kept picture that one from img2img was made from; never on a shared page, where it is somebody else's."""
    record = offer.record
    if page.engine.settings.public or record is None or not record.input_digest.isalnum():
        return None
    if not record.single_request().has_input:
        return None
    path = input_path(page.engine.settings.outputs, record.input_digest)
    return served(path) if path.is_file() else None
