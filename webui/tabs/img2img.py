"""The tab img2img: pictures from words and an input picture, shown cropped as the run uses it; a part of it or all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from webui.core.file_batch import BatchFile
from webui.core.images import fit_picture, open_small, to_jpeg
from webui.core.limits import LOCAL, Limits
from webui.core.request import RequestError
from webui.engine.picture_batch import PictureBatch, draw_batch
from webui.gradio_ext.files import uploaded
from webui.gradio_ext.gradio_events import QUIET, on_change
from webui.gradio_ext.lazy_tab import LazyContent
from webui.tabs.form.controls import build_inpaint, build_input, build_tiles, build_upload
from webui.tabs.form.describe import fitted
from webui.tabs.form.file_batch_panel import BatchPanel, build_batch, connect_batch
from webui.tabs.form.form import to_request
from webui.tabs.form.job_events import JobEvents
from webui.tabs.form.mask_painter import MaskPainter, build_mask_painter, connect_mask_painter
from webui.tabs.form.page_context import Page
from webui.tabs.form.workbench import Workbench, build_workbench

LARGEST = 4096  # pixels of a side; what is larger is refused when it is run


def build_img2img(page: Page, content: LazyContent) -> tuple[Workbench, JobEvents]:
    """Build the tab's content; the events are those of the jobs on many pictures."""
    used: list[gr.HTML] = []
    painters: list[MaskPainter] = []
    batches: list[BatchPanel] = []
    settings: list[gr.Column] = []

    def picture() -> dict[str, Any]:
        with gr.Row(elem_classes="source"):
            # image_mode None hands over the uploaded file itself, undecoded: it is opened with care, in the engine too.
            image = build_upload("img2img-image", "Input picture", 210, min_width=150, scale=3)
            with gr.Column(min_width=120, scale=2, elem_classes="used"):
                used.append(gr.HTML(fitted(None), elem_id="img2img-used"))
        painters.append(build_mask_painter("img2img"))
        batches.append(build_batch("img2img-files", "Draw all", with_masks=True))
        return {"image": image, "mask": painters[0].mask}

    def strength() -> dict[str, Any]:
        with gr.Column(elem_classes="card"):
            controls = build_input("img2img") | build_tiles(page, "img2img")
        with gr.Column(visible=False, elem_classes="card", elem_id="img2img-inpaint-settings") as inpainting:
            controls |= build_inpaint("img2img")
        settings.append(inpainting)
        return controls

    bench = build_workbench(page, "img2img", picture, strength, content)
    inputs = [bench.form.fields[name] for name in ("image", "width", "height", "fit")]
    fields = bench.form.fields
    connect_mask_painter(painters[0], fields["image"], settings[0], fields["outpaint"], page)
    content.heard(painters[0].editor, "input")

    def show(image: Any, width: Any, height: Any, fit: Any) -> str:
        return show_fitted(image, width, height, fit, page.engine.limits)

    on_change(inputs, show, inputs, used[0], **QUIET)

    def task_of(files: Sequence[BatchFile], given: Sequence[Any]) -> PictureBatch:
        # The form's own picture does not count, and its mask only if it is one for all.
        return draw_batch(page.engine, to_request("img2img", bench.form.values(given)), files)

    events = connect_batch(page, batches[0], bench.form.inputs, task_of)
    return bench, events


def show_fitted(image: Any, width: Any, height: Any, fit: Any, limits: Limits = LOCAL) -> str:
    """The picture as the run will see it, or why it cannot be used."""
    if not image or not all(isinstance(side, int) and 0 < side <= LARGEST for side in (width, height)):
        return fitted(None)
    try:
        source, size = open_small(uploaded(image), max(width, height), limits)
        used = to_jpeg(fit_picture(source, width, height, fit), quality=90)
        return fitted(used, size, (width, height), fit)
    except RequestError as error:
        return fitted(None, problem=str(error))
