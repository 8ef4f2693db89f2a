"""Classifier-free guidance: a denoise(x, sigma) from a network's estimates with and without the prompt."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from .denoiser import Condition, Estimate, Network
from .sampler import Denoise


@dataclass(frozen=True)
class Interval:
    """The noise levels `low` < sigma <= `high`, where a high of 0 is no upper end."""

    low: float = 0.0
    high: float = 0.0

    def __contains__(self, sigma: float) -> bool:
        return self.low < sigma <= (self.high or math.inf)


@dataclass(frozen=True, eq=False)
class Guided:
    """Guidance with two estimates: uncond + scale * (cond - uncond), on the network's outputs.

    Ho & Salimans 2022, arXiv:2207.12598.

    scale    above 1 extrapolates away from the negative prompt
    rescale  0 to 1: how far the guided output is brought back to the standard deviation of the conditional one
    on_gap   called with (sigma, conditional minus unconditional estimate of x0) at each call
    """

    network: Network
    positive: Condition
    negative: Condition
    scale: float
    rescale: float = 0.0
    on_gap: Callable[[float, torch.Tensor], None] | None = None

    def __call__(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        uncond, cond = self.network.outputs(x, sigma, self.negative, self.positive)
        gap = cond - uncond
        if self.on_gap is not None:
            # An estimate is linear in output and state: with a state of zeros, this is the estimates' difference.
            self.on_gap(sigma, self.network.denoised(gap, torch.zeros_like(gap), sigma))
        guided = uncond + self.scale * gap
        if self.rescale:
            guided = rescale_guided(guided, cond, self.rescale)
        return self.network.denoised(guided, x, sigma)


@dataclass(frozen=True, eq=False)
class GuidanceInterval:
    """`guided` at the noise levels of an interval and `plain`, which costs half, elsewhere.

    Kynkaanniemi et al. 2024, arXiv:2404.07724.
    """

    guided: Denoise
    plain: Denoise
    interval: Interval

    def __call__(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        return (self.guided if sigma in self.interval else self.plain)(x, sigma)


def rescale_guided(guided: torch.Tensor, cond: torch.Tensor, share: float) -> torch.Tensor:
    """Bring the spread of `guided` back to that of `cond`, image by image, against over-exposure.

    share * guided * std(cond) / std(guided) + (1 - share) * guided; Lin et al. 2023, arXiv:2305.08891, eq. 15, 16.
    """
    axes = tuple(range(1, guided.ndim))
    rescaled = guided * (cond.std(axes, keepdim=True) / guided.std(axes, keepdim=True))
    return share * rescaled + (1.0 - share) * guided


def guide(
    network: Network,
    positive: Condition,
    negative: Condition,
    scale: float = 1.0,
    rescale: float = 0.0,
    interval: Interval = Interval(),
    on_gap: Callable[[float, torch.Tensor], None] | None = None,
) -> Denoise:
    """denoise(x, sigma) of a network for a prompt and a negative (or empty) prompt, see `Guided`.

    scale  1 is no guidance and 0 the negative prompt alone; both ask for one estimate only
    """
    plain = Estimate(network, positive)
    if scale == 1.0:
        return plain
    guided: Denoise = Estimate(network, negative)
    if scale != 0.0:
        guided = Guided(network, positive, negative, scale, rescale, on_gap)
    return GuidanceInterval(guided, plain, interval)
