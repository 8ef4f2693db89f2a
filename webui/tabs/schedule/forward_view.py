"""The second part of the Schedule tab: a picture with noise, in pixels and in the model's latents."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from webui.core.images import fit_picture, open_small
from webui.core.limits import Limits
from webui.core.request import RequestError
from webui.gradio_ext.files import uploaded
from webui.gradio_ext.gradio_events import LONG, QUIET, RAW, on_change, signal
from webui.tabs.form.controls import build_upload, small_button
from webui.tabs.form.describe import problem
from webui.tabs.form.page_context import Page
from webui.tabs.form.workbench import Workbench, newest_result, results_of

from .forward_process import PROCESSES
from .noised_images import MAX_SIDE, Encoded, show, show_latents
from .run_plot import FIELDS
from .run_view import RunView
from .schedule_state import FORWARD


@dataclass(frozen=True, eq=False)
class ForwardView:
    """The controls and what they show; `source` holds the picture (PIL) and its name, `moved` changes with it."""

    upload: gr.Image
    example: gr.Button
    last: gr.Button
    process: gr.Radio
    at: gr.Slider
    deep: gr.Checkbox
    pictures: gr.HTML
    plot: gr.Plot
    sentence: gr.HTML
    strip: gr.HTML
    latents: gr.HTML
    message: gr.HTML
    source: gr.State
    encoded: gr.State
    moved: gr.Number


def build_forward() -> ForwardView:
    """Build the part's content."""
    with gr.Row(elem_classes="bench visual"):
        with gr.Column(elem_classes="compose"):
            with gr.Column(elem_classes="card"):
                upload = build_upload("forward-image", "Picture", 170)
                with gr.Row(elem_classes="small-buttons"):
                    example = small_button("The example", "forward-example")
                    last = small_button("Last result", "forward-last")
                message = gr.HTML(elem_id="forward-message")
                at = gr.Slider(
                    0,
                    1,
                    value=FORWARD["at"],
                    step=0.01,
                    label="Time",
                    info="0 is the picture, 1 the highest noise that the model was trained on.",
                    elem_id="forward-time",
                    interactive=True,
                )
                process = gr.Radio(
                    list(PROCESSES),
                    value=FORWARD["process"],
                    label="Process",
                    elem_id="forward-process",
                    interactive=True,
                )
                deep = gr.Checkbox(
                    False,
                    label="Also through the model's VAE",
                    info="Noises the latents and decodes them; needs the model.",
                    elem_id="forward-deep",
                    interactive=True,
                )
        with gr.Column(elem_classes="result"):
            with gr.Row(elem_classes="beside"):
                with gr.Column(min_width=260):
                    pictures = gr.HTML(elem_id="forward-pictures")
                with gr.Column(min_width=260):
                    plot = gr.Plot(show_label=False, elem_id="forward-plot", elem_classes="plot low")
            sentence = gr.HTML(elem_id="forward-sentence")
            strip = gr.HTML(elem_id="forward-strip")
            latents = gr.HTML(elem_id="forward-latents")
    moved = signal(name="forward-moved")
    return ForwardView(
        upload,
        example,
        last,
        process,
        at,
        deep,
        pictures,
        plot,
        sentence,
        strip,
        latents,
        message,
        source=gr.State(None),
        encoded=gr.State(None),
        moved=moved,
    )


def connect_forward(page: Page, run: RunView, view: ForwardView, benches: Sequence[Workbench], tab: gr.Tab) -> None:
    """Take pictures from three places, and show them with noise after every change."""
    engine = page.engine
    taken = [view.source, view.message, view.moved]
    view.upload.change(lambda file: _uploaded(file, engine.limits), view.upload, taken, **QUIET, **RAW)
    view.example.click(lambda: (None, "", time.time()), None, taken, **QUIET)
    view.last.click(lambda *given: _from_results(given, engine.limits), results_of(benches), taken, **QUIET)

    run_inputs = [run.options, *(run.fields[name] for name in FIELDS)]
    inputs = [view.source, view.process, view.at, *run_inputs]
    # The list of sigmas changes with everything that changes the run; `revision` when the page has been opened.
    when: dict[str, Any] = dict(since=run.revision, tab=tab)
    watched = [view.process, view.at, view.moved, run.listed, run.revision]

    def update(*given: Any) -> list[Any]:
        return show(engine, *given)

    on_change(watched, update, inputs, [view.pictures, view.plot, view.sentence, view.strip], **when, **QUIET)

    async def deeper(deep: bool, encoded: Encoded | None, *given: Any) -> tuple[Any, Any]:
        return await show_latents(engine, deep, encoded, *given)

    on_change(
        [*watched, view.deep],
        deeper,
        [view.deep, view.encoded, *inputs],
        [view.latents, view.encoded],
        concurrency_limit=None,
        **when,
        **LONG,
    )


def _uploaded(file: Any, limits: Limits) -> list[Any]:
    if not file:
        return [None, "", time.time()]
    try:
        return _taken(uploaded(file), limits)
    except RequestError as error:
        return [gr.skip(), problem(str(error)), gr.skip()]


def _from_results(given: Sequence[Any], limits: Limits) -> list[Any]:
    try:
        return _taken(newest_result(given), limits)
    except RequestError as error:
        return [gr.skip(), problem(str(error)), gr.skip()]


def _taken(path: Path, limits: Limits) -> list[Any]:
    # Each of many sessions keeps what is shown, a square large enough for every model, and not the upload.
    picture, size = open_small(path, MAX_SIDE, limits)
    side = min(*size, MAX_SIDE)
    return [fit_picture(picture, side, side), "", time.time()]
