"""Denoisers that wrap a denoiser and have the same calls, denoise(x, sigma) and denoise.parts(x, sigma).

A run composes those that it needs:

counted = Counted(SoftlyMasked(denoise, clean, mask, plan.sigmas[0]), images)
run(plan, Stoppable(Reported(counted, report), should_stop), start, seeds)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .estimates import Denoise, Parts, new_run, parts_of
from .sampler import Stopped
from .schedule import NoiseSchedule, flow_time_of_sigma


class Wrapper:
    """What every wrapper hands on from the denoiser that it wraps, its attribute `denoise`."""

    denoise: Any

    @property
    def model(self) -> NoiseSchedule | None:
        """The noise levels of the network; None for a closed form."""
        return getattr(self.denoise, "model", None)

    @property
    def evaluations(self) -> int | None:
        """Evaluations of the network so far, of all images; None where they are not counted. See `Guided`."""
        return getattr(self.denoise, "evaluations", None)

    def new_run(self, sigmas: tuple[float, ...]) -> None:
        """A sampler begins from noise again: guidance forgets what it kept."""
        new_run(self.denoise, sigmas)


@dataclass(frozen=True, eq=False)
class SoftlyMasked(Wrapper):
    """Inpainting: a latent is drawn anew once the noise level is below its mask, and kept before.

    A mask of zeros and ones is mask * denoise(x, sigma) + (1 - mask) * clean: in x0 + sigma * eps the part with mask 0
    follows its exact path to `clean`, with every sampler. Between them it is differential diffusion (Levin and Fried
    2023, arXiv:2306.00950), where the noise level is t(sigma) / t(top) with the flow time t = sigma / (1 + sigma).

    clean  the latents of one picture (1, channels, height, width), because a sampler may solve its images apart
    mask   0 is kept to the end, 1 drawn anew from the start; broadcast against `clean`
    top    the sigma that the run starts from
    """

    denoise: Denoise
    clean: torch.Tensor
    mask: torch.Tensor
    top: float

    def __call__(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        return self._mixed(self.denoise(x, sigma), sigma)

    def parts(self, x: torch.Tensor, sigma: float) -> Parts:
        """Each part keeps what is not drawn anew yet."""
        return Parts(*(self._mixed(part, sigma) for part in parts_of(self.denoise, x, sigma)))

    def _mixed(self, denoised: torch.Tensor, sigma: float) -> torch.Tensor:
        level = flow_time_of_sigma(float(sigma)) / flow_time_of_sigma(self.top)
        # A sampler may ask above its start, where what is free from the start is free, too.
        return torch.where(self.mask >= min(1.0, level), denoised, self.clean)


@dataclass(frozen=True, eq=False)
class Refined(Wrapper):
    """An ensemble of two expert denoisers: `refiner` below the noise level `level`, `denoise` from it on.

    Balaji et al. 2022, arXiv:2211.01324; see `samplers.schedule.handover`. Both estimate x0 of the same latents.
    """

    denoise: Any
    refiner: Any
    level: float

    @property
    def evaluations(self) -> int | None:
        """Those of both."""
        return _sum_of_evaluations((self.denoise, self.refiner))

    def new_run(self, sigmas: tuple[float, ...]) -> None:
        """Both forget what they kept."""
        for each in (self.denoise, self.refiner):
            new_run(each, sigmas)

    def __call__(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        return self._expert(sigma)(x, sigma)

    def parts(self, x: torch.Tensor, sigma: float) -> Parts:
        """Those of the expert of this noise level."""
        return parts_of(self._expert(sigma), x, sigma)

    def _expert(self, sigma: float) -> Denoise:
        return self.refiner if sigma < self.level else self.denoise


class ByPass(Wrapper):
    """The denoiser of the pass that runs, one for each pass of a run; `next_pass` goes on to the next."""

    def __init__(self, denoisers: Sequence[Denoise]):
        self._denoisers, self._now = denoisers, 0

    @property
    def denoise(self) -> Denoise:
        """That of this pass."""
        return self._denoisers[self._now]

    @property
    def evaluations(self) -> int | None:
        """Those of all passes."""
        return _sum_of_evaluations(self._denoisers)

    def next_pass(self) -> None:
        """The pass is finished."""
        self._now += 1

    def __call__(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        return self.denoise(x, sigma)

    def parts(self, x: torch.Tensor, sigma: float) -> Parts:
        """Those of this pass's denoiser."""
        return parts_of(self.denoise, x, sigma)


class Counted(Wrapper):
    """Counts the calls of a denoiser in a run of so many images; a call that raises does not count."""

    def __init__(self, denoise: Denoise, images: int):
        self.denoise, self._images = denoise, images
        self._image_calls, self._before = 0, self.evaluations or 0

    @property
    def calls(self) -> float:
        """Calls so far, per image; a whole number unless images were solved apart and needed different numbers."""
        return _whole(self._image_calls / self._images)

    @property
    def evaluations_each(self) -> float | None:
        """Evaluations of the network since it was made, per image: two for a call with both estimates; see `calls`."""
        now = self.evaluations
        return None if now is None else _whole((now - self._before) / self._images)

    def __call__(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        denoised = self.denoise(x, sigma)
        self._image_calls += x.shape[0]
        return denoised

    def parts(self, x: torch.Tensor, sigma: float) -> Parts:
        """One call, like any other."""
        parts = parts_of(self.denoise, x, sigma)
        self._image_calls += x.shape[0]
        return parts


@dataclass(frozen=True, eq=False)
class Reported(Wrapper):
    """Calls report(sigma, denoised) after each call."""

    denoise: Denoise
    report: Callable[[float, torch.Tensor], None]

    def __call__(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        denoised = self.denoise(x, sigma)
        self.report(sigma, denoised)
        return denoised

    def parts(self, x: torch.Tensor, sigma: float) -> Parts:
        """Reports the guided estimate."""
        parts = parts_of(self.denoise, x, sigma)
        self.report(sigma, parts.guided)
        return parts


@dataclass(frozen=True, eq=False)
class Stoppable(Wrapper):
    """Raises `Stopped` before or after a call once should_stop() is true."""

    denoise: Denoise
    should_stop: Callable[[], bool]

    def __call__(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        self._raise_if_stopped()
        denoised = self.denoise(x, sigma)
        self._raise_if_stopped()
        return denoised

    def parts(self, x: torch.Tensor, sigma: float) -> Parts:
        """As for the guided estimate alone."""
        self._raise_if_stopped()
        parts = parts_of(self.denoise, x, sigma)
        self._raise_if_stopped()
        return parts

    def _raise_if_stopped(self) -> None:
        if self.should_stop():
            raise Stopped("the run was stopped")


def _sum_of_evaluations(denoisers: Sequence[Any]) -> int | None:
    counts = [getattr(each, "evaluations", None) for each in denoisers]
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _whole(number: float) -> float:
    return int(number) if number.is_integer() else number
