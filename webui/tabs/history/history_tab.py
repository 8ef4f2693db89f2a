"""The tab History: the pictures under outputs/, newest first.

A shared page has no such tab, since the folder holds the pictures of all visitors, unless each has an account and a
folder.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Sequence
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.blocks import Block

from webui.core.images import open_small, to_jpeg
from webui.core.request import RequestError
from webui.gradio_ext.files import served, served_bytes
from webui.gradio_ext.gradio_events import QUIET, gather
from webui.gradio_ext.lazy_tab import LazyContent, reach
from webui.importers.imported_settings import read_imported_settings
from webui.tabs.form.describe import line, problem
from webui.tabs.form.page_context import Page
from webui.tabs.form.picture_actions import InfoTarget, settings_outputs, use_settings
from webui.tabs.form.workbench import Workbench
from webui.templates import render

from .history_index import END, FILE, HistoryEntry
from .history_marks import DELETED
from .history_store import History, OwnHistory
from .history_widgets import ANY, HistoryWidgets, build_widgets

PAGE = 24  # pictures
THUMBNAIL = 256  # pixels of a side; smaller pictures are shown as they are
WAIT = 0.7  # seconds that a refresh waits for the index
FIRST_PAGE = (END,)  # the cursor of the first page
Filters = tuple[str, str, str, bool, bool]  # prompt, sampler, model; with a heart, the Lab's cells too
Cursors = tuple[int, ...]

log = logging.getLogger(__name__)


def build_history(
    page: Page,
    history: History | OwnHistory,
    content: LazyContent,
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
            names = _names(history, filters)
            pictures = history.find(*filters[:3], before=cursors[-1], limit=PAGE + 1, **names)
            every = history.count(*filters[:3], **names)
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
        return choices | show_page(view, pictures, cursors, done, any(filters[:4]), every)

    def turn(older: bool, *given: Any) -> list[Any]:
        filters, cursors = _place(given)
        try:
            cursors = older_page(history, filters, cursors) if older else cursors[:-1] or FIRST_PAGE
        except (sqlite3.Error, OSError):
            pass  # the refresh shows the error
        return [(filters, cursors), time.time()]

    # One listener, which asks where the visitor is now: a late answer shows nothing else.
    watched = [view.turned, view.prompt, view.sampler, view.model, view.hearts, view.cells]
    triggers = [*(each.change for each in watched), view.timer.tick]
    gr.on(triggers, refresh, view.inputs, view.outputs, trigger_mode="always_last", **QUIET)
    moved = [view.place, view.turned]
    content.when_shown(lambda: [None, time.time()], moved)
    view.older.click(partial(turn, True), view.inputs, moved, **QUIET)
    view.newer.click(partial(turn, False), view.inputs, moved, **QUIET)

    def pick(shown: list[HistoryEntry], event: gr.SelectData) -> dict[Block, Any]:
        index = event.index if isinstance(event.index, int) and 0 <= event.index < len(shown) else 0
        return show_large(page, view, history, shown[index], index) if shown else gr.skip()

    picked = [view.chosen, view.picked, view.panel, view.large, view.recipe, view.heart]
    view.gallery.select(pick, view.shown, picked, **QUIET)

    def turn_heart(shown: list[HistoryEntry], chosen: int) -> Any:
        path = _chosen(shown, chosen)
        if path is None:
            return gr.skip()
        try:
            return heart_update(history.marks.turn_heart(path))
        except OSError as error:
            gr.Warning(f"The heart cannot be kept: {error}.")
            return gr.skip()

    def delete(shown: list[HistoryEntry], chosen: int) -> list[Any]:
        path = _chosen(shown, chosen)
        if path is None:
            return [gr.skip()] * 3
        try:
            return [str(history.marks.delete(path)), gr.update(visible=True), time.time()]
        except OSError as error:
            gr.Warning(f"The picture cannot be moved to {DELETED} in the outputs folder: {error}.")
            return [gr.skip()] * 3

    def undo(gone: str | None) -> list[Any]:
        try:
            if gone:
                history.marks.bring_back(Path(gone))
        except OSError as error:
            gr.Warning(f"The picture cannot be brought back: {error}.")
        return [None, gr.update(visible=False), time.time()]

    chosen, moved_away = [view.shown, view.chosen], [view.gone, view.undo, view.turned]
    view.heart.click(turn_heart, chosen, view.heart, **QUIET)
    view.delete.click(delete, chosen, moved_away, **QUIET)
    view.undo.click(undo, view.gone, moved_away, **QUIET)

    def to_info(shown: list[HistoryEntry], chosen: int) -> dict[Block, Any]:
        path = _chosen(shown, chosen)
        return info.show(served(path) if path else None)

    reach(info.content, view.info.click)(
        to_info, [view.shown, view.chosen], info.outputs, cancels=info.replays, **QUIET
    )
    for bench in benches:
        _connect_send(page, view, bench, tabs)


def _place(given: Sequence[Any]) -> tuple[Filters, Cursors]:
    """The filters and the cursors of their pages; other filters than those of the place start on the first page."""
    prompt, sampler, model, hearts, cells, place = given
    filters = (prompt or "", sampler or "", model or "", bool(hearts), bool(cells))
    return filters, tuple(place[1]) if place and tuple(place[0]) == filters else FIRST_PAGE


def older_page(history: History | OwnHistory, filters: Filters, cursors: Cursors) -> Cursors:
    """The cursors of the next page. It starts at the index's last picture, since files of this page may be gone."""
    page = history.find(*filters[:3], before=cursors[-1], limit=PAGE, **_names(history, filters))
    return (*cursors, page[-1].id) if page else cursors


