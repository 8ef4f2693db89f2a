"""The forward process: add noise to a picture in the scalings of three kinds of training.

All three scale the same noised picture x0 + sigma * eps: see `samplers.schedule`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image, ImageDraw

from samplers.denoiser import to_network
from samplers.noise import Noise
from samplers.schedule import NoiseSchedule

PRESERVING, EXPLODING, FLOW = "variance preserving", "variance exploding", "flow"
PROCESSES = (PRESERVING, EXPLODING, FLOW)
SEED = 1  # one noise for all levels, so that it does not flicker when the slider moves
BINS = 72


def noised(clean: torch.Tensor, sigma: float, process: str) -> torch.Tensor:
    """Pictures or latents (images, channels, h, w) with noise of level sigma, in the scaling of `process`.

    "variance preserving" (x0 + sigma eps) / sqrt(1 + sigma^2), "variance exploding" x0 + sigma eps,
    "flow" (x0 + sigma eps) / (1 + sigma). The noise is the same at every level.
    """
    x = clean + sigma * Noise((SEED,) * len(clean), "initial")(clean)
    return x if process == EXPLODING else to_network(x, sigma, process == FLOW)


def noise_scale(sigma: float, process: str) -> float:
    """The standard deviation of the noise in the result of `noised`."""
    if process == EXPLODING:
        return sigma
    return sigma / (1 + sigma) if process == FLOW else sigma / math.sqrt(1 + sigma * sigma)


def sigma_at(model: NoiseSchedule, time: float) -> float:
    """sigma at a share of the model's training time: 1 is its highest level, 0 its lowest one."""
    return model.sigma(model.bottom + (model.top - model.bottom) * min(max(time, 0.0), 1.0))


def some_of(sigmas: Sequence[float], count: int) -> list[float]:
    """At most `count` sigmas of a list, evenly over its steps, the first and the last among them."""
    if len(sigmas) <= count:
        return list(sigmas)
    return [sigmas[round(i * (len(sigmas) - 1) / (count - 1))] for i in range(count)]


@dataclass(frozen=True)
class Histogram:
    """The density of values at `centres`, of area 1, and `pure`, the density of noise alone."""

    centres: tuple[float, ...]
    density: tuple[float, ...]
    pure: tuple[float, ...]


def histogram(values: torch.Tensor, sigma: float, process: str) -> Histogram:
    """The values of a noised picture in bins, beside the Gaussian N(0, scale^2) of its noise alone.

    The range is four standard deviations, and at least that of a picture; values outside are counted in the outer bins.
    """
    scale = noise_scale(sigma, process)
    reach = max(4 * scale, 1.5) if process == EXPLODING else 4.0
    counts = torch.histc(values.float().clamp(-reach, reach), BINS, -reach, reach)
    width = 2 * reach / BINS
    centres = tuple(-reach + width * (i + 0.5) for i in range(BINS))
    density = (counts / (counts.sum() * width)).tolist()
    pure = tuple(_bell(centre, scale) if scale > width / 4 else 0.0 for centre in centres)
    return Histogram(centres, tuple(density), pure)


def example_picture(side: int = 64) -> Image.Image:
    """A smiling face on white, drawn here, side x side pixels."""
    unit = 8  # drawn eight times larger and shrunk, for soft edges
    sheet = Image.new("RGB", (64 * unit, 64 * unit), "white")
    draw = ImageDraw.Draw(sheet)

    def box(x: float, y: float, across: float, down: float) -> tuple[float, ...]:
        return tuple(unit * value for value in (x - across, y - down, x + across, y + down))

    draw.ellipse(box(32, 32, 27, 27), fill="#e6a01a")
    draw.ellipse(box(32, 31, 26, 26), fill="#ffcc33")
    for x in (22, 42):
        draw.ellipse(box(x, 25, 4, 5.5), fill="#5b3a16")
        draw.ellipse(box(x - 1.2, 23, 1.2, 1.5), fill="white")
    for x in (14, 50):
        draw.ellipse(box(x, 36, 5, 3.4), fill="#ff9a5c")
    draw.chord(box(32, 36, 15, 14), 12, 168, fill="#7a2e12")
    draw.chord(box(32, 46, 8, 6), 20, 160, fill="#e8505b")
    return sheet.resize((side, side), Image.Resampling.LANCZOS)


def _bell(value: float, scale: float) -> float:
    return math.exp(-0.5 * (value / scale) ** 2) / (scale * math.sqrt(2 * math.pi))
