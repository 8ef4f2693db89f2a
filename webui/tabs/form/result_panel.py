"""The right half of a tab: the live picture, the line about it, the finished pictures and what to do with them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import gradio as gr

from webui.core.images import open_picture
from webui.core.request import RequestError
from webui.engine.events import Snapshot
from webui.engine.jobs import Job
from webui.gradio_ext.files import served
from webui.gradio_ext.gradio_events import QUIET, Updates
from webui.templates import render
from weights.model_info import ModelInfo

from .card_view import wall
from .controls import build_gallery, small_button
from .describe import SMALL, message, problem, stage
from .export_menu import connect_format, format_menu

STRIP = 24  # pictures in the strip of this visit


@dataclass(frozen=True, eq=False)
class ResultPanel:
    """The parts of a result panel.

    made    (file, seed) of the pictures shown; `chosen` is the index of one
    visit   the same of this visit's newest pictures, which `strip` shows
    """

    wall: gr.HTML
    stage: gr.HTML
    message: gr.HTML
    gallery: gr.Gallery
    actions: gr.Row
    picked: gr.HTML
    download: gr.DownloadButton
    reuse: gr.Button
    vary: gr.Button
    send: gr.Button
    enlarge: gr.Button
    info: gr.Button
    again: gr.Button
    made: gr.State
    chosen: gr.State
    strip: gr.Gallery
    visit: gr.State

    @property
    def outputs(self) -> list[gr.components.Component]:
        """What `show` updates."""
        return [
            self.stage,
            self.message,
            self.gallery,
            self.actions,
            self.picked,
            self.download,
            self.made,
            self.chosen,
        ]


def build_result(mode: str, info: ModelInfo | None) -> ResultPanel:
    """An empty panel, which shows what a model draws."""
    # One place of one size for the wall, the preview and the pictures: what comes covers what was there.
    with gr.Column(elem_classes="frame"):
        empty = gr.HTML(wall(mode, info), elem_id=f"{mode}-wall", elem_classes="wall-box")
        live = gr.HTML("", elem_id=f"{mode}-stage", elem_classes="stage-box")
        gallery = build_gallery(f"{mode}-gallery", "pictures", 3, ["download", "fullscreen"], format="png")
    text = gr.HTML(message(None), elem_id=f"{mode}-message")
    with gr.Row(visible=False, elem_classes="actions", elem_id=f"{mode}-actions") as actions:
        picked = gr.HTML(elem_id=f"{mode}-picked", elem_classes="picked")
        reuse = small_button("Keep seed", f"{mode}-reuse")
        vary = small_button("Vary", f"{mode}-vary")
        send = small_button("img2img", f"{mode}-send")
        enlarge = small_button("Upscale", f"{mode}-enlarge")
        details = small_button("Info", f"{mode}-info")
        again = small_button("Replay", f"{mode}-again")
        gr.HTML(render("form", "pixels"), elem_classes="pixels-toggle")
        kind = format_menu(mode)
        download = gr.DownloadButton("Download", size="sm", scale=0, min_width=0, elem_id=f"{mode}-download")
    strip = build_gallery(f"{mode}-strip", "strip-of-visit", columns=STRIP, allow_preview=False)
    result = ResultPanel(
        empty,
        live,
        text,
        gallery,
        actions,
        picked,
        download,
        reuse,
        vary,
        send,
        enlarge,
        details,
        again,
        gr.State([]),
        gr.State(0),
        strip,
        gr.State([]),
    )

    def select(made: list[tuple[str, int]], event: gr.SelectData) -> Updates:
        choice = chosen_of(made, event.index if isinstance(event.index, int) else 0)
        if choice is None:
            return gr.skip()
        file, seed = choice
        return {result.chosen: event.index, picked: _picked(seed), download: gr.update(value=file)}

    def show_again(visit: list[tuple[str, int]], event: gr.SelectData) -> Updates:
        choice = chosen_of(visit, event.index if isinstance(event.index, int) else 0)
        if choice is None:
            return gr.skip()
        try:
            small = max(open_picture(Path(choice[0])).size) <= SMALL
        except (RequestError, OSError):
            gr.Warning("The picture is no longer there.")
            return gr.skip()
        return {result.stage: "", **_pictures(result, [choice], True, small)}

    gallery.select(select, result.made, [result.chosen, picked, download], **QUIET)
    strip.select(show_again, result.visit, result.outputs, **QUIET)
    connect_format(kind, result)
    return result


def add_to_strip(panel: ResultPanel, ended: Sequence[Job], visit: list[tuple[str, int]]) -> Updates:
    """Updates that put the pictures of jobs that have just ended, the newest first, at the front of the strip."""
    made = [(served(each.path), each.seed or 0) for job in ended for each in job.pictures if each.path.is_file()]
    now = [*made, *(each for each in visit if each not in made)][:STRIP]
    if now == visit:
        return gr.skip()
    # One picture alone is on the stage already.
    shown = gr.update(value=[(file, f"seed {seed}") for file, seed in now], visible=len(now) > 1, selected_index=None)
    return {panel.visit: now, panel.strip: shown}


async def show(
    panel: ResultPanel, snapshot: Snapshot, before: Snapshot | None = None, small: bool = False, hint: str = ""
) -> Updates:
    """Updates that turn the panel from `before` (None at the start of a run) into `snapshot`.

    The former pictures stay until there is something new to see. What was seen last of a run that was stopped stays.
    small  whether the pictures are so small that they look better at a few times their size
    hint   what to add below the line about a finished run
    """
    updates: Updates = {panel.stage: stage(snapshot, small), panel.message: message(snapshot) + hint}
    ended = snapshot.outcome is not None
    if _has_news(snapshot) and (ended or not _has_news(before) or len(snapshot.pictures) != _count(before)):
        files = await asyncio.gather(*(asyncio.to_thread(served, picture.path) for picture in snapshot.pictures))
        # Only what was merely enlarged has no seed, and a form draws.
        made = [(file, picture.seed or 0) for file, picture in zip(files, snapshot.pictures, strict=True)]
        updates |= _pictures(panel, made, ended, small)
    return updates


def _has_news(snapshot: Snapshot | None) -> bool:
    """Whether there is something to see of a run."""
    return snapshot is not None and bool(snapshot.pictures or (snapshot.progress and snapshot.progress.preview))


def _count(snapshot: Snapshot | None) -> int:
    return len(snapshot.pictures) if snapshot else 0


def show_problem(panel: ResultPanel, text: str) -> Updates:
    """Updates for a request that never became a job: the pictures shown stay."""
    return {panel.message: problem(text)}


def chosen_of(made: Sequence[tuple[str, int]], chosen: int) -> tuple[str, int] | None:
    """(file, seed) of the chosen picture; the first one where the choice is out of date."""
    if not made:
        return None
    return made[chosen] if 0 <= chosen < len(made) else made[0]


def _pictures(panel: ResultPanel, made: list[tuple[str, int]], ended: bool, small: bool) -> Updates:
    gallery = gr.update(
        value=[(file, f"seed {seed}") for file, seed in made],
        visible=bool(made),
        columns=min(8, max(2, round(len(made) ** 0.5 + 0.4))),
        selected_index=None,
        elem_classes=["pictures", *["small"] * small, *["single"] * (len(made) == 1)],
    )
    updates: Updates = {
        panel.gallery: gallery,
        panel.actions: gr.update(visible=bool(made) and ended),
        panel.picked: "",
        panel.made: made,
        panel.chosen: 0,
    }
    if made:
        file, seed = made[0]
        updates |= {panel.picked: _picked(seed), panel.download: gr.update(value=file)}
    return updates


def _picked(seed: int) -> str:
    return render("form", "picked", seed)
