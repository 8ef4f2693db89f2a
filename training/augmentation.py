"""Real pictures as a judge in training sees them, a batch at once: mirrored, turned, scaled, moved, recoloured."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from . import canvas
from .captions import COLOURS
from .scenes import COLOURED, ONE_WAY

#: Degrees that a picture is turned by at most, and the share of the pictures.
TURNED = ((20.0, 0.7), (40.0, 0.2), (180.0, 0.1))


def shrunk(rgba: np.ndarray, side: int, where: torch.device) -> torch.Tensor:
    """Straight RGBA (n, s, s, 4) uint8 as premultiplied (n, 4, side, side) uint8 on a device, by area means."""
    parts = []
    for start in range(0, len(rgba), 256):
        pixels = torch.from_numpy(np.array(rgba[start : start + 256])).to(where).movedim(-1, 1).float()
        # Premultiplied, so that moving the edge of a picture brings no colour from under its transparent part.
        pixels[:, :3] *= pixels[:, 3:] / 255
        parts.append(functional.adaptive_avg_pool2d(pixels, min(side, rgba.shape[1])).round().byte())
    return torch.cat(parts)


def freedoms(names: list[str]) -> torch.Tensor:
    """Whether a picture of each name may be mirrored, and given another hue, and still be that: (n, 2) bool."""
    words = [set(name.split()) for name in names]
    return torch.tensor([[not each & ONE_WAY, not each & COLOURED] for each in words]).reshape(-1, 2)


def augmented(pixels: torch.Tensor, free: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """Pictures (n, 3, s, s) in [-1, 1] on any ground, changed as drawn ones differ from real ones.

    pixels  as `shrunk` gives them, on any device
    free    as `freedoms` gives it, on the same
    random  on the CPU, so that a batch is the same on every device
    """
    uniform = torch.rand(10, len(pixels), generator=random).to(pixels.device)
    paints = canvas.NATURAL.to(pixels.device).repeat(len(pixels), 1)
    paints[:, 0] = torch.where((uniform[0] < 1 / 3) & free[:, 1], 360 * uniform[1], 0.0)
    things = pixels.float() / 255
    # Of premultiplied colours, whose hue is that of the straight ones.
    things[:, :3] = canvas.recoloured(things[:, :3], paints)

    scale = 0.45 + 0.65 * uniform[2].sqrt()
    x, y = (2 * uniform[3:5] - 1) * ((1 - scale).clamp(min=0) + 0.05)
    degrees = (2 * uniform[5] - 1) * most_degrees(uniform[6])
    places = canvas.affine(scale, x, y, degrees, (uniform[7] < 0.5) & free[:, 0])
    grounds = torch.tensor(list(COLOURS.values()), device=pixels.device) / 255
    # Half of them on white, where the drawn pictures will be judged.
    chosen = grounds[((uniform[8] * 2 - 1) * len(grounds)).long().clamp(min=0)]
    images = canvas.over(chosen[:, :, None, None].expand_as(things[:, :3]), things, places)

    blurred = functional.avg_pool2d(functional.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return torch.lerp(images, blurred, (uniform[9] * 1.5 - 0.5).clamp(0, 1)[:, None, None, None]) * 2 - 1


def most_degrees(uniform: torch.Tensor) -> torch.Tensor:
    """The most that a picture is turned by, for numbers between 0 and 1."""
    degrees, shares = zip(*TURNED, strict=True)
    ends = torch.tensor(shares, device=uniform.device).cumsum(0)[:-1]
    return torch.tensor(degrees, device=uniform.device)[torch.bucketize(uniform, ends)]
