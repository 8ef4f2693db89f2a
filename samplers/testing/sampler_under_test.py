"""A sampler under test: its runs on closed forms, and how far they are from the exact answer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..check import Trace, fail, place, run_checked
from ..closed_form import DistilledDenoiser, GaussianDenoiser, MixtureDenoiser, geometric
from ..noise import Noise
from ..options import BoolOption, ChoiceOption, NumberOption, Option
from ..sampler import Sampler

PICTURE = (2, 3, 4)
LIST = (10.0, 4.0, 1.5, 0.5, 0.1, 0.0)
LISTS = ((10.0, 0.0), (10.0, 1.0), (10.0, 2.0, 0.0), (10.0, 3.0, 1.0, 0.2), LIST, (*geometric(10.0, 0.1, 6), 0.0))


@dataclass(frozen=True)
class SamplerUnderTest:
    """A sampler with the options that it is checked with.

    device     where the tensors are
    distilled  whether it is for networks that answer with the end of the flow instead of the mean (like LCM)
    """

    sampler: Sampler
    options: dict[str, Any]
    device: str = "cpu"
    distilled: bool = False

    @property
    def stochastic(self) -> bool:
        """Whether it draws noise with these options."""
        return self.sampler.stochastic_with(**self.options)

    @property
    def own_grid(self) -> bool:
        """Whether it makes its own grid with these options."""
        return self.sampler.own_grid_with(**self.options)

    @property
    def here(self) -> str:
        """Where it is written."""
        return place(self.sampler)

    def run_checked(
        self, denoise, x: torch.Tensor, sigmas: Sequence[float], seeds: Sequence[int] | None = None, **more
    ) -> Trace:
        """A checked run with these options and `more`."""
        return run_checked(self.sampler, denoise, x, sigmas, seeds, **(self.options | more))

    def gaussian(self, std: torch.Tensor | float) -> GaussianDenoiser:
        """The exact network for data of mean 0.3 and this spread."""
        return (DistilledDenoiser if self.distilled else GaussianDenoiser)(0.3, std)

    def start(self, sigma: float, images: int = 3, shape: Sequence[int] = PICTURE, dtype=torch.float64) -> torch.Tensor:
        """Starting noise of the program, for seeds 0, 1, ..."""
        return sigma * Noise(range(images), "initial")(torch.zeros(images, *shape, dtype=dtype, device=self.device))

    def variants(self) -> Iterator[dict[str, Any]]:
        """Every option at each of its ends or choices, the others as they are."""
        for option in self.sampler.options:
            if option.name not in self.options:
                yield from ({option.name: value} for value in ends(option))


def ends(option: Option) -> tuple[Any, ...]:
    """The values of an option that are most likely to break something."""
    if isinstance(option, NumberOption):
        return option.low, option.high
    if isinstance(option, BoolOption):
        return False, True
    return option.choices if isinstance(option, ChoiceOption) else (option.default,)


def mixture(shape: Sequence[int] = PICTURE) -> MixtureDenoiser:
    """Three Gaussians over pictures of this shape, the same at every call."""
    generator = torch.Generator().manual_seed(1)
    means = torch.randn(3, *shape, generator=generator, dtype=torch.float64)
    return MixtureDenoiser(means, torch.tensor([0.2, 0.5, 0.9]).double(), torch.tensor([0.5, 0.3, 0.2]).double())


def check_flow(case: SamplerUnderTest, sigmas: Sequence[float], std: torch.Tensor, allowed: float, look: str) -> None:
    """The end of a run is within a share `allowed` of the exact end.

    A sampler that resizes gets data of one spread: at another size, a network of other data is another network.
    """
    std = std.mean() if case.sampler.resizes else std
    exact = GaussianDenoiser(0.3, std)
    x = 0.3 + (std**2 + sigmas[0] ** 2).sqrt() * case.start(1.0, 4)
    goal = exact.flow(x, sigmas[0], sigmas[-1])
    error = ((case.run_checked(exact, x, sigmas).x - goal).norm() / (goal - 0.3).norm()).item()
    if not error <= allowed:
        fail(f"the exact end at sigma {sigmas[-1]:g}, within {allowed:.0%}", f"an end {error:.1%} away", look)


def check_spread(
    case: SamplerUnderTest,
    sigmas: Sequence[float],
    allowed: float,
    look: str,
    only_end: bool = False,
    **variant: Any,
) -> None:
    """Mean and spread over 8192 numbers are those of the data with the noise of each level, the latter to a share."""
    mean, std = 0.3, 0.7
    x = mean + math.sqrt(std**2 + sigmas[0] ** 2) * case.start(1.0, 1, (1, 64, 128))
    trace = case.run_checked(case.gaussian(std), x, sigmas, **variant)
    for step in trace.steps[-1:] if only_end else trace.steps:
        spread = math.sqrt(std**2 + step.sigma**2)
        where = f" at sigma {step.sigma:g}" + (f" with {shown(variant)}" if variant else "")
        if not abs(step.x.std().item() / spread - 1) < allowed:
            fail(f"a spread of {spread:.3g}{where}", f"{step.x.std().item():.3g}", look)
        # Five standard errors of the mean, and a little for the steps being finite.
        if not abs(step.x.mean().item() - mean) < 5 * spread / math.sqrt(x.numel()) + 0.03:
            fail(f"a mean of {mean:g}{where}", f"{step.x.mean().item():.3g}", look)


def shown(options: dict[str, Any]) -> str:
    """Options as one would write them."""
    return ", ".join(f"{name}={value!r}" for name, value in options.items())
