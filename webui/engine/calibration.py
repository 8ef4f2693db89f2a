"""The task that calibrates a sampler on a model: fits its coefficients, and keeps those that win on other prompts."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch

from samplers.noise import Noise
from samplers.reference import solve_flow
from samplers.registry import Entry
from samplers.run import Plan, plan, run
from samplers.sampler import Denoise, Sampler, Stopped
from samplers.wrappers import Reported, Stoppable, Wrapper
from webui.core.calibrations import Calibration, MeasuredErrors, RunKey, all_calibrations, keep_calibrations
from webui.core.request import Request, RequestError
from webui.core.resolved_request import ResolvedRequest
from webui.core.run_plans import planning

from .calibrated_runs import run_key
from .engine import Engine
from .events import PartialResult, Progress
from .job_context import JobContext

BUDGETS = (4, 6, 8, 10)  # network calls of a picture
SCHEDULES = ("Karras", "Exponential", "Uniform trailing", "Align Your Steps")
PLAIN = ("Euler", "DPM++ 2M", "UniPC")  # the others to be beaten, on each of the schedules
PICTURES = 16  # that are fitted, and as many others that are tested
MOST_PICTURES = 128
SEED = 1_000_000  # the first of the seeds; nobody's pictures begin there
REFERENCE_STEPS = 40  # Runge-Kutta steps of four calls each
# For models whose card names nothing that they draw.
SUBJECTS = (
    *("a photo of a cat", "a red bicycle by a brick wall", "portrait of an old sailor", "a bowl of fruit on a table"),
    *("a mountain lake at dawn", "a robot in a garden", "a city street in the rain", "an owl on a branch, ink drawing"),
    *("a castle on a hill, oil painting", "a slice of cake", "a spaceship above the desert", "a child with a kite"),
    *("an astronaut on a horse", "a vintage car", "a forest in autumn", "a cup of coffee, top view"),
)
FILLS = ("", ", watercolour", ", studio light", ", wide angle", ", pencil sketch", ", at night", ", close-up", ", 3d")


@dataclass(frozen=True)
class Calibrated:
    """What came of one number of calls: the fit, and whether it was kept, because it won on other prompts.

    measured  the errors of the others; None where they are no longer known
    """

    calibration: Calibration
    kept: bool
    measured: MeasuredErrors | None = None


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
        chosen = tuple(engine.registry.schedule(name).name for name in schedules)
    if not entry.item.calibrate:
        known = ", ".join(name for name, each in engine.registry.samplers.items() if each.item.calibrate)
        raise RequestError(f"Sampler {sampler} cannot be calibrated; those that can are {known}.")
    plain_cfg = dict(guidance_method="", guidance_rescale=0.0, guidance_low=0.0, guidance_high=0.0)
    alone = dict(count=1, mode="txt2img", image=None, hires_scale=0.0)
    resolved = engine.resolve(request.model_copy(update=alone | plain_cfg))
    if len(prompts) == 1:
        raise RequestError("Give two prompts or more: half of them are only tested.")
    texts = tuple(prompts) or usual_prompts(engine, resolved.request.model)
    wanted = 2 * pictures
    repeated = tuple(texts[i % len(texts)] for i in range(wanted))
    return CalibrationTask(resolved, entry, chosen, repeated, tuple(budgets), again)


def usual_prompts(engine: Engine, model: str) -> tuple[str, ...]:
    """Prompts that a model draws well: names of its card with its additions, or common subjects; always the same."""
    card, chance = engine.models()[model].card, random.Random(0)
    names = list(card.names[: len(card.familiar) + len(card.known)] if card else ())
    if not names:
        return tuple(f"{subject}{chance.choice(FILLS)}" for _ in range(8) for subject in SUBJECTS)
    chance.shuffle(names)
    additions = card.additions if card else ()
    return tuple(
        name + "".join(each.phrase.format(chance.choice(each.choices)) for each in additions if chance.random() < 0.4)
        for name in names
    )


class _Bench:
    """The state of a calibration."""

    def __init__(self, task: CalibrationTask, context: JobContext):
        self._task, self._context, self._began = task, context, context.clock()
        self._request, self._doing, self.calls = task.resolved.request, "", 0
        half = len(task.prompts) // 2
        self._fitted, self._tested = task.prompts[:half], task.prompts[half:]
        model = context.model
        shape = model.latents_shape(self._request.width, self._request.height)
        self._zeros = torch.zeros(half, *shape, device=model.device)
        self._reference: np.ndarray | None = None

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return round(self._context.clock() - self._began, 3)

    def calibrate(self, budget: int) -> None:
        """Fit on each schedule, test the best fit beside the plain samplers, and keep it if it wins."""
        registry, model = self._context.registry, self._context.model
        item, size = self._task.entry.item, (self._request.width, self._request.height)
        key = run_key(model.identity.weights, self._task.entry, self._request, size)
        if not self._task.again and (before := self._kept_before(key, budget)):
            self._context.tell(PartialResult(before))
            return
        found: list[tuple[float, Plan, str]] = []
        for name in self._task.schedules:
            sigmas = registry.schedule(name).item(model.schedule, budget)
            self._doing = f"fitting {budget} calls of {name}"
            assert item.calibrate is not None
            seeds = range(SEED, SEED + len(self._fitted))
            starts = sigmas[0] * Noise(seeds, "initial")(self._zeros)
            numbers = item.calibrate(self._fitting, starts, sigmas, Noise(seeds, "step"))
            made = Plan(item, item.resolve({}), sigmas, numbers)
            self._doing = f"testing {budget} calls of {name}"
            found.append((self._error(made), made, name))
        error, made, schedule = min(found, key=lambda each: each[0])
        measured = self._measured(budget)
        calibration = Calibration(
            **key.model_dump(),
            schedule=schedule,
            sigmas=made.sigmas,
            coefficients=dict(made.coefficients or {}),
            error=error,
            best=measured.best,
        )
        kept = error < measured.best.error
        made_here = [calibration] if kept else []
        self._context.on_head(partial(keep_calibrations, self._context.outputs, made_here, [measured]))
        self._context.tell(PartialResult(Calibrated(calibration, kept, measured)))

    def _kept_before(self, key: RunKey, budget: int) -> Calibrated | None:
        known = self._context.on_head(partial(all_calibrations, [self._context.outputs]))
        schedules = self._task.schedules
        fitting = (e for e in known.calibrations if e.fits(key) and e.steps == budget and e.schedule in schedules)
        condition = key.weights, key.guidance, key.width, key.height
        measured = (each for each in known.measured if each.condition == condition and each.calls == budget)
        found = next(fitting, None)
        return Calibrated(found, True, next(measured, None)) if found else None

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
            high, low = self._context.model.schedule.sigma_max, self._context.model.schedule.sigma_min
            start = high * Noise(seeds, "initial")(self._zeros)
            end = denoise(solve_flow(denoise, start, high, low, REFERENCE_STEPS), low)
            self._reference, self._doing = self._pixels(end), doing
        difference = self._pixels(run(made, denoise, self._zeros, list(seeds)).x) - self._reference
        return float(np.sqrt(np.square(difference).reshape(len(difference), -1).mean(1)).mean())

    def _pixels(self, x: torch.Tensor) -> np.ndarray:
        pictures = [self._context.model.decode(one[None])[0] for one in x]
        return np.stack([np.asarray(picture, np.float32) / 255 for picture in pictures])

    @cached_property
    def _fitting(self) -> Denoise:
        return self._denoiser(self._fitted)

    @cached_property
    def _testing(self) -> Denoise:
        return self._denoiser(self._tested)

    def _denoiser(self, prompts: Sequence[str]) -> Denoise:
        """The denoiser of these prompts' pictures, a few at once, and around it progress and Stop."""
        whole = self._context.model.denoiser_of_each(prompts, self._request.guidance)

        def report(sigma: float, denoised: torch.Tensor) -> None:
            self.calls += len(denoised) // len(prompts)
            spent = self._context.clock() - self._began
            self._context.tell(Progress(calls=self.calls, seconds=spent, sigma=float(sigma), text=self._doing))

        return Stoppable(Reported(_InParts(whole, len(prompts)), report), self._context.should_stop)


class _InParts(Wrapper):
    """Asks for all pictures of the prompts together, and for no more at once than memory is sure to hold."""

    def __init__(self, denoise: Denoise, pictures: int):
        self.denoise, self._pictures = denoise, pictures

    def __call__(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        parts = [self.denoise(part, sigma) for part in x.split(self._pictures)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)
