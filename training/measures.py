"""Measures of pictures (n, 3, h, w) in [-1, 1], on any device: grounds, edges, hues, parts, places, distances; and the
rows of the table that they go into."""

from __future__ import annotations

import colorsys
import math

import torch
from diffusers import AutoencoderKL
from torch.nn import functional

from . import canvas
from .captions import COLOURS, HUES

#: A ground is right when the border's mean colour lies this near the asked one, in sRGB, each channel 0 to 255.
GROUND_DISTANCE = 50.0
#: What is this much darker than white in some channel, of 0 to 255, belongs to a thing.
DARKER = 25.0
#: Connected pixels are a part where they are this share of the largest part.
PART = 0.1
#: Pixels a side where parts are counted, and where pictures are compared pixel by pixel.
PARTS_SIDE, PIXELS_SIDE = 128, 64
#: Colour below this mean difference of channels, of 0 to 255, is none.
LEAST_COLOUR = 15.0
#: Edges: points looked at in a picture, pixels to either side, samples a pixel, least contrast, of 0 to 255, and least
#: slope, a pixel, of what still belongs to an edge.
POINTS, REACH, FINE, CONTRAST, SLOPE = 64, 16, 16, 64.0, 1.0


def border(images: torch.Tensor, width: int = 2) -> torch.Tensor:
    """Mean colour of the outermost pixels, (n, 3), 0 to 255."""
    mask = torch.ones(images.shape[-2:], dtype=torch.bool, device=images.device)
    mask[width:-width, width:-width] = False
    return (images[:, :, mask].mean(-1) + 1) * 127.5


def grounds_right(images: torch.Tensor, colours: list[str]) -> torch.Tensor:
    wanted = torch.tensor([COLOURS[colour] for colour in colours], dtype=torch.float32)
    return (border(images).cpu() - wanted).norm(dim=1) < GROUND_DISTANCE


