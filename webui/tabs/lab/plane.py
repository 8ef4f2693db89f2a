"""Paths of samplers on a two-dimensional density, without a model.

Points are drawn in variance-preserving scaling, z = x / sqrt(1 + sigma^2): noise and data have the same size there, so
that a path stays inside the plot.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from samplers.closed_form import MixtureDenoiser, geometric
from samplers.noise import Noise
from samplers.reference import solve_flow
from samplers.run import Plan, SamplerFailed, plan, run
from samplers.sampler import Step, Stopped
from samplers.schedule import stable_diffusion
from samplers.wrappers import Counted, Stoppable
from webui.core.request import RequestError
from webui.core.run_plans import planning
from webui.engine.engine import Engine
from webui.engine.events import PartialResult, Progress
from webui.engine.job_context import JobContext

MOST_POINTS, MOST_STEPS, MOST_SAMPLERS = 24, 100, 10
EXACT_STEPS = 120  # of the line that is drawn as the exact flow
EXACT_CALLS = 8 * EXACT_STEPS + 1  # two Runge-Kutta steps in each, and the denoising at the end
REACH = 3.0  # half the side of the picture


def three_blobs() -> MixtureDenoiser:
    """Three round clusters of different weight and width."""
    return _mixture([(-1.5, -0.6), (1.2, -1.1), (0.4, 1.4)], [0.22, 0.3, 0.18], [0.4, 0.35, 0.25])


def ring() -> MixtureDenoiser:
    """Eight small clusters on a circle."""
    places = [(1.6 * math.cos(i * math.pi / 4), 1.6 * math.sin(i * math.pi / 4)) for i in range(8)]
    return _mixture(places, [0.12] * 8, [1 / 8] * 8)


def moons() -> MixtureDenoiser:
    """Two interlocked half-circles, each of 24 narrow clusters."""
    angles = [math.pi * (i + 0.5) / 24 for i in range(24)]
    upper = [(1.5 * math.cos(a) - 0.7, 1.5 * math.sin(a) - 0.3) for a in angles]
    lower = [(0.7 - 1.5 * math.cos(a), 0.3 - 1.5 * math.sin(a)) for a in angles]
    return _mixture(upper + lower, [0.1] * 48, [1 / 48] * 48)


DENSITIES: Mapping[str, Callable[[], MixtureDenoiser]] = {"Three blobs": three_blobs, "Ring": ring, "Two moons": moons}


@dataclass(frozen=True)
class PlanePath:
    """The path of one point with one sampler, or with the exact flow.

    sigmas, xs, ys  the noise level and the place (in variance-preserving scaling) after each step, the start first
    calls           denoise calls of this path
    """

    label: str
    point: int
    sigmas: tuple[float, ...]
    xs: tuple[float, ...]
    ys: tuple[float, ...]
    calls: float


@dataclass(frozen=True)
class PathFailed:
    """A sampler that failed, and why."""

    label: str
    reason: str


@dataclass(frozen=True, eq=False)
class PlaneTask:
    """The task (`webui.engine.job_context.Task`); its parts are the exact paths, then those of each sampler.

    name   of the density in DENSITIES
    plans  by the name of each sampler
    seeds  one for each starting point
    """

    name: str
    plans: Mapping[str, Plan]
    seeds: tuple[int, ...]
    model: str = ""

    @property
    def counts(self) -> list[int | None]:
        """Denoise calls of every path, the exact ones first; None for those of an adaptive sampler."""
        each = [EXACT_CALLS, *(plan.calls for plan in self.plans.values())]
        return [count for count in each for _ in self.seeds]

    def run(self, context: JobContext) -> dict[str, Any]:
        """Run every sampler from every point, one point at a time, so that an adaptive solver adapts to each point."""
        density, calls = DENSITIES[self.name](), 0.0
        began, count = context.clock(), len(self.seeds) * (len(self.plans) + 1)
        done = 0
        stopped = False
        try:
            for label in ("", *self.plans):
                for point, seed in enumerate(self.seeds):
                    if context.should_stop():
                        raise Stopped("the paths were stopped")
                    path: PlanePath | PathFailed = (
                        self._sampled(context, density, label, point, seed)
                        if label
                        else exact_path(density, point, seed)
                    )
                    done += 1
                    calls += path.calls if isinstance(path, PlanePath) else 0
                    spent = context.clock() - began
                    left = spent / done * (count - done)
                    text = f"{label or 'exact flow'}, point {point + 1} of {len(self.seeds)}"
                    context.tell(Progress(step=done, steps=count, seconds=spent, remaining=left, text=text))
                    context.tell(PartialResult(path))
        except Stopped:
            stopped = True
        return dict(stopped=stopped, calls=round(calls), seconds=round(context.clock() - began, 3))

    def _sampled(
        self, context: JobContext, density: MixtureDenoiser, label: str, point: int, seed: int
    ) -> PlanePath | PathFailed:
        plan = self.plans[label]
        start = start_of(seed, plan.sigmas[0])
        states: list[tuple[float, torch.Tensor]] = [(plan.sigmas[0], start)]
        counted = Counted(density, 1)

        def keep(step: Step) -> None:
            states.append((step.sigma, step.x))

        try:
            run(plan, Stoppable(counted, context.should_stop), torch.zeros_like(start), (seed,), keep)
        except SamplerFailed as error:
            return PathFailed(label, str(error))
        return _path(label, point, states, counted.calls)


def make_paths(
    engine: Engine,
    density: str,
    samplers: Sequence[str],
    schedule: str,
    steps: int,
    points: int,
    seed: int = 0,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    schedule_options: Mapping[str, Any] | None = None,
) -> PlaneTask:
    """The task for samplers by name. Raises RequestError for what is unknown or out of range.

    options  {sampler: {option: value}}
    """
    if density not in DENSITIES:
        raise RequestError(f"Unknown density {density!r}; known are {', '.join(DENSITIES)}.")
    if not 1 <= len(samplers) <= MOST_SAMPLERS:
        raise RequestError(f"Choose 1 to {MOST_SAMPLERS} samplers; there are {len(samplers)}.")
    for name, value, most in (("Steps", steps, MOST_STEPS), ("Points", points, MOST_POINTS)):
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            raise RequestError(f"{name} must be a whole number from 1 to {most}.")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise RequestError(f"Seed must be a whole number from 0 to {2**32 - 1}.")
    plans = {}
    with planning(f"Schedule {schedule} or a sampler cannot plan this"):
        chosen = engine.registry.schedule(schedule).item
        for name in samplers:
            entry = engine.registry.sampler(name)
            given = (options or {}).get(entry.name, {})
            plans[entry.name] = plan(stable_diffusion(), entry.item, chosen, steps, given, schedule_options or {})
    return PlaneTask(density, plans, tuple(range(seed, seed + points)))


def start_of(seed: int, sigma: float) -> torch.Tensor:
    """Where the point of a seed starts: sigma times its unit noise, (1, 1, 1, 2) in float64."""
    zeros = torch.zeros(1, 1, 1, 2, dtype=torch.float64)
    return sigma * Noise((seed,), "initial")(zeros)


def exact_path(density: MixtureDenoiser, point: int, seed: int) -> PlanePath:
    """The probability-flow ODE from the point of a seed, solved with an error far below a pixel."""
    levels = stable_diffusion()
    sigmas = geometric(levels.sigma_max, levels.sigma_min, EXACT_STEPS)
    x = start_of(seed, sigmas[0])
    states = [(sigmas[0], x)]
    for sigma, lower in zip(sigmas, sigmas[1:]):
        x = solve_flow(density, x, sigma, lower, 2)
        states.append((lower, x))
    # Every run ends with a denoising.
    states.append((0.0, density(x, sigmas[-1])))
    return _path("Exact flow", point, states, EXACT_CALLS)


def direction(density: MixtureDenoiser, z: torch.Tensor, sigma: float) -> torch.Tensor:
    """The flow's velocity at places z (points, 2) in variance-preserving scaling, per unit of falling log sigma.

    With x = s z, s^2 = 1 + sigma^2 and dx/dsigma = (x - D) / sigma it is -dz/dlog sigma = D / s - z / s^2.
    """
    s = math.sqrt(1 + sigma * sigma)
    denoised = density((s * z).reshape(-1, 1, 1, 2), sigma).reshape(-1, 2)
    return denoised / s - z / s**2


def probability(density: MixtureDenoiser, z: torch.Tensor, sigma: float) -> torch.Tensor:
    """The density of the noised data at places z (points, 2) in variance-preserving scaling, (points,)."""
    s2 = 1 + sigma * sigma
    means, variances = density.means.reshape(-1, 2) / math.sqrt(s2), (density.stds**2 + sigma * sigma) / s2
    distance = (z[:, None] - means).square().sum(-1)
    return (density.weights * torch.exp(-distance / (2 * variances)) / (2 * math.pi * variances)).sum(-1)


def lattice(count: int, reach: float = REACH) -> torch.Tensor:
    """count x count places that cover the picture evenly, row by row, (count^2, 2)."""
    line = torch.linspace(-reach, reach, count, dtype=torch.float64)
    return torch.cartesian_prod(line, line).flip(-1)


def _path(label: str, point: int, states: Sequence[tuple[float, torch.Tensor]], calls: float) -> PlanePath:
    places = [(x.double() / math.sqrt(1 + sigma * sigma)).flatten().tolist() for sigma, x in states]
    xs, ys = zip(*places)
    return PlanePath(label, point, tuple(sigma for sigma, _ in states), xs, ys, calls)


def _mixture(places: Sequence[tuple[float, float]], stds: Sequence[float], weights: Sequence[float]) -> MixtureDenoiser:
    means, spreads, shares = (torch.tensor(values, dtype=torch.float64) for values in (places, stds, weights))
    return MixtureDenoiser(means.reshape(-1, 1, 1, 2), spreads, shares)
