"""What makes a guided picture cheaper, compared at equal real calls: fewer steps, guidance that is left out, features
that are used again, and coefficients that are fitted to the model.

    python -m benchmarks.fewer_calls                      the embedded model, into the terminal
    python -m benchmarks.fewer_calls --model emoji-flow
    python -m benchmarks.fewer_calls --write              and put the table into docs/samplers.md

Error: the mean over pictures of the root mean square of pixels, from 0 to 1, against 24 Runge-Kutta steps with guidance
everywhere. Cost: evaluations of the network a picture, two for a guided call; a call that uses deep features again
counts as the share of a whole one that its other blocks take, which is measured. "fewer steps" is the error of the same
sampler and schedule with guidance everywhere at the same cost, between its measured ones on log axes.

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
from itertools import pairwise
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import numpy as np
import torch

from samplers.guidance import Method
from samplers.noise import Noise
from samplers.reference import solve_flow
from samplers.registry import Registry, discover
from samplers.run import Plan, plan, run
from samplers.wrappers import Counted
from webui.core.calibrations import FILE, read_calibrations
from weights.diffusers_folder import read_folder
from weights.model import Model
from weights.opening import open_model

from .docs_table import write_table

ROOT = Path(__file__).parent.parent
PROMPTS = ("red apple", "cat face on a blue background", "rocket", "house, flat style")
PLAIN = "fewer steps"
SEED, GUIDANCE, REFERENCE_STEPS = 2_000_000, 5.0, 24
SAMPLERS, SCHEDULE = ("Euler", "LMS"), "Karras"
CALLS, SOME = (6, 8, 10, 12, 16), (8, 12, 16)
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


class Bench:
    """The pictures, their references and what measures a run."""

    def __init__(self, model: Model, registry: Registry):
        self.model, self.registry = model, registry
        size = model.info.defaults.size
        self._zeros, self._seeds = (
            torch.zeros(len(PROMPTS), *model.latents_shape(size, size)),
            range(SEED, SEED + len(PROMPTS)),
        )
        self._everywhere = model.denoiser_of_each(PROMPTS, GUIDANCE)
        high, low = model.schedule.sigma_max, model.schedule.sigma_min
        start = high * Noise(self._seeds, "initial")(self._zeros)
        end = self._everywhere(solve_flow(self._everywhere, start, high, low, REFERENCE_STEPS), low)
        self._reference = self._pixels(end)

    def plan(self, sampler: str, steps: int, schedule: str = SCHEDULE) -> Plan:
        """The plan of a run."""
        item, levels = self.registry.sampler(sampler).item, self.registry.schedule(schedule).item
        return plan(self.model.schedule, item, levels, steps)

    def measure(self, way: str, made: Plan) -> Point:
        """Draw all pictures together, with guidance everywhere."""
        end = run(made, self._everywhere, self._zeros, self._seeds).x
        return self._point(way, made, 2.0 * (len(made.sigmas) - 1), end)

    def measure_alone(self, way: str, made: Plan, **guiding: Any) -> Point:
        """Draw each picture alone, because guidance may end for each at another step; see `Model.denoiser`."""
        ends, evaluations = [], 0.0
        for prompt, seed, zeros in zip(PROMPTS, self._seeds, self._zeros.split(1), strict=True):
            counted = Counted(self.model.denoiser(prompt, "", GUIDANCE, **guiding), 1)
            ends.append(run(made, counted, zeros, [seed]).x)
            evaluations += counted.evaluations_each or 0.0
        return self._point(way, made, evaluations / len(PROMPTS), torch.cat(ends))

    def _point(self, way: str, made: Plan, cost: float, end: torch.Tensor) -> Point:
        difference = (self._pixels(end) - self._reference).reshape(len(PROMPTS), -1)
        error = float(np.sqrt(np.square(difference).mean(1)).mean())
        return Point(way, made.sampler.name, len(made.sigmas) - 1, cost, error)

    def _pixels(self, x: torch.Tensor) -> np.ndarray:
        return np.stack([np.asarray(self.model.decode(one[None])[0], np.float32) / 255 for one in x])


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
    points = [bench.measure(PLAIN, bench.plan(name, n)) for name in SAMPLERS for n in CALLS]
    adaptive = Method(registry.guidance("Adaptive").item, registry.guidance("Adaptive").item.resolve({}))
    points += [bench.measure_alone("adaptive guidance", bench.plan(SAMPLERS[0], n), method=adaptive) for n in SOME]
    for low in LOWS:
        way = f"guidance above sigma {low:g}"
        points += [bench.measure_alone(way, bench.plan(SAMPLERS[0], n), guidance_low=low) for n in SOME]
    share = share_of_deep_blocks(model)
    for every, forecast in ((2, False), (2, True)):
        reused = ReusedFeatures(every, forecast)
        what = "forecast" if forecast else "used again"
        with reusing(model, reused):
            for n in SOME:
                reused.begin()
                point = bench.measure(f"features {what}, {every - 1} of {every} calls", bench.plan(SAMPLERS[0], n))
                whole = math.ceil(n / every)
                points.append(replace(point, cost=2 * (whole + (1 - share) * (n - whole))))
    for each in read_calibrations(model.info.path / FILE).calibrations:
        if each.guidance == GUIDANCE:
            item = registry.sampler(each.sampler).item
            made = Plan(item, item.resolve({}), each.sigmas, each.coefficients)
            points.append(bench.measure("fitted to the model", made))
    default = bench.measure("diffusers' default", bench.plan("DDIM", DEFAULT_STEPS, "Uniform leading"))
    return points, default


def fewer_steps_at(points: Sequence[Point], sampler: str, cost: float) -> float:
    """The error of guidance everywhere at this cost, between the measured ones on log axes, or at their nearest end."""
    plain = sorted((each.cost, each.error) for each in points if each.way == PLAIN and each.sampler == sampler)
    for (low, left), (high, right) in pairwise(plain):
        if low <= cost <= high:
            part = math.log(cost / low) / math.log(high / low)
            return math.exp((1 - part) * math.log(left) + part * math.log(right))
    return plain[0][1] if cost < plain[0][0] else plain[-1][1]


def table(points: Sequence[Point], default: Point, name: str) -> str:
    """The points as lines of a table, each beside fewer steps, and sentences of what follows."""
    lines = ["| | steps | evaluations | error | fewer steps | ratio |", "| --- " * 6 + "|"]
    ratios: dict[str, list[float]] = {}
    for each in points:
        if each.way == PLAIN:
            continue
        # A sampler of its own is compared with the best of the others.
        names = [each.sampler] if each.sampler in SAMPLERS else SAMPLERS
        beside = min(fewer_steps_at(points, other, each.cost) for other in names)
        ratios.setdefault(each.way, []).append(each.error / beside)
        lines.append(
            f"| {each.sampler}, {each.way} | {each.steps} | {each.cost:.3g} | {each.error:.2g} | {beside:.2g} "
            f"| {each.error / beside:.2f} |"
        )
    means = [f"{way} {geometric_mean(each):.2f}" for way, each in ratios.items()]
    said = [
        f"`{name}` at guidance {GUIDANCE:g}, {SCHEDULE}. Mean ratios: {', '.join(means)}.",
        f"DDIM as diffusers draws by default, {default.steps} steps and {default.cost:g} evaluations, has an error of "
        f"{default.error:.2g}.",
    ]
    if reached := min((each for each in points if each.error <= NEAR), key=lambda each: each.cost, default=None):
        said.append(f"An error of {NEAR:g} takes {reached.cost:.3g} evaluations ({reached.sampler}, {reached.way}).")
    return "\n".join([*lines, "", " ".join(said)])


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
