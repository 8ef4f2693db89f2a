"""Networks made for inpainting: beside the noised latents they see a mask, and the picture without what is masked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import interpolate

from samplers.tiles import Function

GREY = (128, 128, 128)  # of what is masked: 0 between -1 and 1


@dataclass(frozen=True, eq=False)
class Hole:
    """What such a network is shown.

    mask     (1, 1, height, width): 1 is drawn anew, 0 is known
    picture  (1, channels, height, width): the latents of the picture, mid-grey where it is masked
    """

    mask: torch.Tensor
    picture: torch.Tensor

    def at(self, size: tuple[int, int]) -> Hole:
        """The same at another (height, width): a sampler may ask at several."""
        if size == tuple(self.mask.shape[-2:]):
            return self
        return Hole(interpolate(self.mask, size), interpolate(self.picture, size, mode="bilinear"))


@dataclass(frozen=True, eq=False)
class Inpainting:
    """A network of 2 * channels + 1 input channels as one of `channels`, for samplers and guidance.

    Rombach et al. 2022, arXiv:2112.10752, section 4.5, in the order of channels of Stable Diffusion's checkpoints:
    noised latents, mask, latents of the masked picture. Only the first are scaled to the noise level.

    function  the network, see `samplers.denoiser.Network`
    hole_at   the hole for latents of a (height, width)
    """

    function: Function
    hole_at: Callable[[tuple[int, int]], Hole]

    def __call__(self, scaled: torch.Tensor, timestep: float, condition: Any) -> torch.Tensor:
        hole = self.hole_at((scaled.shape[-2], scaled.shape[-1]))
        shown = torch.cat([hole.mask, hole.picture], 1).to(scaled).expand(len(scaled), -1, -1, -1)
        return self.function(torch.cat([scaled, shown], 1), timestep, condition)


def empty_hole(channels: int, size: tuple[int, int]) -> Hole:
    """A hole of everything, for latents of a (height, width), whose picture is 0."""
    return Hole(torch.ones(1, 1, *size), torch.zeros(1, channels, *size))
