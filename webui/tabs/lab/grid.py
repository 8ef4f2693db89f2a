"""Plan a grid of pictures: axes times a base request, every cell resolved or with the reason why it is impossible."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from samplers.run import Plan
from webui.core.fields import input_fields
from webui.core.images import decoding
from webui.core.inpainting import InputPicture, fit_input, open_upload
from webui.core.limits import SEEDS, Limits
from webui.core.plugin_fields import PLUGIN_FIELDS
from webui.core.request import Request, RequestError, read
from webui.core.resolved_request import ResolvedRequest, drawn_seed, resolve
from webui.core.styles import Style
from webui.engine.engine import Engine

from .axes import Axis

POLICIES = {"same": "The same seed in every cell", "each": "A seed of its own for every cell"}
MOST_AXES = 3
NAMES = {each.name for each in PLUGIN_FIELDS}  # axes that are put in before options, which belong to them
Fit = tuple[int, int, str, bool, float]  # width, height, fit, whether the picture keeps its own size, and scale


@dataclass(frozen=True)
class Place:
    """A place in a grid.

    at      index along each axis, the first one running along a row
    labels  the value of each axis
    """

    at: tuple[int, ...]
    labels: tuple[str, ...]

    @property
    def name(self) -> str:
        """All labels in one."""
        return " · ".join(self.labels)


@dataclass(frozen=True)
class Cell(Place):
    """A picture that can be made; the count of its request is 1."""

    resolved: ResolvedRequest

    @property
    def request(self) -> Request:
        """What is drawn."""
        return self.resolved.request_of(0)

    @property
    def plan(self) -> Plan:
        """The plan of its first pass."""
        return self.resolved.plan

    @property
    def calls(self) -> int | None:
        """Its network calls; None where only the run tells."""
        return self.resolved.calls


@dataclass(frozen=True)
class ImpossibleCell(Place):
    """A place without a picture, and why."""

    reason: str


@dataclass(frozen=True, eq=False)
class Grid:
    """All cells, the last axis varying slowest.

    seed     the base's, drawn if it was to be random
    sources  the fitted input pictures of img2img, by what their fit depends on
    """

    axes: tuple[Axis, ...]
    cells: tuple[Cell | ImpossibleCell, ...]
    model: str
    seed: int
    sources: Mapping[Fit, InputPicture]

    @property
    def possible(self) -> tuple[Cell, ...]:
        """The cells that can be made."""
        return tuple(cell for cell in self.cells if isinstance(cell, Cell))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Columns, rows and blocks."""
        columns, rows, blocks = ([len(axis.values) for axis in self.axes] + [1, 1])[:3]
        return columns, rows, blocks

    @property
    def calls(self) -> int | None:
        """Network calls of all cells; None where only the run tells."""
        calls = [cell.calls for cell in self.possible]
        return None if None in calls else sum(count or 0 for count in calls)

    def sources_of(self, cell: Cell) -> dict[Fit, InputPicture]:
        """The part of `sources` that a cell needs."""
        fit = _fit_of(cell.request)
        return {fit: self.sources[fit]} if fit in self.sources else {}

    def source(self, cell: Cell) -> InputPicture | None:
        """The input picture of a cell; None for pictures from words."""
        request = cell.request
        return replace(self.sources[_fit_of(request)], request=request) if request.has_input else None


