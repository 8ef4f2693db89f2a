"""The tab PNG Info: the settings in a picture, which can be put into a form or replayed."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.blocks import Block

from webui.core.images import PREVIEW_SIDE, open_small, to_jpeg
from webui.core.request import RequestError
from webui.engine.events import Failed
from webui.engine.replay import any_recipe, into, submit_recipe
from webui.engine.replay_verdict import Verdict, compare
from webui.gradio_ext.files import uploaded
from webui.gradio_ext.gradio_events import LONG, QUIET, RAW, Updates, gather
from webui.gradio_ext.lazy_tab import LazyContent, reach
from webui.importers.imported_settings import ImportedSettings, read_imported_settings
from webui.tabs.form.controls import build_upload
from webui.tabs.form.describe import line, message, note, problem
from webui.tabs.form.job_events import JobButtons, snapshots, stop_job, submit
from webui.tabs.form.page_context import Page
from webui.tabs.form.picture_actions import InfoTarget, settings_outputs, use_settings
from webui.tabs.form.result_panel import chosen_of
from webui.tabs.form.workbench import Workbench
from webui.templates import render

MODE = "replay"  # the name of this tab's jobs, beside those of the two forms
NOTHING = "Drop a PNG, JPEG or WebP here: its settings are read, shown, and sent to a form."
MOST_SHOWN = 4_000  # characters of a value


@dataclass(frozen=True, eq=False)
class InfoWidgets:
    """The tab's parts."""

    image: gr.Image
    facts: gr.HTML
    verdict: gr.HTML
    send: dict[str, gr.Button]
    replay: gr.Button
    stop: gr.Button

    @property
    def buttons(self) -> list[gr.Button]:
        """Those that need a picture with settings: the two of `send`, and `replay`."""
        return [*self.send.values(), self.replay]


def build_info(page: Page, content: LazyContent, benches: Sequence[Workbench], tabs: gr.Tabs) -> InfoTarget:
    """Build and wire the tab's content, and the buttons of the results that open it."""
    with content.content():
        parts = _build()
        _connect_picture(page, parts, benches, tabs)
    return _connect_replay(page, content, parts, benches, tabs)


def _connect_picture(page: Page, parts: InfoWidgets, benches: Sequence[Workbench], tabs: gr.Tabs) -> None:
    """Read a picture as soon as it is there, and send its settings to a form."""

    def show(image: Any) -> dict[Block, Any]:
        off = {button: gr.update(interactive=False) for button in parts.buttons}
        if not image:
            return {parts.facts: line(NOTHING), **off}
        try:
            imported = _read(page, image)
        except RequestError as error:
            return {parts.facts: problem(str(error)), **off}
        on = {button: gr.update(interactive=True) for button in parts.send.values()}
        replay = gr.update(interactive=imported.record is not None)
        return {parts.facts: settings_html(imported), **on, parts.replay: replay}

    # One event for a picture that is dropped, pasted or comes from another tab. It leaves the verdict alone, which may
    # be there before the picture if another tab started a replay.
    parts.image.change(show, parts.image, [parts.facts, *parts.buttons], **QUIET, **RAW)
    for bench in benches:
        _connect_send(page, parts, bench, tabs)


def _build() -> InfoWidgets:
    with gr.Row(elem_classes="bench"):
        with gr.Column(elem_classes="compose"):
            image = build_upload("info-image", "Picture", 320, clipboard=False)
            with gr.Row(elem_classes="actions"):
                send = {
                    mode: gr.Button(
                        f"Send to {mode}", size="sm", interactive=False, elem_id=f"info-to-{mode}", min_width=0
                    )
                    for mode in ("txt2img", "img2img")
                }
                replay = gr.Button("Replay", size="sm", interactive=False, elem_id="info-replay", min_width=0)
                stop = gr.Button(
                    "Stop", size="sm", interactive=False, elem_id="info-stop", elem_classes="stop", min_width=0
                )
            gr.HTML(note("Replay makes the picture again from its settings and compares every pixel."))
        with gr.Column(elem_classes="result"):
            verdict = gr.HTML(elem_id="info-verdict")
            facts = gr.HTML(line(NOTHING), elem_id="info-facts")
    return InfoWidgets(image, facts, verdict, send, replay, stop)


