"""How fast samplers come to the answer: error over network calls, from the same noise. Without gradio."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from samplers.closed_form import BimodalDenoiser
from samplers.denoiser import Watched
from samplers.generate import Plan, SamplerFailed, plan, run
from samplers.noise import Noise
from samplers.reference import observed_order, solve_flow
from samplers.sampler import Sampler, Schedule, Stopped
from samplers.schedule import NoiseSchedule, stable_diffusion

from ..engine import Engine
from ..events import Part, Progress
from ..request import Request, RequestError
from ..tasks import Desk

BUDGETS = (5, 10, 20, 40, 80, 160)  # network calls an image
TOLERANCES = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)  # for samplers that choose their own steps
REFERENCE_STEPS = 100  # of the reference on a model, four network calls each
IMAGES = 64  # starting points on the mixture
ROUNDING = {torch.float64: 1e-12, torch.float32: 1e-5}
MOST_SAMPLERS = 12
USUAL_CALLS = 60  # of a run that only tells when it is over
MIXTURE = BimodalDenoiser(place=1.0, std=0.5)


@dataclass(frozen=True)
class Contestant:
    """A sampler with its options, under the name that the plot gives it; `reason` says why it cannot take part."""

    label: str
    sampler: Sampler
    options: Mapping[str, Any]
    reason: str = ""


@dataclass(frozen=True)
class Point:
    """One run: network calls an image, the error at its end, and what was asked for ("20 steps")."""

    label: str
    calls: float
    error: float
    asked: str


@dataclass(frozen=True)
class Excluded:
    """A sampler, or one of its runs, that is not in the plot, and why."""

    label: str
    reason: str


@dataclass(frozen=True)
class Reference:
    """What errors are measured against: how it was found, and the error that it may have itself, as a share."""

    text: str
    doubt: float


@dataclass(frozen=True, eq=False)
class Problem:
    """One question to all samplers: from `sigma` times unit noise of `seeds`, where does the flow end?

    zeros  a tensor of the state's shape, dtype and device
    """

    denoise: Callable[[torch.Tensor, float], torch.Tensor]
    levels: NoiseSchedule
    zeros: torch.Tensor
    seeds: tuple[int, ...]


def mixture_problem(seed: int = 0) -> Problem:
    """64 points of 16 numbers on the closed-form mixture of two Gaussians a number, in float64, at SD's noise levels."""
    zeros = torch.zeros(IMAGES, 1, 4, 4, dtype=torch.float64)
    return Problem(MIXTURE, stable_diffusion(), zeros, tuple(range(seed, seed + IMAGES)))


def exact_end(problem: Problem) -> torch.Tensor:
    """The end of the mixture's flow, exact to rounding, after the last denoising that every run ends with."""
    x = problem.levels.sigma_max * _noise(problem)
    low = problem.levels.sigma_min
    return problem.denoise(problem.denoise.flow(x, problem.levels.sigma_max, low), low)


def solved_end(problem: Problem, steps: int) -> torch.Tensor:
    """The end of the flow by Runge-Kutta with so many steps, after the same last denoising; 4 steps + 1 calls."""
    high, low = problem.levels.sigma_max, problem.levels.sigma_min
    x = solve_flow(problem.denoise, high * _noise(problem), high, low, steps)
    return problem.denoise(x, low)


def relative_error(end: torch.Tensor, exact: torch.Tensor) -> float:
    """The median over images of |end - exact| / |exact|."""
    return ((end - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)).double().median().item()


def contestant(sampler: Sampler, options: Mapping[str, Any]) -> Contestant:
    """A sampler as it can take part: without its own noise, since only the flow has one answer for one noise."""
    settled = sampler.settle(options)
    if not sampler.stochastic_with(**settled):
        return Contestant(sampler.name, sampler, settled)
    for name in ("eta", "churn", "s_churn", "tau", "s_noise"):
        quiet = next((settled | {name: 0} for option in sampler.options if option.name == name and option.low == 0), None)
        if quiet and not sampler.stochastic_with(**quiet):
            return Contestant(f"{sampler.name} ({name} 0)", sampler, sampler.settle(quiet))
    return Contestant(sampler.name, sampler, settled, "draws fresh noise, so that its end is another picture each time")


