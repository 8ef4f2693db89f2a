"""Measure the order of convergence of samplers: error over network calls, from the same starting noise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from samplers.reference import observed_order
from samplers.run import Plan, SamplerFailed, run
from samplers.sampler import Denoise, Schedule, Stopped
from samplers.schedule import NoiseSchedule, stable_diffusion
from samplers.wrappers import Counted, Reported, Stoppable
from webui.core.request import Request, RequestError
from webui.core.resolved_request import ResolvedRequest
from webui.core.run_plans import planning
from weights.prompt_schedule import changes

from .drawing import guided_denoiser
from .engine import Engine
from .events import PartialResult, Progress
from .job_context import JobContext
from .reference_problem import (
    Candidate,
    Excluded,
    MixtureProblem,
    Problem,
    candidate,
    exact_end,
    mixture_problem,
    relative_error,
    runs_of,
    solved_end,
)

BUDGETS = (5, 10, 20, 40, 80, 160)  # network calls an image
REFERENCE_STEPS = 100  # of the reference on a model, four network calls each
ROUNDING = {torch.float64: 1e-12, torch.float32: 1e-5}
MOST_SAMPLERS = 12
ADAPTIVE_CALLS = 60  # assumed for a run of an adaptive sampler


@dataclass(frozen=True)
class Point:
    """One run: network calls an image, the error at its end, its setting ("20 steps"), whether it chose its steps."""

    label: str
    calls: float
    error: float
    setting: str
    adaptive: bool = False


@dataclass(frozen=True)
class Reference:
    """The solution that errors are measured against: what it is, and its own relative error at most."""

    text: str
    doubt: float


@dataclass(frozen=True, eq=False)
class Convergence:
    """The task (`webui.engine.job_context.Task`); its parts are Excluded, the Reference, then a Point for each run.

    resolved  prompt, guidance, size, seed and model of the run; None for the closed-form mixture, without a model
    """

    samplers: tuple[Candidate | Excluded, ...]
    schedule: Schedule
    schedule_options: Mapping[str, Any]
    resolved: ResolvedRequest | None = None
    budgets: tuple[int, ...] = BUDGETS

    @property
    def request(self) -> Request | None:
        """The request of the run."""
        return self.resolved.request if self.resolved else None

    @property
    def model(self) -> str:
        """The model; empty for the mixture."""
        return self.request.model if self.request else ""

    @property
    def candidates(self) -> list[Candidate]:
        """The samplers that can be measured."""
        return [one for one in self.samplers if isinstance(one, Candidate)]

    def runs(self, levels: NoiseSchedule) -> list[tuple[Candidate, str, Plan]]:
        """All runs, in order, at a model's noise levels."""
        return [
            (one, setting, plan)
            for one in self.candidates
            for setting, plan in runs_of(one, levels, self.schedule, self.schedule_options, self.budgets)
        ]

    def counts(self, levels: NoiseSchedule) -> list[int | None]:
        """Network calls of the reference if it needs any, then of each run; None for an adaptive sampler."""
        reference = [4 * REFERENCE_STEPS * 3 // 2 + 2] if self.request else []
        return [*reference, *(plan.calls for _, _, plan in self.runs(levels))]

    def calls(self, levels: NoiseSchedule) -> int:
        """Network calls of everything, with an assumed number for adaptive samplers."""
        return sum(ADAPTIVE_CALLS if count is None else count for count in self.counts(levels))

    def run(self, context: JobContext) -> dict[str, Any]:
        """Measure. A sampler that fails becomes a part Excluded, and the others go on."""
        meter = _Meter(context, self)
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
    """The task for samplers by name. Raises RequestError for unknown names and options, and for too many calls.

    options  {sampler: {option: value}}
    """
    if not samplers:
        raise RequestError("Choose at least one sampler.")
    if len(samplers) > MOST_SAMPLERS:
        raise RequestError(f"{len(samplers)} samplers are chosen; a plot takes {MOST_SAMPLERS}.")
    with planning(f"Schedule {schedule} or a sampler cannot plan this"):
        entries = [engine.registry.sampler(name) for name in samplers]
        candidates = tuple(candidate(entry.item, (options or {}).get(entry.name, {})) for entry in entries)
        chosen = engine.registry.schedule(schedule).item
        resolved = None
        if request is not None:
            resolved = engine.resolve(request.model_copy(update=dict(count=1, mode="txt2img", image=None)))
        task = Convergence(candidates, chosen, schedule_options or {}, resolved, tuple(budgets))
        calls = task.calls(levels_of(engine, task))
    if calls > engine.limits.calls:
        raise RequestError(
            f"This takes {calls} network calls; allowed here are {engine.limits.calls}. Choose fewer samplers."
        )
    return task


def levels_of(engine: Engine, task: Convergence) -> NoiseSchedule:
    """The noise levels of what a task measures on."""
    return engine.models()[task.model].schedule if task.model else stable_diffusion()


def orders(points: Sequence[Point], doubt: float) -> dict[str, float | None]:
    """The order that each sampler's points show, by label.

    Adaptive samplers are left out: their runs differ in a tolerance, and the slope over the calls that it takes says
    nothing about an order.
    """
    labels = dict.fromkeys(point.label for point in points if not point.adaptive)
    slopes = {}
    for label in labels:
        own = sorted((point for point in points if point.label == label), key=lambda point: point.calls)
        slopes[label] = observed_order([point.calls for point in own], [point.error for point in own], doubt)
    return slopes


class _Meter:
    """The state of a measurement."""

    def __init__(self, context: JobContext, task: Convergence):
        self._context, self._task = context, task
        self._began = context.clock()
        self.calls: float = 0
        self._doing, self._total, self._before = "", 0, 0.0

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return round(self._context.clock() - self._began, 3)

    def measure(self) -> None:
        """Solve the reference, then run every sampler."""
        problem = self._problem()
        self._total = self._task.calls(problem.levels)
        for one in self._task.samplers:
            if isinstance(one, Excluded):
                self._context.tell(PartialResult(one))
        exact = self._reference(problem)
        for one, setting, plan in self._task.runs(problem.levels):
            self._doing = f"{one.label}, {setting}"
            self._context.tell(PartialResult(self._point(problem, exact, one, setting, plan)))

    def _problem(self) -> Problem:
        resolved, model = self._task.resolved, self._context.model
        if resolved is None:
            return mixture_problem()
        request = resolved.request_of(0)
        if request.prompt_syntax != "weights" and any(map(changes, (request.prompt, request.negative_prompt))):
            raise RequestError("A prompt that changes during the run has no order to measure; write one that does not.")
        zeros = torch.zeros(1, *model.latents_shape(request.width, request.height), device=model.device)
        denoise = guided_denoiser(request, model, method=resolved.method)
        return Problem(denoise, model.schedule, zeros, request.seeds)

    def _reference(self, problem: Problem) -> torch.Tensor:
        if isinstance(problem, MixtureProblem):
            self._context.tell(PartialResult(Reference("the exact answer, in closed form", ROUNDING[torch.float64])))
            return exact_end(problem)
        self._doing = "the reference"
        _, denoise = self._watched(problem)
        counted = Problem(denoise, problem.levels, problem.zeros, problem.seeds)
        rough, fine = (solved_end(counted, steps) for steps in (REFERENCE_STEPS // 2, REFERENCE_STEPS))
        # Not divided by 15, as in Richardson extrapolation: a network may be too rough for fourth order.
        doubt = max(relative_error(rough, fine), ROUNDING[torch.float32])
        text = (
            f"a Runge-Kutta solution of {4 * REFERENCE_STEPS + 1} network calls, which differs from one of half as "
            f"many by {doubt:.1g}; errors near that mean nothing, and slopes leave them out"
        )
        self._context.tell(PartialResult(Reference(text, doubt)))
        return fine

    def _point(
        self, problem: Problem, exact: torch.Tensor, one: Candidate, setting: str, plan: Plan
    ) -> Point | Excluded:
        counted, denoise = self._watched(problem)
        try:
            end = run(plan, denoise, problem.zeros, problem.seeds).x
        except SamplerFailed as error:
            return Excluded(one.label, f"{setting}: {error}")
        return Point(one.label, counted.calls, relative_error(end, exact), setting, adaptive=plan.calls is None)

    def _watched(self, problem: Problem) -> tuple[Counted, Denoise]:
        """The problem's denoiser, counted, and around it progress and Stop."""
        before, counted = self.calls, Counted(problem.denoise, len(problem.seeds))

        def report(sigma: float, denoised: torch.Tensor) -> None:
            self.calls = before + counted.calls
            self._tell_progress(sigma)

        return counted, Stoppable(Reported(counted, report), self._context.should_stop)

    def _tell_progress(self, sigma: float) -> None:
        spent, done = self._context.clock() - self._began, round(self.calls)
        # Adaptive samplers may make more calls than assumed; then the total is not known.
        total = self._total if done <= self._total else None
        left = spent / self.calls * (total - self.calls) if total else None
        progress = Progress(
            calls=done, total_calls=total, seconds=spent, remaining=left, sigma=float(sigma), text=self._doing
        )
        self._context.tell(progress)


def group(points: Sequence[Point]) -> Iterator[tuple[str, list[Point]]]:
    """The points of each sampler in the order of their calls."""
    for label in dict.fromkeys(point.label for point in points):
        yield label, sorted((point for point in points if point.label == label), key=lambda point: point.calls)
