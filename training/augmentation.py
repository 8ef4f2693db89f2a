"""Real pictures as a judge in training sees them, a batch at once: mirrored, turned, scaled, moved, recoloured."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn import functional

from .captions import COLOURS

#: Words of names that a mirror makes wrong, and of names that say their colour.
ONE_WAY = {"left", "right", "arrow", "letter", "button", "keycap", "clock", "sign", "symbol", "mark", "oncoming"}
COLOURED = {*COLOURS, "light", "dark", "rainbow"}
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
    scale = 0.45 + 0.65 * uniform[0].sqrt()
    moved = placed(
        pixels.float() / 255,
        scale,
        angle=(2 * uniform[1] - 1) * amplitude(uniform[2]),
        shift=(2 * uniform[3:5].T - 1) * ((1 - scale).clamp(min=0) + 0.05)[:, None],
        mirrored=(uniform[5] < 0.5) & free[:, 0],
    )
    colour, alpha = moved[:, :3], moved[:, 3:]
    turned = (uniform[6] < 1 / 3) & free[:, 1]
    colour = torch.einsum("nij,njyx->niyx", hue_turns(2 * math.pi * uniform[7] * turned), colour)
    moved = torch.cat([torch.minimum(colour.clamp(min=0), alpha), alpha], 1)
    blurred = functional.avg_pool2d(functional.pad(moved, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    moved = torch.lerp(moved, blurred, (uniform[8] * 1.5 - 0.5).clamp(0, 1)[:, None, None, None])
    grounds = torch.tensor(list(COLOURS.values()), device=pixels.device) / 255
    # Half of them on white, where the drawn pictures will be judged.
    chosen = ((uniform[9] * 2 - 1) * len(grounds)).long().clamp(min=0)
    return (moved[:, :3] + grounds[chosen][:, :, None, None] * (1 - moved[:, 3:])) * 2 - 1


def amplitude(uniform: torch.Tensor) -> torch.Tensor:
    """The most that a picture is turned by, in radians, for numbers between 0 and 1."""
    degrees, shares = zip(*TURNED, strict=True)
    ends = torch.tensor(shares, device=uniform.device).cumsum(0)[:-1]
    return torch.tensor(degrees, device=uniform.device)[torch.bucketize(uniform, ends)].deg2rad()


def placed(
    pixels: torch.Tensor, scale: torch.Tensor, angle: torch.Tensor, shift: torch.Tensor, mirrored: torch.Tensor
) -> torch.Tensor:
    """Pictures (n, c, s, s) scaled, turned clockwise by radians, moved by parts of half a side (n, 2), mirrored."""
    cos, sin = angle.cos() / scale, angle.sin() / scale
    flip = torch.where(mirrored, -1.0, 1.0)
    back = torch.stack([torch.stack([flip * cos, flip * sin], 1), torch.stack([-sin, cos], 1)], 1)
    theta = torch.cat([back, -back @ shift[:, :, None]], 2)
    grid = functional.affine_grid(theta, list(pixels.shape), align_corners=False)
    return functional.grid_sample(pixels, grid, align_corners=False)


def hue_turns(angle: torch.Tensor) -> torch.Tensor:
    """Turns of colours about the axis of greys by radians (n,), as matrices (n, 3, 3) of RGB."""
    grey = torch.full((3, 3), 1 / 3, device=angle.device)
    across = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]], device=angle.device) / math.sqrt(3)
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    return cos * torch.eye(3, device=angle.device) + (1 - cos) * grey + sin * across
