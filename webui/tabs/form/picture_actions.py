"""Show a picture in PNG Info, or put its settings into a form: what other tabs do with a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.blocks import Block

from webui.core.fields import upload_fields
from webui.core.request import Request
from webui.core.storage import input_path
from webui.gradio_ext.files import served
from webui.gradio_ext.gradio_events import Updates
from webui.gradio_ext.lazy_tab import LazyContent
from webui.importers.imported_settings import ImportedSettings
from webui.templates import render

from .apply_settings import fill
from .form_events import refilled
from .page_context import Page
from .workbench import Workbench


@dataclass(frozen=True, eq=False)
class InfoTarget:
    """The parts of PNG Info that an event of another tab fills with `show`, once the content of PNG Info is there.

    The event cancels `replays`.
    """

    image: gr.Image
    verdict: gr.HTML
    replay: gr.Button
    stop: gr.Button
    tabs: gr.Tabs
    replays: Sequence[Any]
    content: LazyContent

    @property
    def outputs(self) -> list[Block]:
        """The outputs that `show` is for."""
        return [self.image, self.verdict, self.replay, self.stop, self.tabs]

    def show(self, path: str | None) -> Updates:
        """Open the tab with a served picture that was made here; None stays on the tab where one is."""
        updates = {self.verdict: "", self.replay: gr.update(interactive=True), self.stop: gr.update(interactive=False)}
        return updates if path is None else updates | {self.image: path, self.tabs: gr.Tabs(selected="info")}


def use_settings(
    page: Page, bench: Workbench, tabs: gr.Tabs, kept: Any, imported: ImportedSettings, path: Path
) -> Updates:
    """Updates for `settings_outputs`: a picture's settings in the form, and below it what could not be matched.

    kept  what the browser keeps of the form
    """
    updates, notes = fill(page, bench.form, kept, imported.fields, imported.open, "model" not in imported.fields)
    text = render("messages", "sent", imported.program, imported.missing, (*imported.notes, *notes))
    inputs = _inputs_of(page, imported)
    for name in upload_fields(Request):
        if name in bench.form.fields:
            updates[bench.form.fields[name]] = inputs.get(name) or (served(path) if name == "image" else None)
    return updates | {bench.result.message: text, tabs: gr.Tabs(selected=bench.mode)}


def settings_outputs(bench: Workbench, tabs: gr.Tabs) -> list[Block]:
    """The outputs that `use_settings` is for."""
    uploads = [bench.form.fields[name] for name in upload_fields(Request) if name in bench.form.fields]
    return [*refilled(bench.form), bench.result.message, *uploads, tabs]


def _inputs_of(page: Page, imported: ImportedSettings) -> dict[str, str]:
    """The kept input picture and mask of one from img2img; never on a shared page, where they are another visitor's."""
    record = imported.record.source if imported.record and imported.record.is_upscaled else imported.record
    if page.engine.settings.public or record is None or not record.single_request().has_input:
        return {}
    digests = {"image": record.input_digest, "mask": record.mask_digest}
    paths = {name: input_path(page.engine.outputs, each) for name, each in digests.items() if each.isalnum()}
    return {name: served(path) for name, path in paths.items() if path.is_file()}
