"""The tab History: the pictures under outputs/, newest first.

A shared page has no such tab, since the folder holds the pictures of all visitors, unless each has an account and a
folder.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.blocks import Block

from webui.core.images import open_small, to_jpeg
from webui.core.request import RequestError
from webui.gradio_ext.files import served, served_bytes
from webui.gradio_ext.gradio_events import QUIET
from webui.importers.imported_settings import read_imported_settings
from webui.tabs.form.describe import line, problem
from webui.tabs.form.page_context import Page
from webui.tabs.form.picture_actions import InfoTarget, settings_outputs, use_settings
from webui.tabs.form.workbench import Workbench
from webui.templates import render

from .history_index import END, FILE, HistoryEntry
from .history_store import History, OwnHistory

PAGE = 24  # pictures
THUMBNAIL = 256  # pixels of a side; smaller pictures are shown as they are
WAIT = 0.7  # seconds that a refresh waits for the index
POLL = 2.0  # seconds between refreshes while the index is being filled
ANY = [("Any", "")]
FIRST_PAGE = (END,)  # the cursor of the first page
Filters = tuple[str, str, str]
Cursors = tuple[int, ...]

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class HistoryWidgets:
    """The tab's parts.

    shown   the pictures of the page, a list of HistoryEntry; `chosen` is the index of one
    place   (filters, cursors): the ids before which the pages up to this one start
    turned  a new number with each change of `place`; a hidden number, since the event of a state can get lost
    """

    prompt: gr.Textbox
    sampler: gr.Dropdown
    model: gr.Dropdown
    note: gr.HTML
    gallery: gr.Gallery
    newer: gr.Button
    older: gr.Button
    picked: gr.HTML
    actions: gr.Row
    info: gr.Button
    send: dict[str, gr.Button]
    shown: gr.State
    place: gr.State
    chosen: gr.State
    turned: gr.Number
    timer: gr.Timer

    @property
    def inputs(self) -> list[gr.components.Component]:
        """The values that choose the pictures."""
        return [self.prompt, self.sampler, self.model, self.place]

    @property
    def outputs(self) -> list[Block]:
        """The outputs of a refresh."""
        return [
            self.sampler,
            self.model,
            self.note,
            self.gallery,
            self.newer,
            self.older,
            self.actions,
            self.shown,
            self.chosen,
            self.timer,
        ]


def build_history(
    page: Page,
    history: History | OwnHistory,
    tab: gr.Tab,
    info: InfoTarget,
    benches: Sequence[Workbench],
    tabs: gr.Tabs,
) -> None:
    """Build and wire the tab's content."""
    view = build_widgets()

    def refresh(*given: Any) -> dict[Block, Any]:
        filters, cursors = _place(given)
        try:
            # Only the first page follows new pictures; on others the pictures would move while one looks at them.
            done = cursors != FIRST_PAGE or history.refresh(WAIT)
            menus = [ANY + [(name, name) for name in history.names(column)] for column in ("sampler", "model")]
            pictures = history.find(*filters, before=cursors[-1], limit=PAGE + 1)
            if not pictures and history.problem:
                raise OSError(history.problem)
        except (sqlite3.Error, OSError) as error:
            log.warning("the history cannot be read: %s", error)
            told = problem(
                f"The history cannot be read ({error}). Its index is {FILE} in the outputs folder, which needs free "
                "space and must be writable."
            )
            return {view.note: told, view.timer: gr.Timer(active=False)}
        choices = {menu: gr.update(choices=each) for menu, each in zip((view.sampler, view.model), menus, strict=True)}
        return choices | show_page(view, pictures, cursors, done, any(filters))

    def turn(older: bool, *given: Any) -> list[Any]:
        filters, cursors = _place(given)
        try:
            cursors = older_page(history, filters, cursors) if older else cursors[:-1] or FIRST_PAGE
        except (sqlite3.Error, OSError):
            pass  # the refresh shows the error
        return [(filters, cursors), time.time()]

    # One listener, which asks where the visitor is now: a late answer shows nothing else.
    triggers = [view.turned.change, view.prompt.change, view.sampler.change, view.model.change, view.timer.tick]
    gr.on(triggers, refresh, view.inputs, view.outputs, trigger_mode="always_last", **QUIET)
    moved = [view.place, view.turned]
    tab.select(lambda: [None, time.time()], None, moved, **QUIET)
    view.older.click(partial(turn, True), view.inputs, moved, **QUIET)
    view.newer.click(partial(turn, False), view.inputs, moved, **QUIET)
    view.gallery.select(_pick, view.shown, [view.chosen, view.picked, view.actions], **QUIET)

    def to_info(shown: list[HistoryEntry], chosen: int) -> dict[Block, Any]:
        path = _chosen(shown, chosen)
        if path is None:
            gr.Warning("The picture is no longer there.")
        return info.show(served(path) if path else None)

    view.info.click(to_info, [view.shown, view.chosen], info.outputs, cancels=info.replays, **QUIET)
    for bench in benches:
        _connect_send(page, view, bench, tabs)