def asked(one: Contestant, levels: NoiseSchedule, schedule: Schedule, options: Mapping[str, Any], budgets: Sequence[int]):
    """The runs of a contestant, [(what is asked for, plan)]: each budget's largest number of steps, or each tolerance."""
    make = partial(plan, levels, one.sampler, schedule, schedule_options=options)
    if one.sampler.own_grid_with(**one.options) and "tolerance" in one.options:
        option = next(option for option in one.sampler.options if option.name == "tolerance")
        allowed = [value for value in TOLERANCES if option.low <= value <= option.high]
        return [(f"tolerance {value:g}", make(steps=20, options={**one.options, "tolerance": value})) for value in allowed]
    if one.sampler.own_grid_with(**one.options) and make(steps=20, options=one.options).calls is None:
        return [("its own steps", make(steps=20, options=one.options))]
    counts: dict[int, Plan] = {}
    for budget in budgets:
        # Most need one or two calls a step; from what fits by that, the rest is one look.
        for steps in (budget, *range(budget // 2 + 1, 0, -1)):
            made = make(steps=steps, options=one.options)
            if made.calls is None or made.calls <= budget:
                counts.setdefault(steps, made)
                break
    return [(f"{steps} step{'s' * (steps != 1)}", made) for steps, made in counts.items()]


@dataclass(frozen=True, eq=False)
class Convergence:
    """The task (`webui.tasks.Task`): tells the Reference, then Points and Excluded.

    request  prompt, guidance, size, seed and model of the run; None for the closed-form mixture, without a model
    """

    contestants: tuple[Contestant, ...]
    schedule: Schedule
    schedule_options: Mapping[str, Any]
    request: Request | None = None
    budgets: tuple[int, ...] = BUDGETS

    @property
    def model(self) -> str:
        """The model; empty for the mixture."""
        return self.request.model if self.request else ""

    def runs(self, levels: NoiseSchedule) -> list[tuple[Contestant, str, Plan]]:
        """All runs, in order, at a model's noise levels."""
        able = [one for one in self.contestants if not one.reason]
        return [
            (one, what, made)
            for one in able
            for what, made in asked(one, levels, self.schedule, self.schedule_options, self.budgets)
        ]

    def calls(self, levels: NoiseSchedule) -> int:
        """Network calls of all runs and of the reference; a usual number for those that are not declared."""
        reference = 4 * REFERENCE_STEPS * 3 // 2 + 2 if self.request else 0
        counts = [made.calls for _, _, made in self.runs(levels)]
        return reference + sum(USUAL_CALLS if count is None else count for count in counts)

    def run(self, desk: Desk) -> dict[str, Any]:
        """Measure. A sampler that fails is told as Excluded, and the others go on."""
        meter = _Meter(desk, self)
        try:
            with torch.no_grad():
                meter.measure()
        except Stopped:
            return dict(stopped=True, calls=round(meter.calls), seconds=meter.seconds)
        return dict(stopped=False, calls=round(meter.calls), seconds=meter.seconds)


def make_convergence(
    engine: Engine,
    samplers: Sequence[str],
    schedule: str,
    request: Request | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    schedule_options: Mapping[str, Any] | None = None,
    budgets: Sequence[int] = BUDGETS,
) -> Convergence:
    """The task for samplers by name; RequestError for names and options that are not known, and too much work.

    options  {sampler: {option: value}}
    """
    if not samplers:
        raise RequestError("Choose at least one sampler.")
    if len(samplers) > MOST_SAMPLERS:
        raise RequestError(f"{len(samplers)} samplers are chosen; a plot takes {MOST_SAMPLERS}.")
    try:
        entries = [engine.registry.sampler(name) for name in samplers]
        entrants = tuple(contestant(entry.item, (options or {}).get(entry.name, {})) for entry in entries)
        chosen = engine.registry.schedule(schedule).item
        settled = None
        if request is not None:
            settled = engine.settle(request.model_copy(update=dict(count=1, mode="txt2img", image=None)))
        task = Convergence(entrants, chosen, schedule_options or {}, settled, tuple(budgets))
        levels = engine.models()[settled.model].schedule if settled else stable_diffusion()
        calls = task.calls(levels)
    except RequestError:
        raise
    except ValueError as error:
        raise RequestError(f"{str(error)[:1].upper()}{str(error)[1:]}.") from None
    if calls > engine.limits.calls:
        raise RequestError(f"This takes {calls} network calls; allowed here are {engine.limits.calls}. Choose fewer samplers.")
    return task


def orders(points: Sequence[Point], doubt: float) -> dict[str, float | None]:
    """The order that each sampler's points show, by label."""
    labels = dict.fromkeys(point.label for point in points)
    found = {}
    for label in labels:
        own = sorted((point for point in points if point.label == label), key=lambda point: point.calls)
        found[label] = observed_order([point.calls for point in own], [point.error for point in own], doubt)
    return found


class _Meter:
    """A measurement on its way."""

    def __init__(self, desk: Desk, task: Convergence):
        self._desk, self._task = desk, task
        self._began = desk.clock()
        self.calls: float = 0
        self._doing, self._total, self._before = "", 0, 0.0

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return round(self._desk.clock() - self._began, 3)

    def measure(self) -> None:
        """Find the reference, then run every contestant."""
        problem = self._problem()
        self._total = self._task.calls(problem.levels)
        for one in self._task.contestants:
            if one.reason:
                self._desk.tell(Part(Excluded(one.label, one.reason)))
        exact = self._reference(problem)
        for one, what, made in self._task.runs(problem.levels):
            self._doing = f"{one.label}, {what}"
            self._desk.tell(Part(self._point(problem, exact, one, what, made)))

    def _problem(self) -> Problem:
        request, model = self._task.request, self._desk.model
        if request is None:
            return mixture_problem()
        zeros = torch.zeros(1, *model.latents_shape(request.width, request.height), device=model.device)
        denoise = model.denoiser(request.prompt, request.negative_prompt, request.guidance)
        return Problem(denoise, model.schedule, zeros, request.seeds)

    def _reference(self, problem: Problem) -> torch.Tensor:
        if self._task.request is None:
            self._desk.tell(Part(Reference("the exact answer, in closed form", ROUNDING[torch.float64])))
            return exact_end(problem)
        self._doing = "the reference"
        watched = self._watched(problem)
        counted = Problem(watched, problem.levels, problem.zeros, problem.seeds)
        rough, fine = (solved_end(counted, steps) for steps in (REFERENCE_STEPS // 2, REFERENCE_STEPS))
        # Not divided by 15, as Richardson would: that networks are smooth enough for fourth order is not known.
        doubt = max(relative_error(rough, fine), ROUNDING[torch.float32])
        text = (
            f"a Runge-Kutta solution of {4 * REFERENCE_STEPS + 1} network calls, which differs from one of half as many by "
            f"{doubt:.1g}; errors near that tell nothing, and slopes leave them out"
        )
        self._desk.tell(Part(Reference(text, doubt)))
        return fine

    def _point(self, problem: Problem, exact: torch.Tensor, one: Contestant, what: str, made: Plan) -> Point | Excluded:
        watched = self._watched(problem)
        try:
            end = run(made, watched, problem.zeros, problem.seeds).x
        except SamplerFailed as error:
            return Excluded(one.label, f"{what}: {error}")
        return Point(one.label, watched.calls, relative_error(end, exact), what)

    def _watched(self, problem: Problem) -> Watched:
        self._before = self.calls
        return Watched(problem.denoise, len(problem.seeds), self._on_call, self._desk.should_stop)

    def _on_call(self, call: Any) -> None:
        self.calls = self._before + call.calls
        spent, done = self._desk.clock() - self._began, round(self.calls)
        # Where solvers took more than usual, only what was spent can be told.
        total = self._total if done <= self._total else None
        left = spent / self.calls * (total - self.calls) if total else None
        told = dict(calls=done, total_calls=total, seconds=spent, remaining=left, sigma=float(call.sigma))
        self._desk.tell(Progress(**told, text=self._doing))


def _noise(problem: Problem) -> torch.Tensor:
    return Noise(problem.seeds, "initial")(problem.zeros)


def group(points: Sequence[Point]) -> Iterator[tuple[str, list[Point]]]:
    """The points of each sampler in the order of their calls."""
    for label in dict.fromkeys(point.label for point in points):
        yield label, sorted((point for point in points if point.label == label), key=lambda point: point.calls)
