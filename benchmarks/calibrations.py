"""What the calibrations that come with a model gain, on prompts and seeds that none of them has seen.

    python -m benchmarks.calibrations                      the embedded model, into the terminal
    python -m benchmarks.calibrations --model emoji-flow
    python -m benchmarks.calibrations --write              and put the table into docs/samplers.md

For pictures and errors see benchmarks/held_out.py. The best of the others is that of the samplers and schedules that
every calibration is compared with; those whose error was more than twice the least there are not measured again. Where
a calibration was tried and did not win, none comes, and the row says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from samplers.registry import Registry
from samplers.run import Plan
from webui.core.calibrations import FILE, Calibration, read_calibrations
from weights.model import Model

from .held_out import HeldOut, main

NEAR = 2.0  # times the least error


@dataclass(frozen=True)
class Row:
    """The errors at a number of network calls; `fitted` is None where no calibration comes with the model."""

    guidance: float
    calls: int
    best: str
    error: float
    fitted: float | None


@torch.no_grad()
def measure(model: Model, registry: Registry) -> list[Row]:
    """A row for each guidance and number of calls that was calibrated, won or not."""
    found = read_calibrations(model.info.path / FILE)
    rows = []
    for guidance in sorted({each.guidance for each in found.measured}):
        pictures = HeldOut(model, guidance)
        fits = {each.steps: each for each in found.calibrations if each.guidance == guidance}
        tested = {each.calls: each for each in found.measured if each.guidance == guidance}
        for calls, known in sorted(tested.items()):
            near = [name for name, error in known.errors.items() if error <= NEAR * known.best.error]
            # "sampler, schedule"
            plans = {name: pictures.plan(registry, *name.split(", "), calls) for name in near}
            others = {name: pictures.error_of(made) for name, made in plans.items()}
            best = min(others, key=lambda name: others[name])
            fitted = pictures.error_of(plan_of(fits[calls], registry)) if calls in fits else None
            rows.append(Row(guidance, calls, best, others[best], fitted))
    return rows


def plan_of(made: Calibration, registry: Registry) -> Plan:
    """The plan of the runs that a calibration was made for."""
    item = registry.sampler(made.sampler).item
    return Plan(item, item.resolve({}), made.sigmas, made.coefficients)


def table(rows: Sequence[Row], name: str) -> str:
    """The rows as lines of a table."""
    lines = [
        "| model, guidance | calls | the best of the others | its error | Calibrated | share |",
        "| --- " * 6 + "|",
    ]
    for row in rows:
        own = "none: it did not win |" if row.fitted is None else f"{row.fitted:.3f} | {row.fitted / row.error:.2f}"
        lines.append(f"| `{name}`, {row.guidance:g} | {row.calls} | {row.best} | {row.error:.3f} | {own} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main(__doc__, "shipped", lambda model, registry: table(measure(model, registry), model.name))
