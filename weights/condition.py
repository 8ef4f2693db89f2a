"""What a network is told of a prompt, as a `samplers.denoiser.Condition`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

GUIDANCE = "guidance"  # tensor of a condition with the guidance scale that is told


@dataclass(frozen=True, eq=False)
class TensorCondition:
    """Tensors (images, ...) by name; the names are between the family that encodes and the network that reads."""

    tensors: Mapping[str, torch.Tensor]

    def repeat(self, images: int) -> TensorCondition:
        """The condition of one image for so many, without copying; those of several, in turn, again and again."""
        own = len(next(iter(self.tensors.values())))
        if own == 1:
            return TensorCondition({name: t.expand(images, *t.shape[1:]) for name, t in self.tensors.items()})
        if images % own:
            raise ValueError(f"{images} images have no whole share of {own} conditions")
        return TensorCondition({name: t.repeat(images // own, *[1] * (t.ndim - 1)) for name, t in self.tensors.items()})

    def join(self, other: TensorCondition) -> TensorCondition | None:
        """Join both in one batch; None if shapes differ (prompts of other lengths): padding changes the picture."""
        if any(tensor.shape[1:] != other.tensors[name].shape[1:] for name, tensor in self.tensors.items()):
            return None
        return TensorCondition({name: torch.cat([t, other.tensors[name]]) for name, t in self.tensors.items()})

    def to(self, device: torch.device) -> TensorCondition:
        """The condition on another device."""
        return TensorCondition({name: tensor.to(device) for name, tensor in self.tensors.items()})


def guidance_embedding(scale: float, width: int) -> torch.Tensor:
    """A guidance scale as an input of a network, (1, width): sines, then cosines, of 1000 (w - 1) f_i.

    The w of the paper is the guidance scale - 1, so that 0 is no guidance; f_i = 10000^(-i / (h - 1)), i from 0 to
    h - 1, h half the width, rounded down; an odd width ends with 0. Luo et al. 2023, arXiv:2310.04378, section 4.1.
    """
    half = width // 2
    angles = 1000.0 * (scale - 1.0) * torch.exp(torch.arange(half) * (-math.log(10_000.0) / max(1, half - 1)))
    return torch.nn.functional.pad(torch.cat([angles.sin(), angles.cos()]), (0, width % 2))[None]
