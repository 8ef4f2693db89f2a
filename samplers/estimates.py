"""What a sampler gets as `denoise`: the estimate of x0, its parts, and the noise levels of the model."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import NamedTuple

import torch

from .schedule import NoiseSchedule, stable_diffusion

Denoise = Callable[[torch.Tensor, float], torch.Tensor]
"""denoise(x, sigma): the estimate of x0 given x = x0 + sigma * eps."""


class Parts(NamedTuple):
    """Three estimates of x0, each like x: the guided one, with the prompt, and with the negative (or empty) prompt."""

    guided: torch.Tensor
    conditional: torch.Tensor
    unconditional: torch.Tensor


def parts_of(denoise: Denoise, x: torch.Tensor, sigma: float) -> Parts:
    """The parts of a denoiser's estimate; three times the same where it has none."""
    ask = getattr(denoise, "parts", None)
    if ask is not None:
        return ask(x, sigma)
    denoised = denoise(x, sigma)
    return Parts(denoised, denoised, denoised)


def new_run(denoise: Denoise, sigmas: tuple[float, ...]) -> None:
    """Tell a denoiser that a run down this list begins, so that what it keeps between calls is of this run alone."""
    tell = getattr(denoise, "new_run", None)
    if tell is not None:
        tell(sigmas)


class CheckedDenoise:
    """The `denoise` of one run of a sampler. It refuses what would give a wrong picture without a word.

    sigmas  the list of the run
    model   the noise levels that the network was trained on; Stable Diffusion's for a closed form, which takes any

    Raises ValueError on an x that requires a gradient, because none comes back, and on a sigma that is not positive;
    TypeError on a sigma that is no Python number, because a tensor of several would be taken for pictures.
    """

    def __init__(self, denoise: Denoise, sigmas: tuple[float, ...]):
        self._denoise = denoise
        new_run(denoise, sigmas)

    @property
    def model(self) -> NoiseSchedule:
        """See the class."""
        return getattr(self._denoise, "model", None) or stable_diffusion()

    def __call__(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        """The estimate of x0, guided."""
        # The usual case first and by itself: this is the contract's cost at every call.
        if type(sigma) is not float or not sigma > 0.0 or x.requires_grad:
            _check(x, sigma)
        return self._denoise(x, sigma)

    def parts(self, x: torch.Tensor, sigma: float) -> Parts:
        """The guided estimate and the two that it is made of, as one call; without guidance both are asked for too."""
        _check(x, sigma)
        return parts_of(self._denoise, x, sigma)


def _check(x: torch.Tensor, sigma: float) -> None:
    if isinstance(sigma, bool) or not isinstance(sigma, Real):
        raise TypeError(
            f"denoise(x, sigma) needs sigma as one Python number for all pictures, not {type(sigma).__name__}; "
            "give float(sigma)"
        )
    if not sigma > 0:
        raise ValueError(f"denoise(x, sigma) needs a sigma above 0, not {sigma:g}; at 0, x is the picture")
    if x.requires_grad:
        raise ValueError(
            "denoise(x, sigma) got an x that requires a gradient, and none comes back from the network; "
            "give x.detach(), or take finite differences"
        )
