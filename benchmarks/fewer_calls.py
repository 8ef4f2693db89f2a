"""What makes a guided picture cheaper, compared at equal real calls: fewer steps, guidance that is left out, features
that are used again, and coefficients that are fitted to the model.

    python -m benchmarks.fewer_calls                      the embedded model, into the terminal
    python -m benchmarks.fewer_calls --model emoji-flow
    python -m benchmarks.fewer_calls --write              and put the table into docs/samplers.md

For pictures and errors see benchmarks/held_out.py. Cost: evaluations of the network a picture, two for a guided call; a
call that uses deep features again counts as the share of a whole one that its other blocks take, which is measured.
"fewer steps" is the error of the same sampler and schedule with guidance everywhere at the same cost, between its
measured ones on log axes; for a sampler that is fitted, the least of all that were measured.

Reused features (DeepCache, Ma et al. 2023, arXiv:2312.00858): what enters the last block of the way up is that of the
last whole call, or, forecast (as Spectrum does, arXiv:2603.01623), the line through those of the last two.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise, product
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import torch

from samplers.guidance import Method
from samplers.registry import Registry, discover
from samplers.run import run
from samplers.wrappers import Counted
from webui.core.calibrations import FILE, Calibration, read_calibrations
from weights.diffusers_folder import read_folder
from weights.model import Model
from weights.opening import open_model

from .calibrations import plan_of
from .docs_table import write_table
from .held_out import HeldOut

ROOT = Path(__file__).parent.parent
PLAIN, FITTED, ADAPTIVE = "fewer steps", "fitted to the model", "adaptive guidance"
GUIDANCE, SAMPLERS = 5.0, ("Euler", "LMS")
SCHEDULES = ("Karras", "Uniform leading")
SCHEDULE = SCHEDULES[0]  # features are used again on it
CALLS, SOME = (6, 8, 10, 12), (8, 12)
LOWS = (0.15, 0.5)  # sigmas above which there is guidance
NEAR, DEFAULT_STEPS = 0.02, 50


@dataclass(frozen=True)
class Point:
    """A way to draw with so many steps: evaluations a picture, and the error."""

    way: str
    sampler: str
    steps: int
    cost: float
    error: float
    schedule: str = SCHEDULE


class Bench:
    """Measures ways to draw the same pictures."""

    def __init__(self, model: Model, registry: Registry):
        self._pictures, self._registry = HeldOut(model, GUIDANCE), registry

    def measure(self, way: str, sampler: str, steps: int, schedule: str = SCHEDULE) -> Point:
        """All pictures together, with guidance everywhere."""
        error = self._pictures.error_of(self._pictures.plan(self._registry, sampler, schedule, steps))
        return Point(way, sampler, steps, 2.0 * steps, error, schedule)

    def measure_fit(self, fit: Calibration) -> Point:
        """As `measure`, with what is fitted to the model."""
        error = self._pictures.error_of(plan_of(fit, self._registry))
        return Point(FITTED, fit.name, fit.steps, 2.0 * fit.steps, error, fit.schedule)

    def measure_alone(self, way: str, sampler: str, steps: int, schedule: str, **guiding: Any) -> Point:
        """Each picture alone, because guidance may end for each at another step; see `Model.denoiser`."""
        pictures, ends, evaluations = self._pictures, [], 0.0
        made = pictures.plan(self._registry, sampler, schedule, steps)
        for prompt, seed, zeros in zip(pictures.prompts, pictures.seeds, pictures.zeros.split(1), strict=True):
            counted = Counted(pictures.model.denoiser(prompt, "", GUIDANCE, **guiding), 1)
            ends.append(run(made, counted, zeros, [seed]).x)
            evaluations += counted.evaluations_each or 0.0
        cost = evaluations / len(pictures.prompts)
        return Point(way, sampler, steps, cost, pictures.error(torch.cat(ends)), schedule)


class ReusedFeatures:
    """Gives the UNet's last block what its deeper blocks made in the last whole call.

    every     one call of so many is whole
    forecast  the line through those of the last two whole calls in the number of the call, in place of the last
    """

    def __init__(self, every: int, forecast: bool):
        self._every, self._forecast = every, forecast
        self.begin()

    def begin(self) -> None:
        """A picture begins."""
        self._call, self._kept = 0, list[torch.Tensor]()

    def __call__(self, block: Any, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], Any] | None:
        call, self._call = self._call, self._call + 1
        since = call % self._every
        if not since or not self._kept:
            self._kept = [named["hidden_states"], *self._kept][:2]
            return None
        features = self._kept[0]
        if self._forecast and len(self._kept) == 2:
            features = features + since / self._every * (features - self._kept[1])
        return given, named | {"hidden_states": features}


@contextmanager
def reusing(model: Model, reused: ReusedFeatures) -> Iterator[None]:
    """Let the UNet use features again inside a with block."""
    hook = model.network.unet.up_blocks[-1].register_forward_pre_hook(reused, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def share_of_deep_blocks(model: Model) -> float:
    """The share of a call's time that the blocks take whose result is used again; the median of some calls."""
    unet = model.network.unet
    deep = [*unet.down_blocks[1:], unet.mid_block, *unet.up_blocks[:-1]]
    began, spent, shares = [0.0], [0.0], []

    def enter(*given: Any) -> None:
        began[0] = time.process_time()

    def leave(*given: Any) -> None:
        spent[0] += time.process_time() - began[0]

    hooks = [hook for block in deep for hook in _hooks(block, enter, leave)]
    size = model.info.defaults.size
    denoise, x = model.denoiser("red apple", "", GUIDANCE), torch.zeros(1, *model.latents_shape(size, size))
    for _ in range(12):
        spent[0], before = 0.0, time.process_time()
        denoise(x, 1.0)
        shares.append(spent[0] / (time.process_time() - before))
    for hook in hooks:
        hook.remove()
    return sorted(shares)[len(shares) // 2]


def _hooks(block: torch.nn.Module, enter: Any, leave: Any) -> list[Any]:
    return [block.register_forward_pre_hook(enter), block.register_forward_hook(leave)]


@torch.no_grad()
def measure(model: Model, registry: Registry) -> tuple[list[Point], Point]:
    """(the points of every way, what diffusers' pipeline does by default)."""
    bench = Bench(model, registry)
    points = [bench.measure(PLAIN, name, n, schedule) for name in SAMPLERS for schedule in SCHEDULES for n in CALLS]
    adaptive = Method(registry.guidance("Adaptive").item, registry.guidance("Adaptive").item.resolve({}))
    ways: list[tuple[str, dict[str, Any]]] = [(ADAPTIVE, dict(method=adaptive))]
    ways += [(f"guidance above sigma {low:g}", dict(guidance_low=low)) for low in LOWS]
    for schedule, (way, guiding), n in product(SCHEDULES, ways, SOME):
        points.append(bench.measure_alone(way, SAMPLERS[0], n, schedule, **guiding))
    share = share_of_deep_blocks(model)
    for every, forecast in ((2, False), (2, True)):
        reused = ReusedFeatures(every, forecast)
        what = "forecast" if forecast else "used again"
        with reusing(model, reused):
            for n in SOME:
                reused.begin()
                point = bench.measure(f"features {what}, {every - 1} of {every} calls", SAMPLERS[0], n)
                whole = math.ceil(n / every)
                points.append(replace(point, cost=2 * (whole + (1 - share) * (n - whole))))
    fits = read_calibrations(model.info.path / FILE).calibrations
    points += [bench.measure_fit(each) for each in fits if each.guidance == GUIDANCE]
    return points, bench.measure("diffusers' default", "DDIM", DEFAULT_STEPS, "Uniform leading")


def fewer_steps_at(points: Sequence[Point], sampler: str, schedule: str, cost: float) -> float:
    """The error of guidance everywhere at this cost, between the measured ones on log axes, or at their nearest end."""
    walked = PLAIN, sampler, schedule
    plain = sorted((each.cost, each.error) for each in points if (each.way, each.sampler, each.schedule) == walked)
    for (low, left), (high, right) in pairwise(plain):
        if low <= cost <= high:
            part = math.log(cost / low) / math.log(high / low)
            return math.exp((1 - part) * math.log(left) + part * math.log(right))
    return plain[0][1] if cost < plain[0][0] else plain[-1][1]


def table(points: Sequence[Point], default: Point, name: str) -> str:
    """The points as lines of a table, each beside fewer steps, and what an error of NEAR takes."""
    lines = ["| | steps | evaluations | error | fewer steps | ratio |", "| --- " * 6 + "|"]
    plain = dict.fromkeys((each.sampler, each.schedule) for each in points if each.way == PLAIN)
    ratios: dict[str, list[float]] = {}
    for each in points:
        if each.way == PLAIN:
            continue
        own = each.sampler, each.schedule
        beside = min(fewer_steps_at(points, *other, each.cost) for other in ([own] if own in plain else plain))
        ratios.setdefault(each.way, []).append(each.error / beside)
        lines.append(
            f"| {', '.join(own)}, {each.way} | {each.steps} | {each.cost:.3g} | {each.error:.2g} | {beside:.2g} "
            f"| {each.error / beside:.2f} |"
        )
    means = [f"{way} {geometric_mean(each):.2f}" for way, each in ratios.items()]
    said = f"`{name}` at guidance {GUIDANCE:g}. Mean ratios: {', '.join(means)}."
    return "\n".join([*lines, "", said, "", *near_table(points, default)])


def near_table(points: Sequence[Point], default: Point) -> list[str]:
    """The fewest evaluations of each way that end with an error of NEAR or less, as lines of a table."""
    lines = [f"| an error of {NEAR:g} by | sampler, schedule | steps | evaluations | error |", "| --- " * 5 + "|"]
    ways = {default.way: [default]}
    for each in points:
        ways.setdefault(each.way, []).append(each)
    for way, found in ways.items():
        best = min(
            (each for each in found if each.error <= NEAR), key=lambda each: (each.cost, each.error), default=None
        )
        if best is None:
            lines.append(f"| {way} | none of those measured | | | {min(each.error for each in found):.2g} |")
        else:
            lines.append(
                f"| {way} | {best.sampler}, {best.schedule} | {best.steps} | {best.cost:.3g} | {best.error:.2g} |"
            )
    return lines


def main() -> None:
    """Measure and print the table."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--model", default="emoji", help="a folder in weights/ (emoji)")
    flags.add_argument("--write", action="store_true", help="put the table into docs/samplers.md")
    given = flags.parse_args()
    model = open_model(read_folder(ROOT / "weights" / given.model), "cpu")
    text = table(*measure(model, discover(ROOT / "plugins", packages=False)), model.name)
    print(text)
    if given.write:
        write_table("samplers.md", f"fewer-{model.name}", text)


if __name__ == "__main__":
    main()