def build_widgets() -> HistoryWidgets:
    with gr.Row(elem_classes="filters"):
        prompt = gr.Textbox(
            label="Prompt has",
            placeholder="words, or how they begin",
            max_lines=1,
            elem_id="history-prompt",
            scale=3,
            min_width=200,
        )
        sampler, model = (
            gr.Dropdown(
                ANY, value="", label=name.capitalize(), elem_id=f"history-{name}", interactive=True, min_width=130
            )
            for name in ("sampler", "model")
        )
    note = gr.HTML(elem_id="history-note")
    gallery = gr.Gallery(
        visible=False,
        show_label=False,
        type="filepath",
        columns=6,
        object_fit="contain",
        height="auto",
        interactive=False,
        allow_preview=False,
        buttons=[],
        elem_id="history-gallery",
        elem_classes=["pictures", "pixels"],
    )
    with gr.Row(visible=False, elem_classes="actions", elem_id="history-actions") as actions:
        picked = gr.HTML(elem_id="history-picked", elem_classes="picked")
        info = gr.Button("Info", size="sm", scale=0, min_width=0, elem_id="history-info")
        send = {
            mode: gr.Button(f"Send to {mode}", size="sm", scale=0, min_width=0, elem_id=f"history-to-{mode}")
            for mode in ("txt2img", "img2img")
        }
    with gr.Row(elem_classes="turn"):
        newer = gr.Button("Newer", size="sm", visible=False, scale=0, min_width=90, elem_id="history-newer")
        older = gr.Button("Older", size="sm", visible=False, scale=0, min_width=90, elem_id="history-older")
    states = gr.State([]), gr.State(None), gr.State(0)
    return HistoryWidgets(
        prompt,
        sampler,
        model,
        note,
        gallery,
        newer,
        older,
        picked,
        actions,
        info,
        send,
        *states,
        gr.Number(0, visible="hidden"),
        gr.Timer(POLL, active=False),
    )


def _place(given: Sequence[Any]) -> tuple[Filters, Cursors]:
    """The filters and the cursors of their pages; other filters than those of the place start on the first page."""
    prompt, sampler, model, place = given
    filters = (prompt or "", sampler or "", model or "")
    return filters, tuple(place[1]) if place and tuple(place[0]) == filters else FIRST_PAGE


def older_page(history: History | OwnHistory, filters: Filters, cursors: Cursors) -> Cursors:
    """The cursors of the next page. It starts at the index's last picture, since files of this page may be gone."""
    page = history.find(*filters, before=cursors[-1], limit=PAGE)
    return (*cursors, page[-1].id) if page else cursors


def show_page(
    view: HistoryWidgets, pictures: list[HistoryEntry], cursors: Cursors, done: bool, filtered: bool
) -> dict[Block, Any]:
    """Updates for one page of pictures; one picture more than PAGE means that there is an older page."""
    existing = [each for each in pictures[:PAGE] if each.path.is_file()]
    thumbnails = [(picture, each) for each in existing if (picture := _thumbnail(each.path))]
    if thumbnails:
        text = f"Page {len(cursors)}, newest first."
    elif pictures:
        text = f"Page {len(cursors)}: none of these files can be opened."
    elif filtered:
        text = "No picture fits."
    else:
        text = "Nothing made yet; pictures appear here as soon as there are some."
    growing = "" if done else "Reading the pictures in the outputs folder; this list still grows. "
    gallery = [(file, _caption(each)) for file, each in thumbnails]
    return {
        view.note: line(growing + text),
        view.gallery: gr.update(value=gallery, visible=bool(gallery), selected_index=None),
        view.newer: gr.update(visible=len(cursors) > 1),
        view.older: gr.update(visible=len(pictures) > PAGE),
        view.actions: gr.update(visible=False),
        view.shown: [each for _, each in thumbnails],
        view.chosen: 0,
        view.timer: gr.Timer(active=not done),
    }


def _thumbnail(path: Path) -> str | None:
    try:
        picture, size = open_small(path, THUMBNAIL)
        return served(path) if max(size) <= THUMBNAIL else served_bytes(to_jpeg(picture, THUMBNAIL), f"{path.stem}.jpg")
    except (RequestError, OSError):
        return None


def _caption(shown: HistoryEntry) -> str:
    text = " ".join(shown.prompt.split())
    return (text if len(text) <= 60 else f"{text[:57]}...") or shown.path.name


def _pick(shown: list[HistoryEntry], event: gr.SelectData) -> list[Any]:
    index = event.index if isinstance(event.index, int) and 0 <= event.index < len(shown) else 0
    if not shown:
        return [gr.skip()] * 3
    one = shown[index]
    facts = " · ".join(filter(None, (one.sampler, one.model, f"seed {one.seed}" if one.seed is not None else "")))
    named = f"{one.path.parent.name}/{one.path.name}"
    return [index, render("info", "picked", facts, named), gr.update(visible=True)]


def _chosen(shown: list[HistoryEntry], chosen: int) -> Path | None:
    return shown[chosen].path if 0 <= chosen < len(shown) and shown[chosen].path.is_file() else None


def _connect_send(page: Page, view: HistoryWidgets, bench: Workbench, tabs: gr.Tabs) -> None:
    def use(shown: list[HistoryEntry], chosen: int, kept: Any) -> dict[Block, Any]:
        path = _chosen(shown, chosen)
        try:
            if path is None:
                raise RequestError("The picture is no longer there.")
            imported = read_imported_settings(path, page.registry, page.engine.models(), page.engine.upscalers())
            return use_settings(page, bench, tabs, kept, imported, path)
        except RequestError as error:
            gr.Warning(str(error))
            return gr.skip()

    inputs = [view.shown, view.chosen, page.kept[bench.mode]]
    view.send[bench.mode].click(use, inputs, settings_outputs(bench, tabs), **QUIET)
