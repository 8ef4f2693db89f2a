"""The second part of the Schedule tab: a picture on its way into noise, in pixels and in the model's latents."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
import torch
from PIL import Image

from samplers.schedule import noise_share
from weights.catalog import Found

from .describe import percent, problem
from .engine import Engine
from .files import uploaded
from .forward import EXPLODING, FLOW, PRESERVING, PROCESSES, Histogram, example_picture, histogram, noised, sigma_at, some_of, to_picture, to_values
from .pictures import fit_picture, open_picture, to_jpeg
from .plots import FAINT, figure, line
from .request import RequestError
from .schedule_run import FIELDS, RunView, plan_from
from .schedule_sending import newest, results_of
from .shared import LONG, QUIET, RAW, Page
from .workbench import Workbench

LARGEST = 512  # pixels of a side: a larger picture shows nothing more
STRIP = 8  # pictures along the schedule
QUICK = 128  # pixels of a side up to which a whole strip of latents is decoded
SAYS = {
    PRESERVING: "Variance preserving: the picture fades as the noise comes up, so that the spread of the values stays "
    "about the same and ends as the bell curve of width 1 (dashed).",
    EXPLODING: "Variance exploding: noise is laid over an unchanged picture; the values spread far beyond black and "
    "white, where the picture on the left is cut off. Samplers here work in this scaling.",
    FLOW: "Flow: a straight blend of picture and noise, (1 - t) of one and t of the other; in the middle the values "
    "are closer together than at either end.",
}


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


@dataclass(frozen=True, eq=False)
class Encoded:
    """Latents (1, channels, h, w) of a picture on a model, so that a slider does not encode it again and again."""

    model: str
    picture: bytes
    latents: torch.Tensor


def build_forward(page: Page) -> ForwardView:
    """Build the part's content."""
    with gr.Row(elem_classes="bench visual"):
        with gr.Column(elem_classes="compose"):
            with gr.Column(elem_classes="card"):
                upload = gr.Image(
                    type="filepath", image_mode=None, sources=["upload", "clipboard"], label="Picture", height=170,
                    elem_id="forward-image", elem_classes="dropped", interactive=True, buttons=[],
                )  # fmt: skip
                with gr.Row(elem_classes="small-buttons"):
                    example = gr.Button("The example", size="sm", scale=0, min_width=0, elem_id="forward-example")
                    last = gr.Button("Last result", size="sm", scale=0, min_width=0, elem_id="forward-last")
                message = gr.HTML(elem_id="forward-message")
                at = gr.Slider(
                    0, 1, value=0.35, step=0.01, label="Time", info="0 is the picture, 1 the highest noise that the model was trained on.",
                    elem_id="forward-time", interactive=True,
                )  # fmt: skip
                process = gr.Radio(list(PROCESSES), value=PRESERVING, label="Process", elem_id="forward-process", interactive=True)
                deep = gr.Checkbox(
                    False, label="Also through the model's VAE", info="Noises the latents and decodes them; needs the model.",
                    elem_id="forward-deep", interactive=True,
                )  # fmt: skip
        with gr.Column(elem_classes="result"):
            with gr.Row(elem_classes="beside"):
                with gr.Column(min_width=260):
                    pictures = gr.HTML(elem_id="forward-pictures")
                with gr.Column(min_width=260):
                    plot = gr.Plot(show_label=False, elem_id="forward-plot", elem_classes="plot low")
            sentence = gr.HTML(elem_id="forward-sentence")
            strip = gr.HTML(elem_id="forward-strip")
            latents = gr.HTML(elem_id="forward-latents")
    moved = gr.Number(0, visible="hidden", elem_id="forward-moved")
    return ForwardView(
        upload, example, last, process, at, deep, pictures, plot, sentence, strip, latents, message,
        source=gr.State(None), encoded=gr.State(None), moved=moved,
    )  # fmt: skip


def connect_forward(page: Page, run: RunView, view: ForwardView, benches: Sequence[Workbench]) -> None:
    """Take pictures from three places, and show them noised whenever something moves."""
    engine = page.engine
    taken = [view.source, view.message, view.moved]
    view.upload.change(lambda file: _uploaded(file), view.upload, taken, **QUIET, **RAW)
    view.example.click(lambda: (None, "", time.time()), None, taken, **QUIET)
    view.last.click(_from_results, results_of(benches), taken, **QUIET)

    run_inputs = [run.options, *(run.fields[name] for name in FIELDS)]
    inputs = [view.source, view.process, view.at, *run_inputs]
    # The list of sigmas changes with everything that changes the run; `revision` when the page has been opened.
    triggers = [each.change for each in (view.process, view.at, view.moved, run.listed, run.revision)]

    def again(*given: Any) -> list[Any]:
        return show(engine, *given)

    gr.on(triggers, again, inputs, [view.pictures, view.plot, view.sentence, view.strip], trigger_mode="always_last", **QUIET, **RAW)

    async def deeper(deep: bool, encoded: Encoded | None, *given: Any) -> tuple[Any, Any]:
        return await show_latents(engine, deep, encoded, *given)

    gr.on(
        [*triggers, view.deep.change], deeper, [view.deep, view.encoded, *inputs], [view.latents, view.encoded],
        trigger_mode="always_last", concurrency_limit=None, **LONG, **RAW,
    )  # fmt: skip


