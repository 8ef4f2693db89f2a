"""Noise a picture in pixels and in a model's latents: from values to updates, without widgets."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr
import plotly.graph_objects as go
import torch
from PIL import Image

from samplers.schedule import noise_share
from webui.core.images import fit_picture, to_jpeg
from webui.core.request import RequestError
from webui.engine.engine import Engine
from webui.engine.run_preview import run_levels
from webui.tabs.form.describe import SMALL, note, percent, problem
from webui.tabs.form.plots import FAINT, figure, line
from webui.templates import render
from weights.autoencoder import image_to_tensor, tensor_to_image
from weights.model_info import ModelInfo

from .forward_process import (
    EXPLODING,
    FLOW,
    PRESERVING,
    PROCESSES,
    Histogram,
    example_picture,
    histogram,
    noised,
    sigma_at,
    some_of,
)
from .run_plot import plan_from

MAX_SIDE = 512  # pixels
STRIP = 8  # pictures along the schedule
EXPLANATIONS = {
    PRESERVING: "Variance preserving: the picture fades as the noise comes up, so that the spread of the values stays "
    "about the same and ends as the bell curve of width 1 (dashed).",
    EXPLODING: "Variance exploding: noise is laid over an unchanged picture; the values spread far beyond black and "
    "white, where the picture on the left is cut off. Samplers here work in this scaling.",
    FLOW: "Flow: a straight blend of picture and noise, (1 - t) of one and t of the other; in the middle the values "
    "are closer together than at either end.",
}


@dataclass(frozen=True, eq=False)
class Encoded:
    """Latents (1, channels, h, w) of a picture on a model, so that a moved slider does not encode it once more."""

    model: str
    picture: bytes
    latents: torch.Tensor


def show(
    engine: Engine, source: Image.Image | None, process: Any, at: Any, options: Mapping[str, Any], *given: Any
) -> list[Any]:
    """Updates for pictures, plot, sentence and strip: the picture in pixels."""
    try:
        model_info, sigma, levels = _levels(engine, process, at, options, given)
    except RequestError as error:
        return [problem(str(error)), gr.skip(), gr.skip(), gr.skip()]
    clean = picture_for(source, model_info)
    values = image_to_tensor(clean)
    now = noised(values, sigma, process)
    caption = f"Time {at:g}: sigma {sigma:.3g}, {percent(noise_share(sigma))} noise"
    pair = _figures([(clean, "The picture"), (tensor_to_image(now[0]), caption)], "pair")
    strip = [(tensor_to_image(noised(values, level, process)[0]), _caption(level)) for level in levels]
    told = note("The levels of the run, from its start to its end.")
    return [
        pair,
        draw_histogram(histogram(now, sigma, process)),
        note(EXPLANATIONS[process]),
        _figures(strip, "strip") + told,
    ]


async def show_latents(
    engine: Engine,
    deep: bool,
    encoded: Encoded | None,
    source: Image.Image | None,
    process: Any,
    at: Any,
    options: Mapping[str, Any],
    *given: Any,
) -> tuple[Any, Any]:
    """Updates for the pictures of the latents and for `encoded`; the model runs in the engine's thread."""
    if not deep:
        return "", None
    try:
        model_info, sigma, levels = _levels(engine, process, at, options, given)
        picture = picture_for(source, model_info)
        shown = dict(picture=picture, encoded=encoded, sigma=sigma, levels=levels, process=process)
        answer = engine.ask(model_info.name, partial(decode_noised, **shown))
        pictures, known = await asyncio.wrap_future(answer)
    except RequestError as error:
        return problem(str(error)), None
    caption = f"In latents: sigma {sigma:.3g}, {percent(noise_share(sigma))} noise"
    first = _figures([(pictures[0], "Encoded and decoded"), (pictures[1], caption)], "pair")
    strip = [(picture, _caption(level)) for picture, level in zip(pictures[2:], levels, strict=False)]
    told = note(
        f"The same noise level in the latents of {model_info.name}, decoded: each latent stands for "
        f"{model_info.factor} x {model_info.factor} pixels, so noise comes in patches of colour."
    )
    return first + told + (_figures(strip, "strip") if strip else ""), known


def decode_noised(
    model: Any,
    picture: Image.Image,
    encoded: Encoded | None,
    sigma: float,
    levels: Sequence[float],
    process: str,
) -> tuple[list[Image.Image], Encoded]:
    """The decoded latents without noise, at sigma and at each level, and the encoded picture for the next call.

    The levels are left out where they would take many seconds of the queue.
    """
    pixels = picture.tobytes()
    if encoded is None or (encoded.model, encoded.picture) != (model.name, pixels):
        encoded = Encoded(model.name, pixels, model.encode(picture).cpu().clone())
    sigmas = [sigma, *(levels if model.is_cheap_to_decode(*picture.size) else [])]
    states = [encoded.latents, *(noised(encoded.latents, each, process) for each in sigmas)]
    return [model.decode(state.to(model.device))[0] for state in states], encoded


def draw_histogram(shown: Histogram) -> go.Figure:
    """The histogram as a plot, the bell curve of pure noise dashed behind it."""
    drawing = figure("value: -1 is black, 1 is white", "", height=240)
    line(drawing, shown.centres, shown.pure, "Noise alone", colour=FAINT, dash="dash", points=False)
    line(drawing, shown.centres, shown.density, "Pixel values", points=False)
    drawing.data[-1].update(fill="tozeroy", line_shape="hvh", fillcolor="rgba(31, 156, 136, 0.22)")
    return drawing


def picture_for(source: Image.Image | None, model_info: ModelInfo) -> Image.Image:
    """The picture at the model's own size, the example where none was given."""
    side = min(model_info.defaults.size, MAX_SIDE)
    return example_picture(side) if source is None else fit_picture(source, side, side)


def _levels(
    engine: Engine, process: Any, at: Any, options: Mapping[str, Any], given: Sequence[Any]
) -> tuple[ModelInfo, float, list[float]]:
    if process not in PROCESSES or isinstance(at, bool) or not isinstance(at, int | float) or not 0 <= at <= 1:
        raise RequestError(f"Process must be one of {', '.join(PROCESSES)}, and time a number from 0 to 1.")
    preview = plan_from(engine, options, given)
    model_info = preview.model_info
    return model_info, sigma_at(model_info.schedule, at), some_of(run_levels(preview).sigmas, STRIP)


def _caption(sigma: float) -> str:
    return f"{sigma:.3g}" if sigma else "0"


def _figures(pictures: Sequence[tuple[Image.Image, str]], look: str) -> str:
    small = bool(pictures) and pictures[0][0].width <= SMALL
    shown = [(to_jpeg(picture, quality=92), caption) for picture, caption in pictures]
    return render("schedule", "figures", look, small, shown)
