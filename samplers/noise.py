"""Random streams, one per image.

Draw number n of image i depends on (seed of the image, purpose, n) alone: not on the batch, the device, the
neighbours or PyTorch's global generator. Draws are made on the CPU in float32, so that they are the same everywhere.
"""

from __future__ import annotations

import bisect
import hashlib
import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torchsde

NOISE_VERSION = 1  # recorded with every picture; changes only if the same seed would give other noise


def stream_key(seed: int, purpose: str, draw: int) -> int:
    """A 63-bit key, different for every (seed, purpose, draw)."""
    digest = hashlib.sha256(f"{NOISE_VERSION}/{seed}/{purpose}/{draw}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def spherical(first: torch.Tensor, second: torch.Tensor, share: float) -> torch.Tensor:
    """The noise of each image on the great circle from `first` (share 0) to `second` (share 1).

    (sin((1 - share) a) first + sin(share a) second) / sin(a), with the angle a between the two (Shoemake 1985). Unit
    normal noise stays so: the squares of the weights sum to 1 where the two are orthogonal, as independent noise is.
    """
    flat = [noise.flatten(1) / noise.flatten(1).norm(dim=1, keepdim=True) for noise in (first, second)]
    angle = (flat[0] * flat[1]).sum(1).clamp(-1, 1).acos().reshape(-1, *[1] * (first.ndim - 1))
    # Where the two are nearly one, any way between them is the same.
    straight = angle.sin() < 1e-4
    safe = torch.where(straight, torch.ones_like(angle), angle)
    weights = [torch.where(straight, part, (part * safe).sin() / safe.sin()) for part in (1.0 - share, share)]
    return weights[0] * first + weights[1] * second


class Noise:
    """The noise of one run: `noise(x)` draws for every image of x from its own stream.

    seeds    one whole number per image of the batch
    purpose  keeps streams apart: "initial" for the starting noise, "step" for the sampler's own
    """

    def __init__(self, seeds: Sequence[int], purpose: str = "step"):
        self._seeds = tuple(seeds)
        self._purpose = purpose
        self._draws = 0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Unit normal noise of the shape, dtype and device of x (images, ...)."""
        self._check(x)
        draws = [self._draw(seed, x.shape[1:]) for seed in self._seeds]
        self._draws += 1
        return torch.stack(draws).to(x)

    def increments(self, x: torch.Tensor) -> Callable[[float, float], torch.Tensor]:
        """One Brownian path per image over sigma, drawn as it is asked for.

        Returns increment(sigma, lower) as `brownian` does, at the cost of plain noise. What overlaps agrees, as SDE
        solvers with inner steps need; but the path follows the questions: another schedule sees another one.
        """
        self._check(x)
        pieces = _Pieces(Noise(self._seeds, f"{self._purpose}/increments/{self._draws}"), x.shape)
        self._draws += 1
        return lambda sigma, lower: pieces(float(sigma), float(lower)).to(x)

    def brownian(self, x: torch.Tensor, low: float, high: float) -> Callable[[float, float], torch.Tensor]:
        """One Brownian path per image over sigmas in [low, high].

        The path depends on the seed alone, up to the power of two above `high`: other schedules see the same path.
        Returns increment(sigma, lower): the path's increment between two sigmas divided by the root of their
        distance, so unit normal noise like x; overlapping intervals agree, as SDE solvers with inner steps need.
        """
        self._check(x)
        # The tree rounds its ends and all questions to its tolerance: bounds that it can hold exactly keep every
        # level inside.
        end = 2.0 ** max(0, math.ceil(math.log2(high)))
        trees = [
            torchsde.BrownianTree(
                t0=0.0,
                t1=end,
                tol=1e-9,
                w0=torch.zeros(x.shape[1:], dtype=torch.float32),
                entropy=stream_key(seed, self._purpose + "/brownian", self._draws) >> 1,
            )
            for seed in self._seeds
        ]
        self._draws += 1

        def increment(sigma: float, lower: float) -> torch.Tensor:
            ta, tb = sorted((float(sigma), float(lower)))
            sign = 1.0 if sigma < lower else -1.0
            steps = [tree(ta, tb) for tree in trees]
            return (torch.stack(steps) * (sign / (tb - ta) ** 0.5)).to(x)

        return increment

    def _draw(self, seed: int, shape: torch.Size) -> torch.Tensor:
        generator = torch.Generator("cpu").manual_seed(stream_key(seed, self._purpose, self._draws))
        return torch.randn(shape, generator=generator, dtype=torch.float32)

    def _check(self, x: torch.Tensor) -> None:
        if x.shape[0] != len(self._seeds):
            raise ValueError(f"noise was made for {len(self._seeds)} images, and x has {x.shape[0]}")


class _Pieces:
    """A Brownian path as the unit noises of its increments between the places that were asked for.

    An interval beyond the path is a new draw z. One that ends inside a piece of length p + q with the unit noise n cuts
    it by a Brownian bridge, a rotation of (n, z): the lower part of length p gets sqrt(p/(p+q)) n + sqrt(q/(p+q)) z,
    the upper one sqrt(q/(p+q)) n - sqrt(p/(p+q)) z (Karatzas & Shreve 1991, section 5.6.B).
    """

    def __init__(self, noise: Noise, shape: torch.Size):
        self._noise, self._like = noise, torch.empty(shape)
        self._places: list[float] = []
        self._noises: list[torch.Tensor] = []  # one less: those between two neighbours

    def __call__(self, sigma: float, lower: float) -> torch.Tensor:
        """The path's increment from sigma to lower, divided by the root of their distance."""
        for place in (sigma, lower):
            self._know(place)
        first, last = sorted(self._places.index(place) for place in (sigma, lower))
        noises, places = self._noises[first:last], self._places[first : last + 1]
        length = places[-1] - places[0]
        if len(noises) == 1:
            whole = noises[0]
        else:
            shares = [math.sqrt((above - below) / length) for below, above in pairwise(places)]
            whole = sum((share * noise for share, noise in zip(shares, noises, strict=True)), torch.zeros(()))
        return whole if sigma < lower else -whole

    def _know(self, place: float) -> None:
        """Have a place among the known ones."""
        places, noises = self._places, self._noises
        index = bisect.bisect_left(places, place)
        if places[index : index + 1] == [place]:
            return
        places.insert(index, place)
        if len(places) == 1:
            return
        fresh = self._noise(self._like)
        if 0 < index < len(places) - 1:
            below, above = place - places[index - 1], places[index + 1] - place
            low, high = (math.sqrt(part / (below + above)) for part in (below, above))
            whole = noises[index - 1]
            noises[index - 1 : index] = [low * whole + high * fresh, high * whole - low * fresh]
        else:
            noises.insert(min(index, len(noises)), fresh)