def _names(history: History | OwnHistory, filters: Filters) -> dict[str, Any]:
    """The arguments of `find` that name pictures."""
    hearts, cells = filters[3:]
    only = history.marks.hearts() if hearts else None
    return dict(only=only, without=() if cells else history.marks.cells())


def show_page(
    view: HistoryWidgets, pictures: list[HistoryEntry], cursors: Cursors, done: bool, filtered: bool, every: int
) -> dict[Block, Any]:
    """Updates for one page of pictures; one picture more than PAGE means that there is an older page.

    every  how many pictures there are on all pages
    """
    existing = [each for each in pictures[:PAGE] if each.path.is_file()]
    thumbnails = [(picture, each) for each in existing if (picture := _thumbnail(each.path))]
    if thumbnails:
        counted = "1 picture" if every == 1 else f"{every:,} pictures"
        text = f"Page {len(cursors)} of {-(-every // PAGE):,} · {counted} · {days_text(existing)}"
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
        view.panel: gr.update(visible=False),
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


def days_text(pictures: Sequence[HistoryEntry]) -> str:
    """The days that pictures, newest first, were made on."""
    first, last = (f"{date.fromisoformat(one.path.parent.name):%a %-d %b %Y}" for one in (pictures[0], pictures[-1]))
    return first if first == last else f"{first} back to {last}"


def show_large(
    page: Page, view: HistoryWidgets, history: History | OwnHistory, one: HistoryEntry, index: int
) -> dict[Block, Any]:
    """Updates that show a picture large, with its recipe beside it."""
    facts = " · ".join(filter(None, (one.sampler, one.model, f"seed {one.seed}" if one.seed is not None else "")))
    named = history.marks.name_of(one.path)
    recipe: str
    try:
        imported = read_imported_settings(one.path, page.registry, page.engine.models())
        recipe = render("info", "settings", imported.program, imported.text, (), (), imported.rows)
        shown = served(one.path)
    except (RequestError, OSError) as error:
        recipe, shown = problem(str(error)), None
    return {
        view.chosen: index,
        view.picked: render("info", "picked", facts, named),
        view.panel: gr.update(visible=True),
        view.large: shown,
        view.recipe: recipe,
        view.heart: heart_update(named in history.marks.hearts()),
    }


def heart_update(has_one: bool) -> Any:
    """The button of the heart for a picture with or without one."""
    return gr.update(value="♥ Heart" if has_one else "♡ Heart")


def _chosen(shown: list[HistoryEntry], chosen: int) -> Path | None:
    """The file of the chosen picture; None, of which the visitor is told, if it is gone."""
    if 0 <= chosen < len(shown) and shown[chosen].path.is_file():
        return shown[chosen].path
    gr.Warning("The picture is no longer there.")
    return None


def _connect_send(page: Page, view: HistoryWidgets, bench: Workbench, tabs: gr.Tabs) -> None:
    def use(shown: list[HistoryEntry], chosen: int, kept: Any) -> dict[Block, Any]:
        path = _chosen(shown, chosen)
        if path is None:
            return gr.skip()
        try:
            imported = read_imported_settings(path, page.registry, page.engine.models(), page.engine.upscalers())
            return use_settings(page, bench, tabs, kept, imported, path)
        except RequestError as error:
            gr.Warning(str(error))
            return gr.skip()

    inputs = [view.shown, view.chosen, page.kept[bench.mode]]
    gather(reach(bench.content, view.send[bench.mode].click), use, inputs, settings_outputs(bench, tabs), **QUIET)
