"""Give the passes of a run the coefficients of what is calibrated, from the files that keep them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from samplers.registry import Entry, Registry
from samplers.run import Plan
from samplers.sampler import Sampler, Schedule
from samplers.schedule import cut
from webui.core.calibrations import Calibration, CalibrationFile, RunKey, ScheduleCalibration, all_calibrations
from webui.core.request import Request
from webui.core.resolved_request import ResolvedRequest
from weights.model_info import ModelInfo

from .job_context import OnHead, here


@dataclass(frozen=True)
class _Pass:
    """A pass of a resolved request: its plan, the names and options in it, its size and the network that draws it.

    weights  digest of the network; "" where another model draws it or the end of it, which is not looked for
    """

    plan: Plan
    sampler: str
    schedule: str
    schedule_options: Mapping[str, Any]
    size: tuple[int, int]
    weights: str
    model: ModelInfo
    steps: int
    strength: float | None
    strength_as: str

    @property
    def wants_coefficients(self) -> bool:
        """Whether its sampler is calibrated and nobody has looked yet for its coefficients."""
        return bool(self.plan.sampler.calibrate) and self.plan.coefficients is None

    def walking(self, schedule: Schedule, coefficients: Mapping[str, Any] | None) -> Plan:
        """The plan through the sigmas that the schedule makes of these coefficients."""
        sigmas = schedule(self.model.schedule, self.steps, coefficients=coefficients, **self.schedule_options)
        if self.strength is not None:
            sigmas = cut(sigmas, self.strength, self.strength_as)
        return replace(self.plan, sigmas=sigmas, schedule_coefficients=coefficients or {})


def with_coefficients(
    resolved: ResolvedRequest, registry: Registry, weights: str, outputs: Path, on_head: OnHead = here
) -> tuple[ResolvedRequest, list[str]]:
    """(the request with the coefficients that were made for its passes, a sentence for each sampler or schedule that
    has none).

    weights  digest of the model's network
    outputs  the folder of the pictures
    on_head  see `JobContext`
    A request that has been given coefficients, as a replay has, keeps them and its sigmas.
    """
    passes = _passes(resolved, weights)
    if not any(_schedule_of(each, registry) or each.wants_coefficients for each in passes):
        return resolved, []
    request = resolved.request
    kept = partial(all_calibrations, folders_of(resolved.model_info, outputs))
    known = on_head(kept) if _is_plain_cfg(request) else CalibrationFile()
    notes: list[str] = []
    plans = []
    for each in passes:
        if schedule := _schedule_of(each, registry):
            key = run_key(each.weights, schedule, request, each.size)
            found = next((one for one in known.schedules if one.fits(key) and one.steps == each.steps), None)
            each = replace(each, plan=each.walking(schedule.item, found.coefficients if found else None))
            if found is None:
                notes.append(_missing_schedule(each, request, [one for one in known.schedules if _near(one, key)]))
        plan = each.plan
        if each.wants_coefficients:
            key = run_key(each.weights, registry.sampler(each.sampler), request, each.size)
            fitting = [one for one in known.calibrations if one.fits(key)]
            walked = next((one for one in fitting if one.walks(plan.sigmas)), None)
            plan = replace(plan, coefficients=walked.coefficients if walked else {})
            if walked is None:
                notes.append(_missing(plan, request, fitting or [one for one in known.calibrations if _near(one, key)]))
        plans.append(plan)
    return resolved.with_plans(*plans), notes


def _schedule_of(one: _Pass, registry: Registry) -> Entry[Schedule] | None:
    """The schedule of a pass where it is calibrated and nobody has looked yet for its coefficients."""
    entry = registry.schedules.get(one.schedule)
    wanted = one.plan.schedule_coefficients is None and not one.plan.own_grid
    return entry if entry and entry.item.calibrate and wanted else None


def _passes(resolved: ResolvedRequest, weights: str) -> list[_Pass]:
    request, info = resolved.request, resolved.model_info
    size = (request.width, request.height) if request.is_hires else request.drawn_size
    options, own = request.schedule_options, "" if resolved.refiner_info else weights
    first = _Pass(
        resolved.plan,
        request.sampler,
        request.schedule,
        options,
        size,
        own,
        info,
        request.steps,
        request.strength if request.has_input else None,
        request.strength_as,
    )
    if resolved.hires_plan is None:
        return [first]
    other = resolved.hires_model_info
    second = _Pass(
        resolved.hires_plan,
        request.hires_sampler,
        request.hires_schedule,
        options if request.hires_schedule == request.schedule else {},
        resolved.hires_size,
        "" if other else own,
        other or info,
        request.hires_steps,
        request.hires_strength,
        request.hires_strength_as,
    )
    return [first, second]


def run_key(weights: str, plugin: Entry[Sampler] | Entry[Schedule], request: Request, size: tuple[int, int]) -> RunKey:
    """What a calibration has to have been made for. A LoRA does not count: it changes the network a little."""
    return RunKey(
        weights=weights,
        plugin=plugin.id,
        version=plugin.item.version,
        guidance=request.guidance,
        width=size[0],
        height=size[1],
    )


def folders_of(model: ModelInfo, outputs: Path) -> tuple[Path, Path]:
    """Where the calibrations of a model are kept: beside the pictures, and those that came with it."""
    return outputs, model.path if model.path.is_dir() else model.path.parent


def _is_plain_cfg(request: Request) -> bool:
    return not (request.guidance_method or request.guidance_rescale or request.guidance_low or request.guidance_high)


def _near(calibration: Calibration | ScheduleCalibration, key: RunKey) -> bool:
    return (calibration.weights, calibration.plugin) == (key.weights, key.plugin)


def _missing_schedule(made: _Pass, request: Request, others: Iterable[ScheduleCalibration]) -> str:
    asked = f"{made.steps} steps at guidance {request.guidance:g}{_with_guidance(request)}"
    told = "; ".join(
        f"{steps} steps at guidance {each:g}" for each, steps in sorted({(o.guidance, o.steps) for o in others})
    )
    here = f" It has for {told}." if told else ""
    return f"Schedule {made.schedule} has no coefficients on {request.model} for {asked}, so it runs without.{here}"


def _with_guidance(request: Request) -> str:
    return "" if _is_plain_cfg(request) else " with other guidance than plain CFG"


def _missing(plan: Plan, request: Request, others: Iterable[Calibration]) -> str:
    steps = len(plan.sigmas) - 1
    asked = f"{steps} steps of {request.schedule} at guidance {request.guidance:g}{_with_guidance(request)}"
    made = sorted({(each.schedule, each.guidance, each.steps) for each in others})
    told = "; ".join(f"{steps} steps of {schedule} at guidance {guidance:g}" for schedule, guidance, steps in made)
    here = f" It has for {told}." if told else ""
    return f"{plan.sampler.name} has no coefficients on {request.model} for {asked}, so it runs without.{here}"
