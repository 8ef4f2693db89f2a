"""Denoisers that wrap a denoiser and have the same call, denoise(x, sigma). A run composes those that it needs:

counted = Counted(Masked(denoise, clean, mask), images)
run(plan, Stoppable(Reported(counted, report), should_stop), start, seeds)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from .sampler import Denoise, Stopped
from .schedule import flow_time_of_sigma


@dataclass(frozen=True, eq=False)
class Masked:
    """Inpainting: mask * clean + (1 - mask) * denoise(x, sigma).

    In x0 + sigma * eps the part with mask 1 then follows its exact path to `clean`, with every sampler.

    clean  the latents of one picture (1, channels, height, width), because a sampler may solve its images apart
    mask   1 is kept and 0 drawn anew; broadcast against `clean`
    """

    denoise: Denoise
    clean: torch.Tensor
    mask: torch.Tensor

    def __call__(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        return self.mask * self.clean + (1.0 - self.mask) * self.denoise(x, sigma)


@dataclass(frozen=True, eq=False)
class SoftlyMasked:
    """Differential diffusion: a latent is drawn anew once the noise level is below its mask, and kept before.

    Levin and Fried 2023, arXiv:2306.00950. The noise level is t(sigma) / t(top) with the flow time t = sigma /
    (1 + sigma). A mask of zeros and ones is `Masked` with 1 - mask.

    clean  the latents of one picture (1, channels, height, width)
    mask   0 is kept to the end, 1 drawn anew from the start; broadcast against `clean`
    top    the sigma that the run starts from
    """

    denoise: Denoise
    clean: torch.Tensor
    mask: torch.Tensor
    top: float

    def __call__(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        level = flow_time_of_sigma(float(sigma)) / flow_time_of_sigma(self.top)
        # A sampler may ask above its start, where what is free from the start is free, too.
        return torch.where(self.mask >= min(1.0, level), self.denoise(x, sigma), self.clean)


class Counted:
    """Counts the calls of a denoiser in a run of so many images; a call that raises does not count."""

    def __init__(self, denoise: Denoise, images: int):
        self._denoise, self._images = denoise, images
        self._image_calls = 0

    @property
    def calls(self) -> float:
        """Calls so far, per image; a whole number unless images were solved apart and needed different numbers."""
        each = self._image_calls / self._images
        return int(each) if each.is_integer() else each

    def __call__(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        denoised = self._denoise(x, sigma)
        self._image_calls += x.shape[0]
        return denoised


@dataclass(frozen=True, eq=False)
class Reported:
    """Calls report(sigma, denoised) after each call."""

    denoise: Denoise
    report: Callable[[float, torch.Tensor], None]

    def __call__(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        denoised = self.denoise(x, sigma)
        self.report(sigma, denoised)
        return denoised


@dataclass(frozen=True, eq=False)
class Stoppable:
    """Raises `Stopped` before or after a call once should_stop() is true."""

    denoise: Denoise
    should_stop: Callable[[], bool]

    def __call__(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        self._raise_if_stopped()
        denoised = self.denoise(x, sigma)
        self._raise_if_stopped()
        return denoised

    def _raise_if_stopped(self) -> None:
        if self.should_stop():
            raise Stopped("the run was stopped")
