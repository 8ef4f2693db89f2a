"""What every training loop needs: a budget, checkpoints that survive a kill, progress, a contact sheet."""

from __future__ import annotations

import functools
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image


def device() -> torch.device:
    if torch.cuda.is_available():
        torch.backends.cudnn.benchmark = True  # a step has few shapes
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def autocast(where: torch.device):
    """bfloat16 where it is faster: on CUDA, and on CPUs that have the instructions for it."""
    return torch.autocast(where.type, torch.bfloat16, enabled=where.type == "cuda" or _fast_on_cpu(where.type))


@functools.cache
def _fast_on_cpu(kind: str) -> bool:
    """Measure whether a convolution is faster in bfloat16: a CPU without the instructions emulates them."""
    if kind != "cpu":
        return False
    kinds = torch.float32, torch.bfloat16
    tried = {
        kind: (torch.nn.Conv2d(64, 64, 3, padding=1, dtype=kind), torch.randn(4, 64, 16, 16, dtype=kind))
        for kind in kinds
    }
    # Another program may run for a moment of the measurement. So: in turn, the best of several, and in one thread,
    # since several threads wait for the slowest.
    seconds, threads = dict.fromkeys(kinds, math.inf), torch.get_num_threads()
    torch.set_num_threads(1)
    for _ in range(8):
        for kind, (layer, x) in tried.items():
            begun = time.perf_counter()
            layer(x)
            seconds[kind] = min(seconds[kind], time.perf_counter() - begun)
    torch.set_num_threads(threads)
    return seconds[torch.bfloat16] < 0.8 * seconds[torch.float32]


def generator(seed: int, step: int, where: torch.device | str = "cpu") -> torch.Generator:
    """The randomness of one training step, a function of the step's number alone.

    A resumed run therefore goes on exactly as the uninterrupted one, with no generator to save.
    """
    return torch.Generator(where).manual_seed(seed * 1_000_003 + step)


@dataclass(frozen=True)
class Budget:
    """How long to train: minutes of training, or steps where a run must be repeatable to the bit."""

    minutes: float | None = None
    steps: int | None = None

    def fraction(self, step: int, seconds: float) -> float:
        """The spent part of the budget, in [0, 1]; drives the learning rate, so every run ends annealed."""
        spent = step / self.steps if self.steps else seconds / (60 * self.minutes)
        return min(spent, 1.0)


def learning_rate(fraction: float, peak: float, warmup: float = 0.02) -> float:
    """Linear warm-up, then half a cosine down to 1 % of the peak (arXiv:1608.03983)."""
    if fraction < warmup:
        return peak * max(fraction / warmup, 0.01)
    progress = (fraction - warmup) / (1 - warmup)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def save(path: Path, state: dict) -> None:
    """Write a checkpoint so that a kill at any moment leaves the old one or the new one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


def restore(path: Path) -> dict | None:
    return torch.load(path, map_location="cpu", weights_only=True) if path.exists() else None


def train(
    *,
    budget: Budget,
    step: Callable[[int, float], Mapping[str, float | torch.Tensor]],
    state: Callable[[], dict],
    path: Path,
    resume: dict | None,
    sample: Callable[[], None] = lambda: None,
    checkpoint_seconds: float = 120.0,
    sample_seconds: float = 600.0,
) -> None:
    """Call ``step(number, fraction)`` until the budget is spent, with checkpoints and progress between.

    ``step`` returns the figures of the progress line; tensors without a gradient may stay on the device, which is
    waited for only when the line is printed. ``state`` gives all that the steps have changed; the loop adds its own
    place. Time spent in earlier runs counts: a resumed run ends where one run would.
    """
    number, seconds = (resume["number"], resume["seconds"]) if resume else (0, 0.0)
    begun, saved = time.monotonic() - seconds, time.monotonic()
    sampled = saved
    averages: dict[str, float | torch.Tensor] = {}
    while (fraction := budget.fraction(number, time.monotonic() - begun)) < 1:
        for key, value in step(number, fraction).items():
            averages[key] = averages.get(key, value) * 0.98 + value * 0.02
        number += 1
        if number % 50 == 0:
            seconds = time.monotonic() - begun
            left = seconds * (1 - fraction) / max(fraction, 1e-9) / 60
            figures = "  ".join(f"{key} {float(value):.4f}" for key, value in averages.items())
            print(f"step {number}  {number / seconds:.2f}/s  {figures}  {left:.1f} min left", flush=True)
        if time.monotonic() - saved > checkpoint_seconds:
            save(path, {**state(), "number": number, "seconds": time.monotonic() - begun})
            saved = time.monotonic()
        if time.monotonic() - sampled > sample_seconds:
            sample()
            sampled = time.monotonic()
    save(path, {**state(), "number": number, "seconds": time.monotonic() - begun})
    sample()


def contact_sheet(path: Path, pictures: torch.Tensor, columns: int = 8) -> None:
    """Pictures of shape (n, 3, h, w) in [-1, 1] as one PNG."""
    count, _, height, width = pictures.shape
    rows = -(-count // columns)
    sheet = torch.ones(3, rows * height, columns * width)
    for i, picture in enumerate(pictures):
        top, left = i // columns * height, i % columns * width
        sheet[:, top : top + height, left : left + width] = picture
    array = ((sheet.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
