"""The tab PNG Info: what any picture says about how it was made, sent to a form or made again."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from webui.core.images import open_picture, to_jpeg
from webui.core.request import RequestError
from webui.engine.events import Failed
from webui.engine.replay import Verdict, compare, into, recipe
from webui.gradio_ext.files import uploaded
from webui.gradio_ext.gradio_events import LONG, QUIET, RAW, Updates
from webui.importers.imported_settings import ImportedSettings, read_imported_settings
from webui.tabs.form.describe import line, message, note, problem
from webui.tabs.form.job_events import JobButtons, snapshots, stop_job, submit
from webui.tabs.form.page_context import Page
from webui.tabs.form.picture_actions import Info, arrival, send_offer, send_outputs
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


def build_info(page: Page, benches: Sequence[Workbench], tabs: gr.Tabs) -> Info:
    """Build and wire the tab's content, and the buttons of the results that lead to it."""
    parts = _build()

    def look(image: Any) -> list[Any]:
        if not image:
            return [line(NOTHING), *[gr.update(interactive=False)] * 3]
        try:
            offer = _offer(page, image)
        except RequestError as error:
            return [problem(str(error)), *[gr.update(interactive=False)] * 3]
        mine = offer.record is not None
        return [settings_html(offer), *[gr.update(interactive=True)] * 2, gr.update(interactive=mine)]

    # One event for every way in which a picture comes here: dropped, pasted or sent. The verdict is none of its
    # business: that of a picture sent to be replayed may be there first.
    parts.image.change(look, parts.image, [parts.facts, *parts.buttons], **QUIET, **RAW)
    for bench in benches:
        _connect_send(page, parts, bench, tabs)
    return _connect_replay(page, parts, benches, tabs)


def _build() -> InfoWidgets:
    with gr.Row(elem_classes="bench"):
        with gr.Column(elem_classes="compose"):
            # The uploaded file itself, undecoded: its settings are in its bytes.
            image = gr.Image(
                type="filepath",
                image_mode=None,
                sources=["upload"],
                label="Picture",
                height=320,
                elem_id="info-image",
                interactive=True,
                buttons=[],
            )
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


def _connect_replay(page: Page, parts: InfoWidgets, benches: Sequence[Workbench], tabs: gr.Tabs) -> Info:
    run = _replay_of(page, parts)
    inputs, outputs = [page.token, parts.image], [parts.verdict, parts.replay, parts.stop]
    here = [parts.image, *outputs, tabs]
    replays = [parts.replay.click(run, inputs, outputs, concurrency_limit=None, **LONG, **RAW)]
    parts.stop.click(lambda token: stop_job(page, token, MODE), page.token, parts.stop, **QUIET)
    for bench in benches:
        sent = bench.result.again.click(_to_info, [bench.result.made, bench.result.chosen], here, **QUIET)
        replays.append(sent.then(run, inputs, outputs, concurrency_limit=None, **LONG, **RAW))
    # A verdict goes with the picture that it is about, and so does a replay that still runs.
    gr.on([bench.result.again.click for bench in benches], cancels=replays)
    for bench in benches:
        bench.result.info.click(_to_info, [bench.result.made, bench.result.chosen], here, cancels=replays, **QUIET)
    gr.on(
        [parts.image.upload, parts.image.clear],
        lambda: ["", gr.update(interactive=False)],
        None,
        [parts.verdict, parts.stop],
        cancels=replays,
        **QUIET,
    )
    return Info(here, replays)


def _offer(page: Page, image: Any) -> ImportedSettings:
    return read_imported_settings(uploaded(image), page.registry, page.engine.models())


def _to_info(made: list, chosen: int) -> list[Any]:
    choice = chosen_of(made, chosen)
    return arrival(choice and choice[0])


def _connect_send(page: Page, parts: InfoWidgets, bench: Workbench, tabs: gr.Tabs) -> None:
    outputs = send_outputs(bench, tabs)

    def send(image: Any, saved: Any) -> list[Any]:
        try:
            return send_offer(page, bench, saved, _offer(page, image), uploaded(image))
        except RequestError as error:
            gr.Warning(str(error))
            return [gr.skip()] * len(outputs)

    parts.send[bench.mode].click(send, [parts.image, page.kept[bench.mode]], outputs, **QUIET, **RAW)


def _replay_of(page: Page, parts: InfoWidgets) -> Any:
    """The event that makes the picture again and compares."""
    buttons = JobButtons(parts.replay, parts.stop, "Replay", "Replay")

    async def run(request: gr.Request, token: str, image: Any) -> AsyncGenerator[Updates]:
        token = token or request.session_hash or ""
        stop_job(page, token, MODE)
        with tempfile.TemporaryDirectory(prefix="sigmalab-replay-", ignore_cleanup_errors=True) as folder:
            try:
                path = uploaded(image)
                wanted = into(await asyncio.to_thread(recipe, path, page.engine), Path(folder))
                owner = page.owner(token, MODE)
                job = await submit(
                    page, partial(page.engine.submit_resolved, wanted.resolved, owner, False, wanted.environment)
                )
            except RequestError as error:
                yield {parts.verdict: problem(str(error))} | buttons.idle()
                return
            news = snapshots(page, job)
            try:
                async for now in news:
                    yield gr.skip() if now is None else {parts.verdict: message(now)} | buttons.working(job)
            finally:
                # Nobody wants a replay that is not looked at; its folder goes now.
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
        return verdict_html(compare(path, made, wanted), to_jpeg(open_picture(made), quality=92))
    except RequestError as error:
        return problem(str(error))


def settings_html(offer: ImportedSettings) -> str:
    """A picture's settings, and what of them could not be matched."""
    rows = [(name, value if len(value) <= MOST_SHOWN else f"{value[:MOST_SHOWN]}…") for name, value in offer.rows]
    return render("info", "settings", offer.program, offer.text, offer.missing, offer.notes, rows)


def verdict_html(verdict: Verdict, jpeg: bytes) -> str:
    """Whether a replay gave the same picture, and the new picture if not."""
    return render("info", "verdict", str(verdict), verdict.equal, jpeg)
