"""Random streams, one per image.

Draw number n of image i depends on (seed of the image, purpose, n) alone: not on the batch, the device, the
neighbours or PyTorch's global generator. Draws are made on the CPU in float32, so that they are the same everywhere.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence

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
