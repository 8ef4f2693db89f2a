"""The tab History: what was made, newest first, by the files under outputs/. Only a page for this machine alone has it:
the folder holds everybody's pictures, and a shared page is no place to show them.
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

from webui.core.images import open_picture, to_jpeg
from webui.core.request import RequestError
from webui.gradio_ext.files import served, served_bytes
from webui.gradio_ext.gradio_events import QUIET
from webui.importers.imported_settings import read_imported_settings
from webui.tabs.form.describe import line, problem
from webui.tabs.form.page_context import Page
from webui.tabs.form.picture_actions import Info, arrival, send_offer, send_outputs
from webui.tabs.form.workbench import Workbench
from webui.templates import render

from .history_index import END, HistoryEntry
from .history_store import History

PAGE = 24  # pictures at a time
SIDE = 256  # pixels of a thumbnail; what is no larger is shown as it is
WAIT = 0.7  # seconds that a look waits for the index
AGAIN = 2.0  # seconds between looks while it is being filled
ANY = [("Any", "")]
FIRST = [END]  # where the first page begins

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class HistoryWidgets:
    """The tab's parts; `shown` holds the pictures on view, `place` the filters and where their pages up to it begin.

    turned  a new number with each change of `place`; a hidden control, for a state's own event may get lost
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
        """What chooses the pictures."""
        return [self.prompt, self.sampler, self.model, self.place]

    @property
    def outputs(self) -> list[Any]:
        """What a page of pictures fills."""
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
    page: Page, history: History, tab: gr.Tab, info: Info, benches: Sequence[Workbench], tabs: gr.Tabs
) -> None:
    """Build and wire the tab's content."""
    view = _build()

    def look(*given: Any) -> list[Any]:
        filters, cursors = _place(given)
        try:
            # Only the first page grows while one looks at it; others would slip away under the eye.
            done = cursors != FIRST or history.look(WAIT)
            menus = [ANY + [(name, name) for name in history.names(column)] for column in ("sampler", "model")]
            pictures = history.find(*filters, cursors[-1], PAGE + 1)
        except (sqlite3.Error, OSError) as error:
            log.warning("the history cannot be read", exc_info=error)
            told = problem(f"The history cannot be read ({error}).")
            return [gr.skip(), gr.skip(), told, *[gr.skip()] * 6, gr.Timer(active=False)]
        return [*(gr.update(choices=menu) for menu in menus), *_page_of(pictures, cursors, done, any(filters))]

    def turn(older: bool, *given: Any) -> list[Any]:
        filters, cursors = _place(given)
        try:
            cursors = _older(history, filters, cursors) if older else cursors[:-1] or FIRST
        except (sqlite3.Error, OSError):
            pass  # the look tells why
        return [(filters, cursors), time.time()]

    # One listener, which asks where the visitor is now: an answer that comes late shows nothing else.
    asked = [view.turned.change, *(each.change for each in view.inputs[:-1]), view.timer.tick]
    gr.on(asked, look, view.inputs, view.outputs, trigger_mode="always_last", **QUIET)
    moved = [view.place, view.turned]
    tab.select(lambda: [None, time.time()], None, moved, **QUIET)
    view.older.click(partial(turn, True), view.inputs, moved, **QUIET)
    view.newer.click(partial(turn, False), view.inputs, moved, **QUIET)
    view.gallery.select(_pick, view.shown, [view.chosen, view.picked, view.actions], **QUIET)
    view.info.click(_to_info, [view.shown, view.chosen], info.outputs, cancels=info.replays, **QUIET)
    for bench in benches:
        _connect_send(page, view, bench, tabs)


def _build() -> HistoryWidgets:
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
        gr.Timer(AGAIN, active=False),
    )


def _place(given: Sequence[Any]) -> tuple[tuple[str, str, str], list[int]]:
    """The filters, and where their pages up to the one on view begin; other filters than the place's begin anew."""
    *filters, place = given
    filters = tuple(each or "" for each in filters)
    return filters, place[1] if place and place[0] == filters else FIRST


def _older(history: History, filters: tuple[str, str, str], cursors: list[int]) -> list[int]:
    """The cursors one page on: behind the last picture of the index, for all files of this page may be gone."""
    page = history.find(*filters, cursors[-1], PAGE)
    return [*cursors, page[-1].id] if page else cursors


def _page_of(pictures: list[HistoryEntry], cursors: list[int], done: bool, filtered: bool) -> list[Any]:
    """Updates for `HistoryWidgets.outputs` except the menus. One picture more than fits means that older ones exist."""
    more, shown = len(pictures) > PAGE, [each for each in pictures[:PAGE] if each.path.is_file()]
    thumbnails = [(picture, each) for each in shown if (picture := _thumbnail(each.path))]
    if not thumbnails:
        none = "No picture fits." if filtered else "Nothing made yet; pictures appear here as soon as there are some."
        nothing = f"Page {len(cursors)}: none of these files can be opened." if pictures else none
    said = [] if done else ["Reading the pictures in the outputs folder; this list still grows."]
    said += [f"Page {len(cursors)}, newest first."] if thumbnails else [nothing]
    gallery = gr.update(
        value=[(file, _caption(each)) for file, each in thumbnails], visible=bool(thumbnails), selected_index=None
    )
    turns = [gr.update(visible=len(cursors) > 1), gr.update(visible=more)]
    kept = [each for _, each in thumbnails]
    return [
        line(" ".join(said)),
        gallery,
        *turns,
        gr.update(visible=False),
        kept,
        0,
        gr.Timer(active=not done),
    ]


def _thumbnail(path: Path) -> str | None:
    try:
        picture = open_picture(path)
        return served(path) if max(picture.size) <= SIDE else served_bytes(to_jpeg(picture, SIDE), f"{path.stem}.jpg")
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


def _to_info(shown: list[HistoryEntry], chosen: int) -> list[Any]:
    path = _chosen(shown, chosen)
    if path is None:
        gr.Warning("The picture is no longer there.")
    return arrival(path and served(path))


def _connect_send(page: Page, view: HistoryWidgets, bench: Workbench, tabs: gr.Tabs) -> None:
    outputs = send_outputs(bench, tabs)

    def send(shown: list[HistoryEntry], chosen: int, saved: Any) -> list[Any]:
        path = _chosen(shown, chosen)
        try:
            if path is None:
                raise RequestError("The picture is no longer there.")
            return send_offer(
                page, bench, saved, read_imported_settings(path, page.registry, page.engine.models()), path
            )
        except RequestError as error:
            gr.Warning(str(error))
            return [gr.skip()] * len(outputs)

    view.send[bench.mode].click(send, [view.shown, view.chosen, page.kept[bench.mode]], outputs, **QUIET)