def make_grid(
    engine: Engine, base: Request, axes: Sequence[Axis], policy: str = "same", options: Mapping[str, Any] | None = None
) -> Grid:
    """Every combination of the axes' values put into the base request, each resolved as a request of its own.

    policy   one of POLICIES: "each" gives cell n the seed base + n; a seed axis overrules both
    options  {"samplers": {name: {option: value}}, "schedules": ...}: what a cell's own plugins take; without it, the
             base's options go with the base's names only
    Raises RequestError for axes that do not fit, too many cells, and if no cell at all can be made.
    """
    _check(engine, base, axes, policy)
    seed = drawn_seed(base.seed)
    drawn = dict(count=1, seed=seed, variation_seed=drawn_seed(base.variation_seed))
    fields = {name: getattr(base, name) for name in type(base).model_fields} | drawn
    for axis in axes:
        # What fails for every cell (words that are not in the prompt) is an error of the grid.
        axis.values[0].change(fields)
    stored = options or {each.kind: {getattr(base, each.name): getattr(base, each.options)} for each in PLUGIN_FIELDS}
    seeded = policy == "each" and all(axis.kind != "seed" for axis in axes)
    models, styles, cells = engine.models(), engine.styles(), []
    for number, reversed_at in enumerate(product(*(range(len(axis.values)) for axis in reversed(axes)))):
        at = reversed_at[::-1]
        values = [(axis.kind in NAMES, axis.values[i]) for axis, i in zip(axes, at, strict=True)]
        wanted = dict(fields, seed=(seed + number) % SEEDS if seeded else seed)
        for is_name, value in values:
            wanted = value.change(wanted) if is_name else wanted
        wanted |= {each.options: stored.get(each.kind, {}).get(wanted[each.name], {}) for each in PLUGIN_FIELDS}
        for is_name, value in values:
            wanted = wanted if is_name else value.change(wanted)
        if not wanted["variation_strength"] and wanted["variation_seed"] == drawn["variation_seed"]:
            # As in the request alone, where the seed of no variation stays open.
            wanted["variation_seed"] = base.variation_seed
        place = Place(at, tuple(value.label for _, value in values))
        cells.append(_cell(engine, models, place, wanted, type(base), styles))
    return _finished(axes, cells, base, seed, engine.limits)


def _check(engine: Engine, base: Request, axes: Sequence[Axis], policy: str) -> None:
    if not 1 <= len(axes) <= MOST_AXES:
        raise RequestError("Choose what varies: a grid has one to three axes.")
    if policy not in POLICIES:
        raise RequestError(f"Seed policy is {policy!r}; allowed are {', '.join(POLICIES)}.")
    kinds = [axis.kind for axis in axes]
    twice = next((axis.title for axis in axes if axis.kind != "prompt" and kinds.count(axis.kind) > 1), None)
    if twice:
        raise RequestError(f"{twice} is on two axes; put all its values on one.")
    needing = next((axis.title for axis in axes if axis.kind in input_fields(type(base))), None)
    if needing and not base.has_input:
        raise RequestError(
            f"{needing} needs an input picture to start from: add one to the settings, or vary something else."
        )
    count = 1
    for axis in axes:
        count *= len(axis.values)
    if count > engine.limits.cells:
        raise RequestError(f"The grid has {count} cells; allowed here are {engine.limits.cells}. Give fewer values.")


def _cell(
    engine: Engine,
    models: Mapping[str, Any],
    place: Place,
    wanted: Mapping[str, Any],
    schema: type[Request],
    styles: Mapping[str, Style],
) -> Cell | ImpossibleCell:
    try:
        resolved = resolve(
            read(wanted, schema),
            engine.registry,
            models,
            engine.settings.model or "",
            engine.limits,
            engine.extra,
            styles,
        )
        return Cell(place.at, place.labels, resolved)
    except RequestError as error:
        return ImpossibleCell(place.at, place.labels, str(error))


def _fit_of(request: Request) -> Fit:
    keeps_size = request.inpaints and request.inpaint_area == "masked"
    return request.width, request.height, request.fit, keeps_size, request.scale


def _finished(
    axes: Sequence[Axis], cells: Sequence[Cell | ImpossibleCell], base: Request, seed: int, limits: Limits
) -> Grid:
    possible = [cell.request for cell in cells if isinstance(cell, Cell)]
    if not possible:
        reason = next(cell.reason for cell in cells if isinstance(cell, ImpossibleCell))
        raise RequestError(f"No cell of this grid can be made. {reason}")
    sources: dict[Fit, InputPicture] = {}
    if base.has_input and base.image is not None:
        # Opened now: the caller hears of a bad picture at once, and the upload may go.
        with decoding():
            picture, mask = open_upload(base, limits)
            fits = {_fit_of(request): request for request in possible}
            sources = {fit: fit_input(picture, mask, one, limits) for fit, one in fits.items()}
    return Grid(tuple(axes), tuple(cells), possible[0].model, seed, sources)
