"""What the contract of samplers costs a step, beside the same loop written out: both in turn, on the processor's clock.

    python -m benchmarks.contract_overhead

Euler on four numbers and a denoiser that does next to nothing, so that nothing but the contract is left: its generator,
the check of each call, the `Step`. Allowed are 2 microseconds a step where the loop takes 8; a network call takes some
thousand times as long. The ratio counts: a busy machine slows both down.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch

from samplers.noise import Noise
from samplers.registry import discover
from samplers.schedule import stable_diffusion

ROOT = Path(__file__).parent.parent
STEPS, ROUNDS = 500, 60
ALLOWED = 1.25  # times the loop


def main() -> None:
    """Print microseconds a step of both; ends with 1 if the contract takes more than ALLOWED."""
    torch.set_num_threads(1)
    registry = discover(ROOT / "plugins", packages=False)
    euler, sigmas = registry.sampler("Euler").item, registry.schedule("Karras").item(stable_diffusion(), STEPS)
    start, noise = torch.ones(1, 1, 2, 2), Noise((0,))

    def bare() -> None:
        x = start
        for sigma, lower in pairwise(sigmas):
            denoised = denoise(x, sigma)
            x = x + (lower - sigma) * (x - denoised) / sigma

    def contract() -> None:
        for _ in euler(denoise, start, sigmas, noise):
            pass

    with torch.no_grad():
        best = dict.fromkeys((bare, contract), float("inf"))
        for _ in range(ROUNDS):
            for side in best:
                best[side] = min(best[side], seconds(side))
    plain, ours = (1e6 * best[side] / STEPS for side in (bare, contract))
    more = f"{ours - plain:.2f} more, {ours / plain:.2f} times"
    print(f"a loop {plain:.2f}, the contract {ours:.2f} microseconds a step: {more}")
    sys.exit(int(ours / plain > ALLOWED))


def denoise(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """The estimate of x0 of a network that sees no picture in anything."""
    return x * 0.0


def seconds(side: Callable[[], None]) -> float:
    """The processor's time of one run."""
    began = time.process_time()
    side()
    return time.process_time() - began


if __name__ == "__main__":
    main()
