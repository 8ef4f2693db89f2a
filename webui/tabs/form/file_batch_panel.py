"""Many pictures at once, in img2img and in Upscale: files or zips, one job, and a zip of the results."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from webui.core.file_batch import BatchFile, Upload, batch_files, remove
from webui.engine.events import Snapshot
from webui.engine.jobs import Job
from webui.engine.picture_batch import FileDone, PictureBatch
from webui.gradio_ext.files import served, served_zip, uploaded
from webui.gradio_ext.gradio_events import Updates
from webui.gradio_ext.lazy_tab import LazyContent, reach
from webui.tabs.form.page_context import Page
from webui.templates import render

from .controls import build_gallery
from .describe import message, note, pictures_text, problem, seconds_text
from .job_events import JobButtons, JobEvents, View, build_job_buttons

KINDS = ["image", ".zip"]
SHOWN = 60  # pictures in the gallery
HOW = "PNG, JPEG or WebP files, or zips of them. All settings are those of the form; a random seed is another for each."


@dataclass(frozen=True)
class BatchPanel:
    """The folded controls of a mode."""

    mode: str
    pictures: gr.File
    masks: gr.File | None
    buttons: JobButtons
    said: gr.HTML
    gallery: gr.Gallery
    download: gr.DownloadButton


def build_batch(mode: str, label: str, with_masks: bool = False) -> BatchPanel:
    """Build the panel, folded."""

    def files(title: str, name: str) -> gr.File:
        return gr.File(
            file_count="multiple", file_types=KINDS, label=title, height=120, elem_id=f"{mode}-{name}", interactive=True
        )

    with gr.Accordion("Many pictures", open=False, elem_id=mode, elem_classes="more"):
        gr.HTML(note(HOW))
        pictures = files("Pictures", "pictures")
        masks = files("Masks: each with its picture's name, or one for all", "masks") if with_masks else None
        buttons = build_job_buttons(mode, label, "At work", main=False)
        said = gr.HTML(elem_id=f"{mode}-message")
        gallery = build_gallery(f"{mode}-gallery", "pictures", columns=4, format="png")
        download = gr.DownloadButton("Download zip", size="sm", visible=False, elem_id=f"{mode}-download")
    return BatchPanel(mode, pictures, masks, buttons, said, gallery, download)


def connect_batch(
    page: Page,
    panel: BatchPanel,
    inputs: Sequence[Component],
    task_of: Callable[[Sequence[BatchFile], Sequence[Any]], PictureBatch],
    content: LazyContent | None = None,
) -> JobEvents:
    """Wire the panel.

    task_of  task_of(files, values of inputs) -> the task; its RequestError is shown
    content  of another tab, which the inputs are in
    """

    def make(owner: str, pictures: Any, *given: Any) -> Job:
        masks, values = (given[0], given[1:]) if panel.masks else (None, given)
        folder = Path(tempfile.mkdtemp(prefix="sigmalab-files-"))
        try:
            files = batch_files(uploads_of(pictures), uploads_of(masks), folder, page.engine.limits)
            job = page.engine.submit_task(task_of(files, values), owner)
        except BaseException:
            remove(folder)
            raise
        job.add_done_callback(lambda: remove(folder))
        return job

    def view(job: Job) -> View:
        async def updates(now: Snapshot) -> Updates:
            found: Updates = {panel.said: told(now)}
            if now.outcome is None:
                return found | {panel.gallery: gr.update(visible=False), panel.download: gr.update(visible=False)}
            done = [part for part in now.parts if isinstance(part, FileDone)]
            results = [(part.file.stem, path) for part in done for path in part.pictures]
            if not results:
                return found
            bundle = await asyncio.to_thread(served_zip, results, f"sigmalab-{len(results)}.zip")
            shown = [await asyncio.to_thread(served, path) for _, path in results[:SHOWN]]
            return found | {
                panel.gallery: gr.update(value=shown, visible=True),
                panel.download: gr.update(value=bundle, visible=True),
            }

        return updates

    buttons = panel.buttons
    outputs: Sequence[Component] = [panel.said, panel.gallery, panel.download, buttons.start, buttons.stop]
    events = JobEvents(page, panel.mode, buttons, view, lambda text: {panel.said: problem(text)}, outputs)
    files = [panel.pictures, *([panel.masks] if panel.masks else [])]
    events.connect(reach(content, buttons.start.click), [*files, *inputs], make)
    events.connect_stop()
    return events


def uploads_of(value: Any) -> list[Upload]:
    """The files of an upload as the browser sent them. Raises RequestError for a path that is none."""
    given = value if isinstance(value, list) else [value] if value else []
    return [Upload(uploaded(each), str(each.get("orig_name") or Path(each["path"]).name)) for each in given]


def told(now: Snapshot) -> str:
    """The message about a batch: how far it is, or what came of it and what could not be used."""
    info: Mapping[str, Any] | None = now.info
    if info is None or "files" not in info:
        return message(now)
    pictures = pictures_text(info["pictures"]).capitalize()
    text = f"{pictures} from {info['made']} of {info['files']} files in {seconds_text(info['seconds'])}"
    failed = [f"{each['file']}: {each['reason']}" for each in info["failed"]]
    return render("messages", "batch", f"Stopped. {text}" if info["stopped"] else text, failed)
