"""A grid of pictures as a plan: axes times a base request, every cell resolved or with the reason why it cannot be."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from samplers.run import Plan
from webui.core.images import fit_picture, open_picture
from webui.core.limits import SEEDS
from webui.core.request import Request, RequestError, read
from webui.core.resolved_request import resolve
from webui.engine.engine import Engine

from .axes import Axis

POLICIES = {"same": "The same seed in every cell", "each": "A seed of its own for every cell"}
MOST_AXES = 3
FIRST = ("sampler", "schedule")  # put in before options, which belong to them


@dataclass(frozen=True)
class Cell:
    """One place of a grid.

    at       index along each axis, the first one running along a row
    labels   the value of each axis
    request  resolved, count 1; None where it cannot be made, and then `reason` says why
    """

    at: tuple[int, ...]
    labels: tuple[str, ...]
    request: Request | None = None
    plan: Plan | None = None
    reason: str = ""

    @property
    def name(self) -> str:
        """All labels in one."""
        return " · ".join(self.labels)


@dataclass(frozen=True, eq=False)
class Grid:
    """All cells, the last axis varying slowest.

    seed     the base's, drawn if it was to be random
    sources  the fitted input pictures of img2img by size and fit
    """

    axes: tuple[Axis, ...]
    cells: tuple[Cell, ...]
    model: str
    seed: int
    sources: Mapping[tuple[int, int, str], Any]

    @property
    def possible(self) -> tuple[Cell, ...]:
        """The cells that can be made."""
        return tuple(cell for cell in self.cells if cell.request)

    @property
    def calls(self) -> int:
        """Network calls of the cells that declare them."""
        return sum(cell.plan.calls or 0 for cell in self.possible)

    @property
    def uncounted(self) -> int:
        """Cells whose calls only the run tells."""
        return sum(cell.plan.calls is None for cell in self.possible)

    def source(self, cell: Cell) -> Any:
        """The input picture of a cell; None for pictures from words."""
        request = cell.request
        return self.sources[request.width, request.height, request.fit] if request.mode == "img2img" else None


def make_grid(
    engine: Engine, base: Request, axes: Sequence[Axis], policy: str = "same", options: Mapping[str, Any] | None = None
) -> Grid:
    """Every combination of the axes' values put into the base request, each resolved as if it were asked for alone.

    policy   one of POLICIES: "each" gives cell n the seed base + n; a seed axis overrules both
    options  {"samplers": {name: {option: value}}, "schedules": ...}: what a cell's own sampler and schedule take;
             without it, the base's options go with the base's names only
    Raises RequestError for axes that cannot be, too many cells, and if no cell at all can be made.
    """
    _check(engine, base, axes, policy)
    seed = random.SystemRandom().randrange(SEEDS) if base.seed == -1 else base.seed
    fields = {name: getattr(base, name) for name in type(base).model_fields} | dict(count=1, seed=seed)
    for axis in axes:
        # What fails for the base alone (words that are not in the prompt) is no matter of single cells.
        axis.values[0].change(fields)
    stored = options or {
        "samplers": {base.sampler: base.options},
        "schedules": {base.schedule: base.schedule_options},
    }
    order = sorted(range(len(axes)), key=lambda i: axes[i].kind not in FIRST)
    seeded = policy == "each" and all(axis.kind != "seed" for axis in axes)
    models, cells = engine.models(), []
    for number, at in enumerate(product(*(range(len(axis.values)) for axis in reversed(axes)))):
        at = at[::-1]
        values = [axis.values[i] for axis, i in zip(axes, at)]
        wanted = dict(fields, seed=(seed + number) % SEEDS if seeded else seed)
        changes = [values[i].change for i in order if axes[i].kind in FIRST]
        rest = [values[i].change for i in order if axes[i].kind not in FIRST]
        for change in changes:
            wanted = change(wanted)
        wanted |= dict(
            options=stored["samplers"].get(wanted["sampler"], {}),
            schedule_options=stored["schedules"].get(wanted["schedule"], {}),
        )
        for change in rest:
            wanted = change(wanted)
        cells.append(_resolved(engine, models, Cell(at, tuple(value.label for value in values)), wanted))
    return _finished(axes, cells, base, seed)


def _check(engine: Engine, base: Request, axes: Sequence[Axis], policy: str) -> None:
    if not 1 <= len(axes) <= MOST_AXES:
        raise RequestError("Choose what varies: a grid has one to three axes.")
    if policy not in POLICIES:
        raise RequestError(f"Seed policy is {policy!r}; allowed are {', '.join(POLICIES)}.")
    kinds = [axis.kind for axis in axes]
    twice = next((axis.title for axis in axes if axis.kind != "prompt" and kinds.count(axis.kind) > 1), None)
    if twice:
        raise RequestError(f"{twice} is on two axes; put all its values on one.")
    if base.mode != "img2img" and "strength" in kinds:
        raise RequestError(
            "Strength needs an input picture to start from: add one to the settings, or vary something else."
        )
    count = 1
    for axis in axes:
        count *= len(axis.values)
    if count > engine.limits.cells:
        raise RequestError(f"The grid has {count} cells; allowed here are {engine.limits.cells}. Give fewer values.")


def _resolved(engine: Engine, models: Mapping[str, Any], cell: Cell, wanted: Mapping[str, Any]) -> Cell:
    try:
        resolved = resolve(read(wanted), engine.registry, models, engine.settings.model or "", engine.limits)
        return replace(cell, request=resolved.request, plan=resolved.plan)
    except RequestError as error:
        return replace(cell, reason=str(error))


def _finished(axes: Sequence[Axis], cells: Sequence[Cell], base: Request, seed: int) -> Grid:
    possible = [cell.request for cell in cells if cell.request]
    if not possible:
        reasons = list(dict.fromkeys(cell.reason for cell in cells))
        raise RequestError(f"No cell of this grid can be made. {reasons[0]}")
    sources = {}
    if base.mode == "img2img":
        # Opened now: the caller hears of a bad picture at once, and the upload may go.
        picture = open_picture(base.image)
        sizes = {(request.width, request.height, request.fit) for request in possible}
        sources = {size: fit_picture(picture, *size) for size in sizes}
    return Grid(tuple(axes), tuple(cells), possible[0].model, seed, sources)
