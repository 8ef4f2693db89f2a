"""Closed-form denoisers, for which the exact answer of every sampler is known, and the order that one measures."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .noise import Noise
from .sampler import Sampler


@dataclass(frozen=True, eq=False)
class GaussianDenoiser:
    """The exact denoiser of data N(mean, std^2), elementwise: mean + std^2 / (std^2 + sigma^2) (x - mean).

    Where x has another size than mean and std, these are scaled to it.
    """

    mean: torch.Tensor | float = 0.3
    std: torch.Tensor | float = 0.7

    def __call__(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        mean, variance = _fitted(self.mean, x), _fitted(self.std, x) ** 2
        return mean + variance / (variance + sigma * sigma) * (x - mean)

    def flow(self, x: torch.Tensor, sigma: float, lower: float) -> torch.Tensor:
        """Where the probability-flow ODE takes x from sigma to lower, exactly."""
        mean, variance = _fitted(self.mean, x), _fitted(self.std, x) ** 2
        return mean + ((variance + lower * lower) / (variance + sigma * sigma)) ** 0.5 * (x - mean)


@dataclass(frozen=True, eq=False)
class DistilledDenoiser(GaussianDenoiser):
    """The exact consistency function of data N(mean, std^2), which a distilled network learns: the flow down to 0.

    Song et al. 2023, arXiv:2303.01469, definition 1.
    """

    def __call__(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        return self.flow(x, sigma, 0.0)


@dataclass(frozen=True, eq=False)
class BimodalDenoiser:
    """The exact denoiser of an even mixture of N(-place, std^2) and N(place, std^2), elementwise: a flow that bends.

    With v = std^2 + sigma^2 it is std^2 / v * x + sigma^2 / v * place * tanh(place * x / v).
    """

    place: float = 1.0
    std: float = 0.5

    def __call__(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        variance = self.std**2 + sigma * sigma
        return self.std**2 / variance * x + sigma * sigma / variance * self.place * torch.tanh(
            self.place / variance * x
        )

    def flow(self, x: torch.Tensor, sigma: float, lower: float) -> torch.Tensor:
        """Where the probability-flow ODE takes x (float64): in one dimension it keeps the quantile of every point."""
        goal, reach = self._quantile(x, sigma), 10 * (self.place + self.std + lower)
        low, high = torch.full_like(x, -reach), torch.full_like(x, reach)
        for _ in range(80):
            middle = (low + high) / 2
            below = self._quantile(middle, lower) < goal
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2

    def _quantile(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        root = math.sqrt(self.std**2 + sigma * sigma)
        return (torch.special.ndtr((x - self.place) / root) + torch.special.ndtr((x + self.place) / root)) / 2


@dataclass(frozen=True, eq=False)
class MixtureDenoiser:
    """The exact denoiser of a Gaussian mixture over whole pictures.

    means (components, *picture shape), scaled to x where it has another size; stds (components,), weights
    (components,), summing to 1.
    """

    means: torch.Tensor
    stds: torch.Tensor
    weights: torch.Tensor

    def __call__(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        flat, means = x.flatten(1), _fitted(self.means, x).flatten(1).to(x)
        variance = self.stds.to(x) ** 2 + sigma * sigma
        distance = (flat[:, None] - means).square().sum(-1)
        logits = self.weights.to(x).log() - distance / (2 * variance) - 0.5 * means.shape[1] * variance.log()
        shrink = (self.stds.to(x) ** 2 / variance)[None, :, None]
        posterior = means + shrink * (flat[:, None] - means)
        return (logits.softmax(-1)[..., None] * posterior).sum(1).reshape(x.shape)


def _fitted(value, x: torch.Tensor):
    """A number, or a tensor over pictures with the height and width of x, its nearest values taken."""
    if not isinstance(value, torch.Tensor) or value.ndim < 3 or 1 in value.shape[-2:]:
        return value
    if value.shape[-2:] == x.shape[-2:]:
        return value
    rows, columns = (
        torch.arange(new, device=value.device) * old // new
        for new, old in zip(x.shape[-2:], value.shape[-2:], strict=True)
    )
    return value[..., rows[:, None], columns]


def geometric(high: float, low: float, steps: int) -> tuple[float, ...]:
    """steps + 1 sigmas from high to low with a constant ratio: a grid that does not end at 0."""
    return tuple(high * (low / high) ** (i / steps) for i in range(steps + 1))


def end_of(sampler: Sampler, denoise, x: torch.Tensor, sigmas: Sequence[float], seeds=None, **options) -> torch.Tensor:
    """The last state of a run from x."""
    noise = Noise(tuple(range(len(x))) if seeds is None else seeds)
    *_, last = sampler(denoise, x, tuple(sigmas), noise, **options)
    return last.x


def measure_order(sampler: Sampler, steps: Sequence[int] = (32, 64, 128, 256), **options) -> float:
    """Order of accuracy: the slope of log error over log step size, on a Gaussian in float64.

    The data have several widths, so that no single coefficient can hide an error; sigma goes from 10 to 0.1.
    """
    generator = torch.Generator().manual_seed(0)
    stds = torch.linspace(0.3, 1.5, 8, dtype=torch.float64).reshape(1, 2, 2, 2)
    x = 10.0 * torch.randn(4, 2, 2, 2, generator=generator, dtype=torch.float64)
    return _slope(sampler, GaussianDenoiser(0.3, stds), x, steps, options)


def measure_order_bent(sampler: Sampler, steps: Sequence[int] = (64, 128, 256, 512), **options) -> float:
    """The same on two Gaussians, whose flow is not linear.

    On one Gaussian, and there alone, some methods are better than their order: the midpoint rule in sigma has 3.
    """
    x = torch.linspace(-18.0, 20.0, 16, dtype=torch.float64).reshape(2, 2, 2, 2)
    return _slope(sampler, BimodalDenoiser(), x, steps, options)


def _slope(sampler: Sampler, denoise, x: torch.Tensor, steps: Sequence[int], options: dict) -> float:
    exact = denoise.flow(x, 10.0, 0.1)
    errors = [
        (end_of(sampler, denoise, x, geometric(10.0, 0.1, n), **options) - exact).abs().max().item() for n in steps
    ]
    # The least-squares slope over the finer half, where the leading error term rules.
    finer = slice(len(steps) // 2 - 1, None)
    logs = [math.log(max(error, 1e-17)) for error in errors]
    return -statistics.linear_regression([math.log(n) for n in steps][finer], logs[finer]).slope
