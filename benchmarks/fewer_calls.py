"""What makes a guided picture cheaper, compared at equal real calls: fewer steps, guidance that is left out, features
that are used again, and coefficients that are fitted to the model.

    python -m benchmarks.fewer_calls                      the embedded model, into the terminal
    python -m benchmarks.fewer_calls --model emoji-flow
    python -m benchmarks.fewer_calls --write              and put the table into docs/samplers.md

For pictures and errors see benchmarks/held_out.py. Cost: evaluations of the network a picture, two for a guided call; a
call that uses deep features again (feature_reuse, weights/feature_reuse.py) counts as its share of a whole one's time,
which is measured.
"fewer steps" is the error of the same sampler and schedule with guidance everywhere at the same cost, between its
measured ones on log axes; for a sampler that is fitted, the least of all that were measured.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from statistics import geometric_mean, median
from typing import Any

import torch

from samplers.guidance import Method
from samplers.registry import Registry
from samplers.run import run
from samplers.wrappers import Counted
from webui.core.calibrations import FILE, Calibration, read_calibrations
from weights.model import Model

from .calibrations import plan_of
from .held_out import HeldOut, main

PLAIN, FITTED, ADAPTIVE = "fewer steps", "fitted to the model", "adaptive guidance"
GUIDANCE, SAMPLERS = 5.0, ("Euler", "LMS")
SCHEDULES = ("Karras", "Uniform leading")
CALLS, SOME = (6, 8, 10, 12), (8, 12)
REUSES, REUSED = (2, 3), (8, 12, 16)  # whole calls are one in so many, of so many
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
    schedule: str = SCHEDULES[0]


class Bench:
    """Measures ways to draw the same pictures."""

    def __init__(self, model: Model, registry: Registry):
        self._pictures, self._registry = HeldOut(model, GUIDANCE), registry

    def measure(self, way: str, sampler: str, steps: int, schedule: str = SCHEDULES[0]) -> Point:
        """All pictures together, with guidance everywhere."""
        error = self._pictures.error_of(self._pictures.plan(self._registry, sampler, schedule, steps))
        return Point(way, sampler, steps, 2.0 * steps, error, schedule)

    def measure_reuse(self, sampler: str, steps: int, schedule: str, every: int, outer: float) -> Point:
        """As `measure`, with features used again; `outer` is what a call costs that does so."""
        pictures = self._pictures
        denoise = pictures.model.denoiser_of_each(pictures.prompts, GUIDANCE, every)
        error = pictures.error_of(pictures.plan(self._registry, sampler, schedule, steps), denoise)
        whole = math.ceil(steps / every)
        way = f"features used again in {every - 1} of {every} calls"
        return Point(way, sampler, steps, 2 * (whole + outer * (steps - whole)), error, schedule)

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


@torch.no_grad()
def cost_of_outer_call(model: Model) -> float:
    """The time of a call that uses features again over that of a whole one; the median of some pairs in turn."""
    size, ratios = model.info.defaults.size, []
    denoise = model.denoiser("red apple", "", GUIDANCE, feature_reuse=2)
    x = torch.zeros(1, *model.latents_shape(size, size))
    for _ in range(12):
        spent = []
        for sigma in (2.0, 1.0):
            before = time.process_time()
            denoise(x, sigma)
            spent.append(time.process_time() - before)
        ratios.append(spent[1] / spent[0])
    return median(ratios)


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
    outer = cost_of_outer_call(model)
    for schedule, every, n in product(SCHEDULES, REUSES, REUSED):
        points.append(bench.measure_reuse(SAMPLERS[0], n, schedule, every, outer))
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


if __name__ == "__main__":
    main(__doc__, "fewer", lambda model, registry: table(*measure(model, registry), model.name))
