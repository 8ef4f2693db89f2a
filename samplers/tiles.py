"""Overlapping tiles of a picture or of latents: where they lie, how they are blended, and a network in tiles."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

Function = Callable[[torch.Tensor, float, Any], torch.Tensor]
DISCARDED = 0.25  # share of an overlap, at the edge of a tile, that is not used: a network knows no surroundings there


@dataclass(frozen=True)
class Tile:
    """A rectangle of a picture or of latents, in their units."""

    top: int
    left: int
    height: int
    width: int

    def of(self, x: torch.Tensor) -> torch.Tensor:
        """This part of x (..., height, width)."""
        return x[..., self.top : self.top + self.height, self.left : self.left + self.width]

    def times(self, scale: int) -> Tile:
        """The same part of a picture that is larger by a whole factor."""
        return Tile(*(scale * each for each in (self.top, self.left, self.height, self.width)))


def starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where the tiles of an axis begin: neighbours share at least `overlap`, and all are spread evenly."""
    if length <= tile:
        return [0]
    count = math.ceil((length - overlap) / (tile - overlap))
    return [round(i * (length - tile) / (count - 1)) for i in range(count)]


def tiles_of(size: tuple[int, int], tile: tuple[int, int], overlap: int) -> list[Tile]:
    """The tiles, at most `tile` (height, width) large, that cover a picture of `size` (height, width), row by row."""
    height, width = (min(whole, part) for whole, part in zip(size, tile, strict=True))
    tops, lefts = (starts(whole, part, min(overlap, part - 1)) for whole, part in zip(size, tile, strict=True))
    return [Tile(top, left, height, width) for top in tops for left in lefts]


class Blend:
    """The weighted mean of overlapping tiles: sum of w_i * tile_i / sum of w_i.

    Near an edge that has a neighbour w is 0 in the outer quarter of the overlap, rises in its middle half and is 1
    further in: where two tiles agree the blend is what they agree on, and no seam shows where they do not.

    shape    (..., height, width) of the whole
    overlap  what neighbouring tiles share at least
    like     a tensor whose device and dtype the result has
    """

    def __init__(self, shape: tuple[int, ...], overlap: int, like: torch.Tensor):
        self._overlap = overlap
        self._sum = torch.zeros(shape, device=like.device, dtype=like.dtype)
        self._weights = torch.zeros(shape[-2:], device=like.device, dtype=like.dtype)

    def add(self, tile: Tile, values: torch.Tensor) -> None:
        """Add a tile's values (..., tile.height, tile.width)."""
        height, width = self._weights.shape
        rows = self._ramp(tile.top, tile.height, height)
        columns = self._ramp(tile.left, tile.width, width)
        weights = rows[:, None] * columns
        tile.of(self._sum).add_(values * weights)
        tile.of(self._weights).add_(weights)

    def result(self) -> torch.Tensor:
        """The blend, once every place is covered."""
        return self._sum / self._weights

    def _ramp(self, start: int, length: int, whole: int) -> torch.Tensor:
        """The weights along an axis of a tile."""
        place = torch.arange(length, device=self._sum.device, dtype=self._sum.dtype) + 0.5
        weights = torch.ones_like(place)
        unused, rising = DISCARDED * self._overlap, (1 - 2 * DISCARDED) * self._overlap
        for has_neighbour, distance in ((start > 0, place), (start + length < whole, place.flip(0))):
            if has_neighbour and self._overlap:
                weights = weights * ((distance - unused) / rising).clamp(0, 1)
        return weights


@dataclass(frozen=True, eq=False)
class Tiled:
    """A network that is asked about overlapping tiles of what is larger than it was trained on.

    The outputs are blended, see `Blend`, at every call, so that the tiles cannot drift apart: MultiDiffusion (Bar-Tal
    et al. 2023, arXiv:2302.08113, eq. 5). An estimate of x0 is linear in the output, so this blends the estimates too,
    and guidance sees the whole.

    function   see `samplers.denoiser.Network`
    tile       (height, width) of a tile in latents
    overlap    latents that neighbouring tiles share at least
    on_tile    called before each tile; what it raises ends the run
    """

    function: Function
    tile: tuple[int, int]
    overlap: int
    on_tile: Callable[[], None] = lambda: None

    def __call__(self, scaled: torch.Tensor, timestep: float, condition: Any) -> torch.Tensor:
        tiles = tiles_of((scaled.shape[-2], scaled.shape[-1]), self.tile, self.overlap)
        if len(tiles) == 1:
            return self.function(scaled, timestep, condition)
        blend: Blend | None = None
        for tile in tiles:
            self.on_tile()
            output = self.function(tile.of(scaled).contiguous(), timestep, condition)
            # The output may have other channels than the state.
            blend = blend or Blend((*output.shape[:2], *scaled.shape[-2:]), self.overlap, output)
            blend.add(tile, output)
        assert blend is not None  # there are tiles
        return blend.result()
