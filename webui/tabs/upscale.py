"""The tab Upscale: a picture enlarged, by itself or with detail drawn into it in tiles."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component
from PIL import Image

from webui.core.fields import fields_of
from webui.core.file_batch import BatchFile
from webui.core.images import PREVIEW_SIDE, png_bytes, shrunk
from webui.core.request import Request, read_as
from webui.core.upscale_request import UpscaleRequest, pixel_upscalers
from webui.engine.events import Snapshot
from webui.engine.jobs import DrawJob, Job
from webui.engine.picture_batch import PictureBatch, draw_batch, enlarge_batch
from webui.engine.upscaling import Upscaling
from webui.gradio_ext.files import served, served_bytes, uploaded
from webui.gradio_ext.gradio_events import QUIET, Updates
from webui.gradio_ext.lazy_tab import LazyContent, reach
from webui.tabs.form.controls import build_control, build_upload, upscaler_choices
from webui.tabs.form.describe import message, note, problem, stage
from webui.tabs.form.file_batch_panel import build_batch, connect_batch
from webui.tabs.form.form import to_request
from webui.tabs.form.job_events import JobEvents, View, build_job_buttons
from webui.tabs.form.page_context import Page
from webui.tabs.form.workbench import Workbench
from webui.templates import render

MODE = "upscale"
STRENGTH = 0.3  # of what is drawn into a picture: tiles see the prompt, and more would draw its subject in each
SIDE = 2 * PREVIEW_SIDE  # pixels of the picture that the result is compared with


@dataclass(frozen=True, eq=False)
class UpscaleTab:
    """What others need of the tab: where a picture and its prompt are sent to, and the events of its jobs.

    files    those of the jobs on many pictures
    content  the tab's, which the browser gets when it is first opened
    """

    image: gr.Image
    prompt: gr.Textbox
    events: JobEvents
    files: JobEvents
    content: LazyContent


def build_upscale(page: Page, content: LazyContent, bench: Workbench) -> UpscaleTab:
    """Build and wire the tab's content; `bench` is img2img, whose settings draw the detail."""
    fields = fields_of(UpscaleRequest)
    with gr.Row(elem_classes="bench"):
        with gr.Column(elem_classes="compose"):
            image = build_upload(f"{MODE}-image", "Picture", 260)
            with gr.Column(elem_classes="card"):
                scale = build_control(fields["scale"], MODE)
                names = pixel_upscalers(page.engine.upscalers())
                upscaler = build_control(fields["upscaler"], MODE, choices=upscaler_choices(names))
                detail = gr.Checkbox(
                    False,
                    label="Add detail",
                    info="Draw the enlarged picture anew in tiles, by img2img",
                    elem_id=f"{MODE}-detail",
                    interactive=True,
                )
                with gr.Column(visible=False) as drawing:
                    prompt = build_control(
                        fields_of(Request)["prompt"], MODE, placeholder="What every part of it shows", lines=2
                    )
                    strength = build_control(fields_of(Request)["strength"], MODE, value=STRENGTH)
                    gr.HTML(note("Model, sampler, steps, guidance, seed and the tile's size are those of img2img."))
            buttons = build_job_buttons(MODE, "Upscale", "Upscaling")
            batch = build_batch(f"{MODE}-files", "Upscale all")
        with gr.Column(elem_classes="result"):
            live = gr.HTML(render("form", "empty_stage"), elem_id=f"{MODE}-stage", elem_classes="stage-box")
            compared = gr.ImageSlider(
                visible=False,
                show_label=False,
                type="filepath",
                interactive=False,
                buttons=["fullscreen"],
                elem_id=f"{MODE}-compared",
            )
            said = gr.HTML(message(None, "Upload a picture and press Upscale."), elem_id=f"{MODE}-message")
            download = gr.DownloadButton(
                "Download", size="sm", scale=0, min_width=0, visible=False, elem_id=f"{MODE}-download"
            )
    detail.change(lambda wanted: gr.update(visible=bool(wanted)), detail, drawing, **QUIET)
    # Files may have come since the page was opened.
    content.when_shown(lambda: gr.update(choices=upscaler_choices(pixel_upscalers(page.engine.upscalers()))), upscaler)

    def view(job: Job) -> View:
        # A job lets its input go when it ends.
        before = input_of(job)

        async def updates(now: Snapshot) -> Updates:
            found: Updates = {live: stage(now), said: message(now)}
            if now.outcome is None or not now.pictures:
                ended = {live: render("form", "empty_stage")} if now.outcome else {}
                return found | ended | {compared: gr.update(visible=False), download: gr.update(visible=False)}
            after = await asyncio.to_thread(served, now.pictures[0].path)
            shown = await asyncio.to_thread(_beside, before) if before else after
            return found | {
                compared: gr.update(value=(shown, after), visible=True),
                download: gr.update(value=after, visible=True),
            }

        return updates

    def make(owner: str, image: Any, scale: Any, upscaler: Any, detail: Any, *given: Any) -> Job:
        wanted = {"image": image, "scale": scale, "upscaler": upscaler or ""}
        if not detail:
            return page.engine.submit_upscale(read_as(UpscaleRequest, {**wanted, "image": uploaded(image)}), owner)
        prompt, strength, *form = given
        return page.engine.submit(
            detail_request(bench, form, {**wanted, "prompt": prompt, "strength": strength}), owner
        )

    def task_of(files: Sequence[BatchFile], given: Sequence[Any]) -> PictureBatch:
        scale, upscaler, detail, prompt, strength, *form = given
        wanted = {"scale": scale, "upscaler": upscaler or ""}
        if not detail:
            return enlarge_batch(page.engine, read_as(UpscaleRequest, wanted), files)
        request = detail_request(bench, form, {**wanted, "image": None, "prompt": prompt, "strength": strength})
        return draw_batch(page.engine, request, files)

    settings = [scale, upscaler, detail, prompt, strength, *bench.form.inputs]
    outputs: Sequence[Component] = [live, compared, said, download, buttons.start, buttons.stop]
    events = JobEvents(page, MODE, buttons, view, lambda text: {said: problem(text)}, outputs)
    events.connect(reach(bench.content, buttons.start.click), [image, *settings], make)
    events.connect_stop()
    files = connect_batch(page, batch, settings, task_of, bench.content)
    content.arrived()
    return UpscaleTab(image, prompt, events, files, content)


def detail_request(bench: Workbench, given: Sequence[Any], wanted: dict[str, Any]) -> Request:
    """The request of one picture that is enlarged and drawn in tiles, with the settings of img2img. RequestError."""
    values = bench.form.values(given) | wanted
    plain = {"mask": None, "outpaint": (0, 0, 0, 0), "inpaint_area": "whole", "count": 1}
    return to_request("img2img", values | plain)


def input_of(job: Job) -> Image.Image | None:
    """The picture that a job of this tab enlarges, while it has not ended."""
    if isinstance(job, DrawJob):
        return job.drawing.source.picture if job.drawing.source else None
    task = getattr(job, "task", None)
    return task.picture if isinstance(task, Upscaling) else None


def _beside(image: Image.Image) -> str:
    """A file of the picture before, as large as the eye needs it."""
    return served_bytes(png_bytes(shrunk(image, SIDE)), "before.png")