def show(engine: Engine, source: Image.Image | None, process: Any, at: Any, options: Mapping[str, Any], *given: Any) -> list[Any]:
    """Updates for pictures, plot, sentence and strip: the picture in pixels."""
    try:
        found, sigma, levels = _levels(engine, process, at, options, given)
    except RequestError as error:
        return [problem(str(error)), gr.skip(), gr.skip(), gr.skip()]
    clean = picture_for(source, found)
    values = to_values(clean)
    now = noised(values, sigma, process)
    caption = f"Time {at:g}: sigma {sigma:.3g}, {percent(noise_share(sigma))} noise"
    pair = _figures([(clean, "The picture"), (to_picture(now[0]), caption)], "pair")
    strip = [(to_picture(noised(values, level, process)[0]), _caption(level)) for level in levels]
    told = "<p class='note'>The levels of the run, from its start to its end, as it will meet them.</p>"
    return [
        pair,
        draw_histogram(histogram(now, sigma, process)),
        f"<p class='note'>{escape(SAYS[process])}</p>",
        _figures(strip, "strip") + told,
    ]


async def show_latents(
    engine: Engine, deep: bool, encoded: Encoded | None, source: Image.Image | None, process: Any, at: Any, options: Mapping[str, Any], *given: Any
) -> tuple[Any, Any]:
    """Updates for the latents' pictures and for what is kept of them; the model works in the engine's thread."""
    if not deep:
        return "", None
    try:
        found, sigma, levels = _levels(engine, process, at, options, given)
        picture = picture_for(source, found)
        # A whole strip would keep everybody waiting where a picture takes a second to decode.
        wanted = [sigma, *(levels if found.defaults.size <= QUICK else [])]
        answer = engine.ask(found.name, lambda model: decode_noised(model, picture, encoded, wanted, process))
        pictures, known = await asyncio.wrap_future(answer)
    except RequestError as error:
        return problem(str(error)), None
    caption = f"In latents: sigma {sigma:.3g}, {percent(noise_share(sigma))} noise"
    first = _figures([(pictures[0], "Encoded and decoded"), (pictures[1], caption)], "pair")
    strip = [(picture, _caption(level)) for picture, level in zip(pictures[2:], levels, strict=False)]
    told = (
        f"<p class='note'>The same noise level in the latents of {escape(found.name)}, decoded: each latent stands for "
        f"{found.factor} x {found.factor} pixels, so noise comes in patches of colour.</p>"
    )
    return first + told + (_figures(strip, "strip") if strip else ""), known


def decode_noised(model: Any, picture: Image.Image, encoded: Encoded | None, sigmas: Sequence[float], process: str) -> tuple[list[Image.Image], Encoded]:
    """The picture through the VAE alone, then noised at each sigma and decoded; and its latents, to be given again."""
    pixels = picture.tobytes()
    if encoded is None or (encoded.model, encoded.picture) != (model.name, pixels):
        encoded = Encoded(model.name, pixels, model.encode(picture).cpu().clone())
    states = [encoded.latents, *(noised(encoded.latents, sigma, process) for sigma in sigmas)]
    return [model.decode(state.to(model.device))[0] for state in states], encoded


def draw_histogram(shown: Histogram) -> Any:
    """The histogram as a plot, the bell curve of pure noise dashed behind it."""
    drawing = figure("value: -1 is black, 1 is white", "", height=240)
    line(drawing, shown.centres, shown.pure, "Noise alone", colour=FAINT, dash="dash", points=False)
    line(drawing, shown.centres, shown.density, "Pixel values", points=False)
    drawing.data[-1].update(fill="tozeroy", line_shape="hvh", fillcolor="rgba(31, 156, 136, 0.22)")
    return drawing


def picture_for(source: Image.Image | None, found: Found) -> Image.Image:
    """The picture at the model's own size, the example where none was given."""
    side = min(found.defaults.size, LARGEST)
    return example_picture(side) if source is None else fit_picture(source, side, side)


def _levels(engine: Engine, process: Any, at: Any, options: Mapping[str, Any], given: Sequence[Any]) -> tuple[Found, float, list[float]]:
    if process not in PROCESSES or isinstance(at, bool) or not isinstance(at, int | float) or not 0 <= at <= 1:
        raise RequestError(f"Process must be one of {', '.join(PROCESSES)}, and time a number from 0 to 1.")
    made = plan_from(engine, options, given)
    return made.found, sigma_at(made.found.schedule, at), some_of(made.run.sigmas, STRIP)


def _uploaded(file: Any) -> list[Any]:
    if not file:
        return [None, "", time.time()]
    try:
        return _taken(uploaded(file))
    except RequestError as error:
        return [gr.skip(), problem(str(error)), gr.skip()]


def _from_results(*given: Any) -> list[Any]:
    path = newest(given)
    if path is None:
        return [gr.skip(), problem("There is no result yet: make a picture in txt2img or img2img."), gr.skip()]
    try:
        return _taken(path)
    except RequestError as error:
        return [gr.skip(), problem(str(error)), gr.skip()]


def _taken(path: Path) -> list[Any]:
    # Kept at a size that every model can be served from, not at the 50 megapixels of a phone.
    picture = open_picture(path)
    return [fit_picture(picture, LARGEST, LARGEST) if min(picture.size) > LARGEST else picture, "", time.time()]


def _caption(sigma: float) -> str:
    return f"{sigma:.3g}" if sigma else "0"


def _figures(pictures: Sequence[tuple[Image.Image, str]], look: str) -> str:
    shown = []
    for picture, caption in pictures:
        data = base64.b64encode(to_jpeg(picture, quality=92)).decode("ascii")
        text = escape(caption)
        shown.append(f"<figure><img src='data:image/jpeg;base64,{data}' alt='{text}'><figcaption>{text}</figcaption></figure>")
    return f"<div class='{look}{' pixels' if pictures and pictures[0][0].width <= QUICK else ''}'>{''.join(shown)}</div>"
