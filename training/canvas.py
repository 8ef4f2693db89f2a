"""Draw scenes on the device, a batch at once: things placed, turned and recoloured on grounds."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn import functional


class Layer(NamedTuple):
    """The first, second or third thing of those scenes of a batch that have so many: m of n."""

    scenes: torch.Tensor  # (m,), which of the n
    rows: torch.Tensor  # (m,), of the pictures
    places: torch.Tensor  # (m, 2, 3), from the scene's coordinates in [-1, 1] to the picture's
    paints: torch.Tensor  # (m, 6): hue turned by degrees, factors of saturation and value, a colour laid over all


def affine(
    scale: torch.Tensor, x: torch.Tensor, y: torch.Tensor, degrees: torch.Tensor, mirrored: torch.Tensor
) -> torch.Tensor:
    """The places (n, 2, 3) of pictures scaled by ``scale``, turned clockwise, their middles at (x, y); each (n,).

    Coordinates go from -1 to 1 to the right and downwards. What is not 0 in ``mirrored`` is mirrored.
    """
    angle = degrees.deg2rad()
    cos, sin = angle.cos() / scale, angle.sin() / scale
    flip = torch.where(mirrored.bool(), -1.0, 1.0)
    rows = (flip * cos, flip * sin), (-sin, cos)
    return torch.stack([torch.stack([a, b, -a * x - b * y], 1) for a, b in rows], 1)


def to_hsv(rgb: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hue in turns [0, 1), saturation and value in [0, 1], each (n, h, w), of sRGB (n, 3, h, w) in [0, 1]."""
    value, which = rgb.max(1)
    chroma = value - rgb.amin(1)
    red, green, blue = rgb.unbind(1)
    safe = chroma.clamp(min=1e-6)
    sector = torch.stack([(green - blue) / safe, (blue - red) / safe + 2, (red - green) / safe + 4], 1)
    hue = sector.gather(1, which[:, None])[:, 0] / 6 % 1
    return hue, chroma / value.clamp(min=1e-6), value


def from_hsv(hue: torch.Tensor, saturation: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """sRGB (n, 3, h, w) in [0, 1]."""
    shift = torch.tensor([5.0, 3.0, 1.0], device=hue.device)[:, None, None]
    k = (shift + 6 * hue[:, None]) % 6
    return value[:, None] * (1 - saturation[:, None] * torch.minimum(k, 4 - k).clamp(0, 1))


def recoloured(rgb: torch.Tensor, paints: torch.Tensor) -> torch.Tensor:
    """Pictures (m, 3, h, w) in [0, 1] painted as `Layer.paints` says; what is grey keeps its value, white its white."""
    turn, saturation, value, *_ = (part[:, None, None] for part in paints.unbind(1))
    hue, saturated, lightness = to_hsv(rgb)
    lightness = (lightness * (1 + (value - 1) * saturated)).clamp(0, 1)
    return from_hsv((hue + turn / 360) % 1, (saturated * saturation).clamp(0, 1), lightness) * paints[:, 3:, None, None]


def draw(pictures: torch.Tensor, grounds: torch.Tensor, layers: list[Layer]) -> torch.Tensor:
    """Scenes (n, 3, s, s) in [-1, 1].

    pictures  all of them, straight RGBA, (count, s, s, 4) uint8
    grounds   sRGB of each scene, (n, 3), 0 to 255
    """
    side = pictures.shape[1]
    canvas = (grounds / 255)[:, :, None, None].expand(-1, -1, side, side).contiguous()
    for layer in layers:
        thing = pictures[layer.rows].movedim(-1, 1).float() / 255
        painted = (layer.paints != NATURAL.to(layer.paints.device)).any(1)
        if painted.any():
            thing[painted, :3] = recoloured(thing[painted, :3], layer.paints[painted])
        # Premultiplied, so that moving the edge of a picture brings no colour from under its transparent part.
        thing[:, :3] *= thing[:, 3:]
        canvas[layer.scenes] = over(canvas[layer.scenes], thing, layer.places)
    return canvas * 2 - 1


#: Paint that changes nothing.
NATURAL = torch.tensor([0.0, 1.0, 1.0, 1.0, 1.0, 1.0])


def over(canvas: torch.Tensor, thing: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Premultiplied pictures (m, 4, s, s) on top of a canvas (m, 3, s, s), where ``places`` put them."""
    placed = torch.empty_like(thing)
    # One that shrinks to half its side or less is shrunk by means first: sampling alone would leave pixels out.
    half = places[:, :, :2].square().sum((1, 2)) > 2 * 1.8**2
    for which, source in ((~half, thing), (half, functional.avg_pool2d(thing, 2))):
        if which.any():
            grid = functional.affine_grid(places[which], list(thing[which].shape), align_corners=False)
            placed[which] = functional.grid_sample(source[which], grid, align_corners=False)
    return placed[:, :3] + canvas * (1 - placed[:, 3:])
