"""What was measured of samplers under guidance, as advice beside the menu and as what a new visitor's form begins with.

`python -m benchmarks.samplers --write` makes sampler_errors.json, beside the table of docs/samplers.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from .calibrations import Calibration, CalibrationFile

FILE = Path(__file__).with_name("sampler_errors.json")


class FirstChoice(BaseModel):
    """What a form begins with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sampler: str
    schedule: str
    steps: int


class SamplerErrors(BaseModel):
    """Relative errors of the latents at the end of a run.

    model     that they were measured on
    guidance  its scale
    calls     network calls a picture
    errors    {schedule: {sampler: an error for each of `calls`}}
    first     the sampler, of one call a step, and the schedule that came near with the fewest calls
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    guidance: float
    calls: tuple[int, ...]
    errors: Mapping[str, Mapping[str, tuple[float, ...]]]
    first: FirstChoice


@cache
def measured() -> SamplerErrors:
    """What the benchmark measured last."""
    return SamplerErrors.model_validate_json(FILE.read_text("utf-8"))


def advice(sampler: str, schedule: str) -> str:
    """A sampler's errors and the smallest, on this schedule or, if it was not measured, the first; "" for others."""
    found = measured()
    name = schedule if schedule in found.errors else next(iter(found.errors))
    rows = found.errors[name]
    if sampler not in rows:
        return ""
    best = [min(rows, key=lambda each: rows[each][place]) for place in range(len(found.calls))]
    calls, own = (", ".join(format(each, "g") for each in numbers) for numbers in (found.calls, rows[sampler]))
    smallest = ", ".join(f"{each} {rows[each][place]:g}" for place, each in enumerate(best))
    where = f"on {found.model} at guidance {found.guidance:g}, {name}"
    return f"Error in {calls} network calls {where}: {own}. The smallest: {smallest}."


def own_advice(
    found: CalibrationFile, condition: tuple[str, float, int, int], sampler: str, schedule: str, calls: int
) -> str:
    """What was measured on the model itself near a number of network calls; "" where nothing was.

    condition  of the run, see `MeasuredErrors.condition`
    """
    measured = [each for each in found.measured if each.condition == condition]
    fitted = [
        each for each in found.calibrations if (each.weights, each.guidance, each.width, each.height) == condition
    ]
    if not measured:
        return ""
    near = min(measured, key=lambda each: abs(each.calls - calls))
    own = near.errors.get(f"{sampler}, {schedule}") or _fitted_error(fitted, sampler, schedule, near.calls)
    this = "" if own is None else f"this {own:.2g}, "
    said = f"Error of pixels at {near.calls} calls, guidance {near.guidance:g}, on this model: "
    said += f"{this}best {near.best.error:.2g} ({near.best.name})."
    best = min((each for each in fitted if each.steps == near.calls), key=lambda each: each.error, default=None)
    if best is None or best.error >= near.best.error:
        return said
    return f"{said} {best.name} with {best.steps} steps of {best.schedule}: {best.error:.2g}."


def _fitted_error(fitted: Sequence[Calibration], sampler: str, schedule: str, calls: int) -> float | None:
    wanted = (sampler, schedule, calls)
    return next((each.error for each in fitted if (each.name, each.schedule, each.steps) == wanted), None)


def first_choice(model: str) -> dict[str, str | int]:
    """The fields that a new visitor's form begins with on this model; {} where nothing was measured."""
    found = measured()
    return found.first.model_dump() if model == found.model else {}