def _connect_replay(
    page: Page, content: LazyContent, parts: InfoWidgets, benches: Sequence[Workbench], tabs: gr.Tabs
) -> InfoTarget:
    run = _replay_of(page, parts)
    inputs, outputs = [page.token, parts.image], [parts.verdict, parts.replay, parts.stop]
    with content.content():
        replays = [parts.replay.click(run, inputs, outputs, concurrency_limit=None, **LONG, **RAW)]
        parts.stop.click(lambda token: stop_job(page, token, MODE), page.token, parts.stop, **QUIET)
    here = InfoTarget(parts.image, parts.verdict, parts.replay, parts.stop, tabs, replays, content)
    for bench in benches:
        shown = [bench.result.made, bench.result.chosen]
        sent = reach(content, bench.result.again.click)(_opener(here), shown, here.outputs, **QUIET)
        replays.append(sent.then(run, inputs, outputs, concurrency_limit=None, **LONG, **RAW))
    # Another picture ends the replay of the one before and clears its verdict.
    gr.on([bench.result.again.click for bench in benches], cancels=replays)
    for bench in benches:
        shown = [bench.result.made, bench.result.chosen]
        reach(content, bench.result.info.click)(_opener(here), shown, here.outputs, cancels=replays, **QUIET)
    with content.content():
        gr.on(
            [parts.image.upload, parts.image.clear],
            lambda: ["", gr.update(interactive=False)],
            None,
            [parts.verdict, parts.stop],
            cancels=replays,
            **QUIET,
        )
        content.arrived()
    return here


def _read(page: Page, image: Any) -> ImportedSettings:
    return read_imported_settings(uploaded(image), page.registry, page.engine.models(), page.engine.upscalers())


def _opener(here: InfoTarget) -> Callable[[list, int], dict[Block, Any]]:
    def open_chosen(made: list, chosen: int) -> dict[Block, Any]:
        choice = chosen_of(made, chosen)
        return here.show(choice[0] if choice else None)

    return open_chosen


def _connect_send(page: Page, parts: InfoWidgets, bench: Workbench, tabs: gr.Tabs) -> None:
    def use(image: Any, kept: Any) -> dict[Block, Any]:
        try:
            return use_settings(page, bench, tabs, kept, _read(page, image), uploaded(image))
        except RequestError as error:
            gr.Warning(str(error))
            return gr.skip()

    inputs, outputs = [parts.image, page.kept[bench.mode]], settings_outputs(bench, tabs)
    gather(reach(bench.content, parts.send[bench.mode].click), use, inputs, outputs, **QUIET)


def _replay_of(page: Page, parts: InfoWidgets) -> Any:
    """The event that draws the picture once more and compares."""
    buttons = JobButtons(parts.replay, parts.stop, "Replay", "Replay")

    async def run(request: gr.Request, token: str, image: Any) -> AsyncGenerator[Updates]:
        token = token or request.session_hash or ""
        stop_job(page, token, MODE)
        with tempfile.TemporaryDirectory(prefix="sigmalab-replay-", ignore_cleanup_errors=True) as folder:
            try:
                path = uploaded(image)
                wanted = into(await asyncio.to_thread(any_recipe, path, page.engine), Path(folder))
                job = await submit(page, partial(submit_recipe, page.engine, wanted, page.owner(token, MODE)))
            except RequestError as error:
                yield {parts.verdict: problem(str(error))} | buttons.idle()
                return
            news = snapshots(page, job)
            try:
                async for now in news:
                    yield gr.skip() if now is None else {parts.verdict: message(now)} | buttons.working(job)
            finally:
                # A replay that nobody follows is stopped; its folder is deleted now.
                page.engine.stop(job)
                await news.aclose()
            yield {parts.verdict: await asyncio.to_thread(_verdict, path, job, wanted)} | buttons.idle()

    return run


def _verdict(path: Path, job: Any, wanted: Any) -> str:
    if isinstance(job.outcome, Failed):
        return problem(job.outcome.message)
    if len(job.pictures) <= wanted.index:
        return problem("The replay was stopped.")
    made = job.pictures[wanted.index].path
    try:
        return verdict_html(compare(path, made, wanted), to_jpeg(open_small(made, PREVIEW_SIDE)[0], quality=92))
    except RequestError as error:
        return problem(str(error))


def settings_html(imported: ImportedSettings) -> str:
    """A picture's settings, and what of them could not be matched."""
    rows = [(name, value if len(value) <= MOST_SHOWN else f"{value[:MOST_SHOWN]}…") for name, value in imported.rows]
    return render("info", "settings", imported.program, imported.text, imported.missing, imported.notes, rows)


def verdict_html(verdict: Verdict, jpeg: bytes) -> str:
    """Whether a replay gave the same picture, and the new picture if not."""
    return render("info", "verdict", str(verdict), verdict.equal, jpeg)
