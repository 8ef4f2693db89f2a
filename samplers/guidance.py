"""Classifier-free guidance: a denoise(x, sigma) from a network's estimates with and without the prompt."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from .denoiser import Condition, Network
from .estimates import Denoise, Parts
from .sampler import Guidance
from .schedule import NoiseSchedule


@dataclass(frozen=True)
class Interval:
    """The noise levels `low` < sigma <= `high`, where a high of 0 is no upper end."""

    low: float = 0.0
    high: float = 0.0

    def __contains__(self, sigma: float) -> bool:
        return self.low < sigma <= (self.high or math.inf)


@dataclass(frozen=True)
class Method:
    """A guidance with its options, as a run uses it; `scale` is the request's guidance scale."""

    guidance: Guidance
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Guided:
    """Guidance with two estimates: uncond + scale * (cond - uncond), on the network's outputs.

    Ho & Salimans 2022, arXiv:2207.12598.

    scale    above 1 extrapolates away from the negative prompt; 1 and 0 ask for one estimate only
    rescale  0 to 1: how far the guided output is brought back to the standard deviation of the conditional one
    on_gap   called with (sigma, conditional minus unconditional estimate of x0) at each call
    method   another guidance, on the estimates of x0; rescale then acts on these
    """

    network: Network
    positive: Condition
    negative: Condition
    scale: float
    rescale: float = 0.0
    on_gap: Callable[[float, torch.Tensor], None] | None = None
    method: Method | None = None
    # What a method keeps between the calls of a run, for each shape of x: a sampler may ask at several sizes.
    states: dict[tuple[int, ...], dict[str, Any]] = field(default_factory=dict)

    @property
    def model(self) -> NoiseSchedule:
        """The noise levels of the network."""
        return self.network.schedule

    def new_run(self) -> None:
        """Forget what the method kept."""
        self.states.clear()

    def __call__(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        if self._needs_one(x, sigma):
            condition = self.positive if self.scale else self.negative
            return self.network.denoised(self.network.output(x, sigma, condition), x, sigma)
        uncond, cond = self.network.outputs(x, sigma, self.negative, self.positive)
        return self._guided(cond, uncond, x, sigma)

    def parts(self, x: torch.Tensor, sigma: float) -> Parts:
        """The guided estimate and its two; both are computed, also where the guided one needs one only."""
        uncond, cond = self.network.outputs(x, sigma, self.negative, self.positive)
        conditional, unconditional = (self.network.denoised(output, x, sigma) for output in (cond, uncond))
        if self._needs_one(x, sigma):
            return Parts(conditional if self.scale else unconditional, conditional, unconditional)
        return Parts(self._guided(cond, uncond, x, sigma), conditional, unconditional)

    def _guided(self, cond: torch.Tensor, uncond: torch.Tensor, x: torch.Tensor, sigma: float) -> torch.Tensor:
        gap = cond - uncond
        if self.on_gap is not None:
            # An estimate is linear in output and state: with a state of zeros, this is the estimates' difference.
            self.on_gap(sigma, self.network.denoised(gap, torch.zeros_like(gap), sigma))
        if self.method is not None:
            cond, uncond = self.network.denoised(cond, x, sigma), self.network.denoised(uncond, x, sigma)
            guided = self.method.guidance(cond, uncond, sigma, self.scale, self._state(x), **self.method.options)
            return rescale_guided(guided, cond, self.rescale) if self.rescale else guided
        guided = uncond + self.scale * gap
        if self.rescale:
            guided = rescale_guided(guided, cond, self.rescale)
        return self.network.denoised(guided, x, sigma)

    def _needs_one(self, x: torch.Tensor, sigma: float) -> bool:
        """Whether one of the two estimates is the guided one: the negative prompt's at scale 0, else the prompt's."""
        if self.scale in (0.0, 1.0) or self.method is None:
            return self.scale in (0.0, 1.0)
        return self.method.guidance.skips(sigma, self.scale, self._state(x), **self.method.options)

    def _state(self, x: torch.Tensor) -> dict[str, Any]:
        return self.states.setdefault(tuple(x.shape), {})


@dataclass(frozen=True, eq=False)
class GuidanceInterval:
    """`guided` at the noise levels of an interval and `plain`, which costs half, elsewhere.

    Kynkaanniemi et al. 2024, arXiv:2404.07724.
    """

    guided: Guided
    plain: Guided
    interval: Interval

    @property
    def model(self) -> NoiseSchedule:
        """The noise levels of the network."""
        return self.guided.model

    def new_run(self) -> None:
        """Forget what the method kept."""
        self.guided.new_run()

    def __call__(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        return (self.guided if sigma in self.interval else self.plain)(x, sigma)

    def parts(self, x: torch.Tensor, sigma: float) -> Parts:
        """Those of the one that counts at this noise level."""
        return (self.guided if sigma in self.interval else self.plain).parts(x, sigma)


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
    method: Method | None = None,
) -> Denoise:
    """denoise(x, sigma) of a network for a prompt and a negative (or empty) prompt, see `Guided`.

    scale  1 is no guidance and 0 the negative prompt alone; both ask for one estimate only
    """
    plain = Guided(network, positive, negative, 1.0)
    if scale == 1.0:
        return plain
    return GuidanceInterval(Guided(network, positive, negative, scale, rescale, on_gap, method), plain, interval)