def halves(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The left and the right of two objects side by side, each made as large as a picture."""
    side = images.shape[-1]
    middle = images[:, :, side // 4 : side - side // 4]
    left, right = (
        functional.interpolate(part, size=(side, side), mode="bilinear", align_corners=False)
        for part in middle.chunk(2, dim=-1)
    )
    return left, right


@torch.no_grad()
def reconstructed(vae: AutoencoderKL, images: torch.Tensor) -> torch.Tensor:
    """Pictures encoded and decoded."""
    return torch.cat([vae.decode(vae.encode(part).latent_dist.mean).sample.clamp(-1, 1) for part in images.split(16)])


def reconstructed_small(vae: AutoencoderKL, images: torch.Tensor, side: int) -> torch.Tensor:
    """The same by an autoencoder of smaller pictures: shrunk by area means, enlarged by bicubic interpolation."""
    small = reconstructed(vae, functional.adaptive_avg_pool2d(images, side))
    return functional.interpolate(small, images.shape[-2:], mode="bicubic").clamp(-1, 1)


def psnr(output: torch.Tensor, images: torch.Tensor) -> float:
    """Peak signal-to-noise ratio in dB, the mean over pictures."""
    error = (output - images).square().mean(dim=(1, 2, 3))
    return (10 * torch.log10(4 / error)).mean().item()


def edge_width(images: torch.Tensor) -> float:
    """Median width of strong edges in pixels, from 10 to 90 % of their height.

    Edges are looked for where the lightness changes most among its eight neighbours, at most ``POINTS`` places in a
    picture. From there the lightness is followed up and down its slope in steps of 1 / ``FINE`` pixel, interpolated
    between pixels, until it is level; that is the edge, if its contrast is ``CONTRAST`` or more. A step that falls
    between two pixels is 0.8 wide. NaN where there is no such edge.
    """
    weights = torch.tensor([0.299, 0.587, 0.114], device=images.device)[:, None, None]
    grey = (images * weights).sum(1, keepdim=True) * 127.5
    wide = functional.pad(grey, (1, 1, 1, 1), mode="replicate")
    slope = torch.cat([wide[..., 1:-1, 2:] - wide[..., 1:-1, :-2], wide[..., 2:, 1:-1] - wide[..., :-2, 1:-1]], 1)
    steepness = slope.norm(dim=1, keepdim=True)
    ridge = steepness * (steepness == functional.max_pool2d(steepness, 3, 1, 1))
    height, width = grey.shape[-2:]
    place = ridge.flatten(1).topk(min(POINTS, height * width)).indices
    uphill = functional.normalize(slope.flatten(2).gather(2, place[:, None].expand(-1, 2, -1)), dim=1)
    start = torch.stack([place % width, place // width], 1) + 0.5
    along = torch.arange(-REACH * FINE, REACH * FINE + 1, device=images.device) / FINE
    path = start[..., None] + uphill[..., None] * along
    extent = torch.tensor([width, height], device=images.device)[:, None, None]
    grid = (path / extent * 2 - 1).movedim(1, -1)
    profile = functional.grid_sample(grey, grid, padding_mode="border", align_corners=False)[:, 0]
    middle = REACH * FINE
    rising = (profile.diff(dim=-1) > SLOPE / FINE).int()
    up, down = (
        part.cumprod(-1).sum(-1, keepdim=True) for part in (rising[..., middle:], rising[..., :middle].flip(-1))
    )
    low, high = profile.gather(-1, middle - down), profile.gather(-1, middle + up)
    index = torch.arange(len(along), device=images.device)
    inside = (index >= middle - down) & (index <= middle + up)
    share = (profile - low) / (high - low).clamp(min=1e-6)
    widths = (inside & (share > 0.1) & (share < 0.9)).sum(-1) / FINE
    return widths[(high - low)[..., 0] >= CONTRAST].median().item()


def things(images: torch.Tensor) -> torch.Tensor:
    """Where something stands on a white ground, (n, h, w) bool."""
    return (1 - images).amax(1) * 127.5 > DARKER


def areas(images: torch.Tensor) -> torch.Tensor:
    """The share of each picture that something stands on, (n,)."""
    return things(images).float().mean((1, 2)).cpu()


def centres(images: torch.Tensor) -> torch.Tensor:
    """The centroids of what stands on white, (n, 2): right and down, from -1 to 1. 0 where nothing does."""
    mask = things(images).float()
    means = []
    for axis in (2, 1):
        count = mask.shape[axis]
        at = (torch.arange(count, device=mask.device) + 0.5) / count * 2 - 1
        means.append((mask.sum(3 - axis) * at).sum(1) / mask.sum((1, 2)).clamp(min=1))
    return torch.stack(means, 1).cpu()


def hues(images: torch.Tensor) -> list[str]:
    """Which of `captions.HUES` the mean hue of what stands on white is nearest to; "" where it has no colour.

    A pixel counts by the difference of its largest and its smallest channel: pale and dark ones count little.
    """
    hue, saturation, value = canvas.to_hsv((images + 1) / 2)
    stands = things(images)
    strength = saturation * value * stands
    mean = (strength * torch.exp(2j * math.pi * hue)).sum((1, 2)).cpu()
    coloured = strength.sum((1, 2)) * 255 > LEAST_COLOUR * stands.sum((1, 2)).clamp(min=1)
    asked = {name: colorsys.rgb_to_hsv(*(part / 255 for part in COLOURS[name]))[0] for name in HUES}
    found = []
    for turn, has in zip((mean.angle() / (2 * math.pi)).tolist(), coloured.tolist(), strict=True):
        nearest = min(asked, key=lambda name: abs((asked[name] - turn + 0.5) % 1 - 0.5))
        found.append(nearest if has else "")
    return found


def parts(images: torch.Tensor) -> torch.Tensor:
    """How many connected parts stand on white, (n,); specks below ``PART`` of the largest do not count."""
    side = min(PARTS_SIDE, images.shape[-1])
    mask = things(functional.adaptive_avg_pool2d(images, side)).float()[:, None]
    numbers = mask * torch.arange(1, side * side + 1, device=images.device).reshape(side, side)
    while True:  # the largest number of a part flows through all of it
        flowed = numbers
        for _ in range(16):
            flowed = functional.max_pool2d(flowed, 3, 1, 1) * mask
        if torch.equal(flowed, numbers):
            break
        numbers = flowed
    flat = numbers.flatten(1).long()
    sizes = torch.zeros(len(flat), side * side + 1, device=images.device)
    sizes = sizes.scatter_add_(1, flat, torch.ones_like(flat, dtype=sizes.dtype))[:, 1:]
    return (sizes >= (PART * sizes.amax(1, keepdim=True)).clamp(min=1)).sum(1).cpu()


def pixels(images: torch.Tensor) -> torch.Tensor:
    """Pictures as vectors whose distance is the root mean square of the difference of pixels, 0 to 255."""
    flat = functional.adaptive_avg_pool2d(images, min(PIXELS_SIDE, images.shape[-1])).flatten(1)
    return flat * 127.5 / math.sqrt(flat.shape[1])


def apart(vectors: torch.Tensor, groups: list[int]) -> float:
    """Mean distance of two vectors (n, width) of one group, the mean over groups of the given sizes."""
    each = [functional.pdist(group).mean() for group in vectors.float().split(groups) if len(group) > 1]
    return torch.stack(each).mean().item()


def show(what: str, figure: str) -> None:
    """Print a row of the table, as Markdown."""
    print(f"| {what} | {figure} |", flush=True)


def share(*hits: torch.Tensor) -> str:
    return " / ".join(f"{100 * hit.float().mean():.1f} %" for hit in hits)


def count(*hits: torch.Tensor) -> str:
    return " / ".join(str(int(hit.sum())) for hit in hits) + f" of {len(hits[0])}"
