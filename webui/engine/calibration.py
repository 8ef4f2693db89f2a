"""The task that calibrates a sampler on a model: fits its coefficients, and keeps those that win on other prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch

from samplers.fitting_denoiser import FittingDenoise
from samplers.noise import Noise
from samplers.registry import Entry, Registry
from samplers.run import Plan, plan, run
from samplers.sampler import Denoise, Sampler, Schedule, Stopped
from samplers.wrappers import Reported, Stoppable
from webui.core.calibrations import (
    Calibration,
    CalibrationFile,
    MeasuredErrors,
    RunKey,
    ScheduleCalibration,
    all_calibrations,
    keep_calibrations,
)
from webui.core.request import Request, RequestError
from webui.core.resolved_request import ResolvedRequest
from webui.core.run_plans import planning

from .calibrated_runs import run_key
from .calibration_prompts import usual_prompts
from .engine import Engine
from .events import PartialResult, Progress
from .job_context import JobContext

BUDGETS = (4, 6, 8, 10)  # network calls of a picture
SCHEDULES = ("Karras", "Exponential", "Uniform trailing", "Uniform leading", "Align Your Steps")
PLAIN = ("Euler", "DPM++ 2M", "UniPC")  # the others to be beaten, on each of the schedules
PICTURES = 16  # that are fitted, and as many others that are tested
MOST_PICTURES = 128
SEED = 1_000_000  # the first of the seeds; nobody's pictures begin there
FINER = 2  # times as many steps as a fit's solve for the end that the tested pictures are compared with


@dataclass(frozen=True)
class Calibrated:
    """What came of one number of calls: the fit, and whether it was kept, because it won on other prompts.

    calibration  of the sampler; its coefficients are {} where only the schedule was fitted
    measured     the errors of the others; None where they are no longer known
    schedules    the fit of the schedule, if it was fitted
    """

    calibration: Calibration
    kept: bool
    measured: MeasuredErrors | None = None
    schedules: tuple[ScheduleCalibration, ...] = ()

    @property
    def file(self) -> CalibrationFile:
        """What is kept of it."""
        measured = (self.measured,) if self.measured else ()
        if not self.kept:
            return CalibrationFile(measured=measured)
        samplers = (self.calibration,) if self.calibration.coefficients else ()
        return CalibrationFile(calibrations=samplers, schedules=self.schedules, measured=measured)


@dataclass(frozen=True, eq=False)
class CalibrationTask:
    """The task (`webui.engine.job_context.Task`); its parts are a Calibrated for each number of calls.

    resolved   model, size and guidance of the runs
    entry      the sampler that is calibrated
    schedules  those that it is fitted on; the best counts
    prompts    the first half is fitted and the second half tested
    again      also calibrate what has been kept before
    """

    resolved: ResolvedRequest
    entry: Entry[Sampler]
    schedules: tuple[str, ...]
    prompts: tuple[str, ...]
    budgets: tuple[int, ...] = BUDGETS
    again: bool = False

    @property
    def model(self) -> str:
        """The model."""
        return self.resolved.request.model

    def run(self, context: JobContext) -> dict[str, Any]:
        """Calibrate; what has been kept when it is stopped stays kept."""
        bench = _Bench(self, context)
        try:
            with torch.no_grad():
                for budget in self.budgets:
                    bench.calibrate(budget)
        except Stopped:
            return dict(stopped=True, calls=bench.calls, seconds=bench.seconds)
        return dict(stopped=False, calls=bench.calls, seconds=bench.seconds)


def make_calibration(
    engine: Engine,
    request: Request,
    sampler: str = "Calibrated",
    schedules: Sequence[str] = SCHEDULES[:1],
    budgets: Sequence[int] = BUDGETS,
    prompts: Sequence[str] = (),
    pictures: int = PICTURES,
    again: bool = False,
) -> CalibrationTask:
    """The task for a sampler by name, on the model of a request with its size and guidance. Raises RequestError.

    prompts  of the user's choice, two or more; by default names of the model's card or a list of common subjects
    """
    if not 2 <= pictures <= MOST_PICTURES:
        raise RequestError(f"Pictures must be 2 to {MOST_PICTURES}.")
    if not budgets or not all(2 <= budget <= 50 for budget in budgets):
        raise RequestError("Calls must be whole numbers from 2 to 50.")
    with planning("This cannot be calibrated"):
        entry = engine.registry.sampler(sampler)
        chosen = tuple(engine.registry.schedule(name) for name in schedules)
    if not entry.item.calibrate and not all(each.item.calibrate for each in chosen):
        raise RequestError(_cannot(engine.registry, sampler, schedules))
    plain_cfg = dict(guidance_method="", guidance_rescale=0.0, guidance_low=0.0, guidance_high=0.0)
    alone = dict(count=1, feature_reuse=1, mode="txt2img", image=None, hires_scale=0.0)
    resolved = engine.resolve(request.model_copy(update=alone | plain_cfg))
    if len(prompts) == 1:
        raise RequestError("Give two prompts or more: half of them are only tested.")
    texts = tuple(prompts) or usual_prompts(resolved.model_info)
    wanted = 2 * pictures
    repeated = tuple(texts[i % len(texts)] for i in range(wanted))
    names = tuple(each.name for each in chosen)
    return CalibrationTask(resolved, entry, names, repeated, tuple(budgets), again)


def _cannot(registry: Registry, sampler: str, schedules: Sequence[str]) -> str:
    """A sentence about a sampler and schedules none of which can be fitted."""
    known = [
        ", ".join(name for name, each in found.items() if each.item.calibrate) or "none"
        for found in (registry.samplers, registry.schedules)
    ]
    return (
        f"Sampler {sampler} cannot be calibrated; those that can are {known[0]}. "
        f"Nor can schedule {', '.join(schedules)}; those that can are {known[1]}."
    )


class _Bench:
    """The state of a calibration."""

    def __init__(self, task: CalibrationTask, context: JobContext):
        self._task, self._context, self._began = task, context, context.clock()
        self._request, self._doing, self._asked = task.resolved.request, "", 0
        half = len(task.prompts) // 2
        self._fitted, self._tested = task.prompts[:half], task.prompts[half:]
        model = context.model
        shape = model.latents_shape(self._request.width, self._request.height)
        self._zeros = torch.zeros(half, *shape, device=model.device)
        self._reference: np.ndarray | None = None

    @property
    def calls(self) -> int:
        """Network calls so far of all fitted or all tested pictures."""
        return round(self._asked / len(self._fitted))

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return round(self._context.clock() - self._began, 3)

    def calibrate(self, budget: int) -> None:
        """Fit on each schedule, test the best fit beside the plain samplers, and keep it if it wins."""
        if not self._task.again and (before := self._kept_before(budget)):
            self._context.tell(PartialResult(before))
            return
        found = [self._fit(name, budget) for name in self._task.schedules]
        error, made, name = min(found, key=lambda each: each[0])
        measured, entry, of = self._measured(budget), self._task.entry, self._context.registry.schedule(name)
        shared = dict[str, Any](sigmas=made.sigmas, error=error, best=measured.best)
        facts = self._key(entry).model_dump(exclude={"plugin"}) | shared
        calibration = Calibration(**facts, sampler=entry.id, schedule=name, coefficients=dict(made.coefficients or {}))
        schedules: tuple[ScheduleCalibration, ...] = ()
        if fitted := made.schedule_coefficients:
            facts = self._key(of).model_dump(exclude={"plugin"}) | shared
            schedules = (ScheduleCalibration(**facts, schedule=of.id, sampler=entry.name, coefficients=dict(fitted)),)
        result = Calibrated(calibration, error < measured.best.error, measured, schedules)
        self._context.on_head(partial(keep_calibrations, self._context.outputs, result.file))
        self._context.tell(PartialResult(result))

    def _fit(self, name: str, budget: int) -> tuple[float, Plan, str]:
        """(error on the tested pictures, the plan with what was fitted, the name of the schedule)."""
        item, schedule = self._task.entry.item, self._context.registry.schedule(name).item
        levels, seeds = self._context.model.schedule, range(SEED, SEED + len(self._fitted))
        unit, noise = Noise(seeds, "initial")(self._zeros), Noise(seeds, "step")
        of_schedule: Mapping[str, Any] = {}
        self._doing = f"fitting {budget} calls of {name}"
        if schedule.calibrate:
            of_schedule = schedule.calibrate(self._fitting, levels.sigma_max * unit, budget, noise)
        sigmas = schedule(levels, budget, coefficients=of_schedule or None)
        of_sampler: Mapping[str, Any] = {}
        if item.calibrate:
            of_sampler = item.calibrate(self._fitting, sigmas[0] * unit, sigmas, noise)
        made = Plan(item, item.resolve({}), sigmas, of_sampler, of_schedule)
        self._doing = f"testing {budget} calls of {name}"
        return self._error(made), made, name

    def _key(self, plugin: Entry[Sampler] | Entry[Schedule]) -> RunKey:
        size = self._request.width, self._request.height
        return run_key(self._context.model.identity.weights, plugin, self._request, size)

    def _kept_before(self, budget: int) -> Calibrated | None:
        """What is kept of all that would be fitted; None where anything is missing."""
        known = self._context.on_head(partial(all_calibrations, [self._context.outputs]))
        key = self._key(self._task.entry)
        condition = key.weights, key.guidance, key.width, key.height
        measured = next((each for each in known.measured if each.condition == condition and each.calls == budget), None)
        for name in self._task.schedules:
            schedule = self._context.registry.schedule(name)
            of_schedule = [each for each in known.schedules if each.fits(self._key(schedule)) and each.steps == budget]
            if schedule.item.calibrate and not of_schedule:
                continue
            if self._task.entry.item.calibrate:
                fitting = [each for each in known.calibrations if each.fits(key) and each.schedule == name]
                made = next((each for each in fitting if each.steps == budget), None)
            else:
                [first, *_] = of_schedule
                facts = first.model_dump(exclude={"schedule", "sampler", "coefficients", "version"})
                facts |= dict(sampler=self._task.entry.id, version=key.version, schedule=name, coefficients={})
                made = Calibration(**facts)
            if made:
                return Calibrated(made, True, measured, tuple(of_schedule[:1]))
        return None

    def _measured(self, budget: int) -> MeasuredErrors:
        """The errors of samplers without coefficients at so many calls, one a step."""
        registry, levels = self._context.registry, self._context.model.schedule
        found: dict[str, float] = {}
        for sampler in PLAIN:
            for schedule in SCHEDULES:
                if sampler not in registry.samplers or schedule not in registry.schedules:
                    continue
                self._doing = f"measuring {sampler}, {schedule} at {budget} calls"
                made = plan(levels, registry.sampler(sampler).item, registry.schedule(schedule).item, budget)
                found[f"{sampler}, {schedule}"] = self._error(made)
        if not found:
            raise RequestError(f"None of {', '.join(PLAIN)} is loaded, and nothing is there to be compared with.")
        return MeasuredErrors(
            weights=self._context.model.identity.weights,
            guidance=self._request.guidance,
            width=self._request.width,
            height=self._request.height,
            calls=budget,
            errors=found,
        )

    def _error(self, made: Plan) -> float:
        """The mean over the tested pictures of the root mean square of pixels, from 0 to 1."""
        seeds = range(SEED + len(self._fitted), SEED + len(self._task.prompts))
        denoise, doing = self._testing, self._doing
        if self._reference is None:
            self._doing = "solving the reference"
            high = self._context.model.schedule.sigma_max
            end = denoise.ends(high * Noise(seeds, "initial")(self._zeros), high, FINER)
            self._reference, self._doing = self._pixels(end), doing
        difference = self._pixels(run(made, denoise, self._zeros, list(seeds)).x) - self._reference
        return float(np.sqrt(np.square(difference).reshape(len(difference), -1).mean(1)).mean())

    def _pixels(self, x: torch.Tensor) -> np.ndarray:
        pictures = [self._context.model.decode(one[None])[0] for one in x]
        return np.stack([np.asarray(picture, np.float32) / 255 for picture in pictures])

    @cached_property
    def _fitting(self) -> FittingDenoise:
        return self._denoiser(self._fitted)

    @cached_property
    def _testing(self) -> FittingDenoise:
        return self._denoiser(self._tested)

    def _denoiser(self, prompts: Sequence[str]) -> FittingDenoise:
        """The denoiser of these prompts' pictures, with progress and Stop at each call of the network."""
        model, count = self._context.model, len(prompts)

        def of(pictures: range) -> Denoise:
            whole = model.denoiser_of_each([prompts[i] for i in pictures], self._request.guidance)
            return Stoppable(Reported(whole, self._report), self._context.should_stop)

        return FittingDenoise(of, count, max(count, model.info.defaults.max_batch))

    def _report(self, sigma: float, denoised: torch.Tensor) -> None:
        self._asked += len(denoised)
        spent = self._context.clock() - self._began
        self._context.tell(Progress(calls=self.calls, seconds=spent, sigma=float(sigma), text=self._doing))
