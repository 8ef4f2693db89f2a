"""DeepCache: deep features of a UNet that are used again in the calls that follow (Ma et al. 2023, arXiv:2312.00858).

From one step to the next, what the inner blocks of a UNet make changes little. A whole call keeps what enters the last
block of the way up; the calls after it compute the outermost blocks alone, which see the state as it is.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from samplers.estimates import Denoise, Parts, parts_of
from samplers.wrappers import Wrapper


class _Entrance(nn.Module):
    """The last block of the way up, that keeps what enters it, or is given what another call kept."""

    def __init__(self, block: Any):
        super().__init__()
        self.block, self.resnets = block, block.resnets
        self.has_cross_attention = getattr(block, "has_cross_attention", False)
        self.features: torch.Tensor | None = None

    def forward(self, hidden_states: torch.Tensor, **given: Any) -> torch.Tensor:
        features = self.features = hidden_states if self.features is None else self.features
        said: torch.Tensor = self.block(hidden_states=features, **given)
        return said


@dataclass
class _Kept:
    """The features of the last whole call under a condition, the calls since, and the timestep of the last of them."""

    condition: torch.Tensor
    shape: torch.Size  # of the latents
    features: torch.Tensor
    timestep: float
    calls: int = 1


class ReusingUNet:
    """Is called like the UNet2DConditionModel of diffusers that it wraps; one call in `every` is whole.

    The calls of each condition and shape of latents are counted apart. One at a higher noise level than the one
    before, or at the same, is whole: a sampler has begun with another picture, or gone back.
    """

    def __init__(self, unet: Any, every: int):
        # Copies that share all layers, so that LoRAs and offloading, which work on layers, act in both.
        self._whole, self._outer, self._every = _with_modules(unet), _with_modules(unet), every
        self._whole.up_blocks = nn.ModuleList([*unet.up_blocks[:-1], _Entrance(unet.up_blocks[-1])])
        self._outer.up_blocks = nn.ModuleList([_Entrance(unet.up_blocks[-1])])
        first = _with_modules(unet.down_blocks[0])
        first.downsamplers = None
        self._outer.down_blocks, self._outer.mid_block = nn.ModuleList([first]), None
        self._kept: list[_Kept] = []

    @property
    def config(self) -> Any:
        """The UNet's."""
        return self._whole.config

    def forget(self) -> None:
        """A run begins."""
        self._kept.clear()

    def __call__(
        self, sample: torch.Tensor, timestep: torch.Tensor, encoder_hidden_states: torch.Tensor, **given: Any
    ) -> Any:
        """diffusers' output."""
        given |= dict(sample=sample, timestep=timestep, encoder_hidden_states=encoder_hidden_states)
        time = float(timestep.flatten()[0])
        kept = self._under(encoder_hidden_states, sample.shape)
        if kept is None or kept.calls % self._every == 0 or time >= kept.timestep:
            said, features = _call(self._whole, None, given)
            if kept is None:
                kept = _Kept(encoder_hidden_states, sample.shape, features, time)
                self._kept.append(kept)
            kept.features, kept.calls = features, 1
        else:
            said, _ = _call(self._outer, kept.features, given)
            kept.calls += 1
        kept.timestep = time
        return said

    def _under(self, condition: torch.Tensor, shape: torch.Size) -> _Kept | None:
        same = (each for each in self._kept if each.shape == shape and torch.equal(each.condition, condition))
        return next(same, None)


def _with_modules(module: Any) -> Any:
    """A copy that shares everything, whose parts can be replaced."""
    made = copy(module)
    made._modules = dict(module._modules)
    return made


def _call(unet: Any, features: torch.Tensor | None, given: dict[str, Any]) -> tuple[Any, torch.Tensor]:
    """(what a UNet with an entrance says, the features that entered)."""
    entrance = unet.up_blocks[-1]
    entrance.features = features
    try:
        said = unet(**given)
        return said, entrance.features
    finally:
        entrance.features = None


@dataclass(frozen=True, eq=False)
class Reusing(Wrapper):
    """A denoiser whose UNet uses features again, those of one run alone."""

    denoise: Denoise
    unet: ReusingUNet

    def new_run(self, sigmas: tuple[float, ...]) -> None:
        """Forget the features, too."""
        self.unet.forget()
        super().new_run(sigmas)

    def __call__(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        return self.denoise(x, sigma)

    def parts(self, x: torch.Tensor, sigma: float) -> Parts:
        """Those of the denoiser."""
        return parts_of(self.denoise, x, sigma)
