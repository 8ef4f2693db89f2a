"""Make the pictures of a grid, one cell after another. Existing pictures are reused; a failed cell has a reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from samplers.registry import Registry
from samplers.run import SamplerFailed
from samplers.sampler import Stopped
from webui.core.request import RequestError
from webui.engine.calibrated_runs import with_coefficients
from webui.engine.drawing import Drawing, draw
from webui.engine.engine import Engine
from webui.engine.errors import explain
from webui.engine.events import Event, PartialResult, Picture, Progress
from webui.engine.job_context import JobContext, OnHead, here
from webui.engine.pass_models import open_models
from webui.engine.run_environment import identity_of
from weights.model_info import ModelInfo

from .cell_cache import CellCache, CellPicture, key_of_request
from .grid import Cell, Grid


@dataclass(frozen=True)
class CellMade:
    """A cell's picture. `reused`: an earlier grid made it."""

    index: int
    picture: CellPicture
    reused: bool = False


@dataclass(frozen=True)
class CellFailed:
    """A cell whose sampler failed, and why."""

    index: int
    reason: str


CellResult = CellMade | CellFailed


@dataclass(frozen=True)
class Cost:
    """The cost of a grid.

    cells      to make; `there` are cells whose pictures exist
    calls      network calls that are known; `uncounted` are cells whose calls only the run tells
    seconds    None where they are not known
    """

    cells: int
    there: int
    calls: int
    uncounted: int
    seconds: float | None


def cost_of(grid: Grid, engine: Engine) -> Cost:
    """The cost of a grid before it starts; which pictures exist is only known while the model is open."""
    cache = CellCache(engine.outputs)

    def is_there(cell: Cell) -> bool:
        identity = engine.identity_of(cell.request)
        if identity is None:
            return False
        coefficients = _coefficients(cell, engine.registry, identity.weights, engine.outputs)
        key = key_of_request(cell.request, cell.resolved.origins, identity, grid.source(cell), coefficients)
        return bool(cache.find(key))

    missing = [cell for cell in grid.possible if not is_there(cell)]
    calls = [cell.calls for cell in missing if cell.calls is not None]
    rates = [cache.seconds_a_call(cell.request) for cell in missing if cell.calls is not None]
    seconds = [count * rate for count, rate in zip(calls, rates, strict=True) if rate is not None]
    return Cost(
        len(missing),
        len(grid.possible) - len(missing),
        sum(calls),
        len(missing) - len(calls),
        sum(seconds) if len(seconds) == len(missing) else None,
    )


@dataclass(frozen=True, eq=False)
class Compare:
    """The task of a grid (`webui.engine.job_context.Task`); its parts are a `CellResult` for each possible cell.

    at, of  of a part of it: the index of its only cell in the whole grid, and (number, count) among the possible ones
    """

    grid: Grid
    at: int = 0
    of: tuple[int, int] = (0, 0)

    @property
    def model(self) -> str:
        """The model of all cells."""
        return self.grid.model

    @property
    def model_info(self) -> ModelInfo:
        """What was known of it when the grid was made."""
        return self.grid.possible[0].resolved.model_info

    def parts(self) -> list[Compare]:
        """A task for each cell."""
        grid, count = self.grid, len(self.grid.possible)
        cells = [(index, cell) for index, cell in enumerate(grid.cells) if isinstance(cell, Cell)]
        return [
            Compare(replace(grid, axes=(), cells=(cell,), sources=grid.sources_of(cell)), index, (number, count))
            for number, (index, cell) in enumerate(cells)
        ]

    def merged(self, infos: Sequence[dict[str, Any]], seconds: float, stopped: bool) -> dict[str, Any]:
        """The info of the whole grid from those of its cells."""
        sums = {name: sum(info.get(name, 0) for info in infos) for name in ("made", "reused", "calls")}
        return dict(stopped=stopped, cells=len(self.grid.possible), **sums, seconds=seconds, seed=self.grid.seed)

    def run(self, context: JobContext) -> dict[str, Any]:
        """Make the cells in order. A sampler that fails costs its own cell only; a full disk ends the grid."""
        run = _GridRun(self.grid, context, self.of)
        stopped = False
        try:
            for index, cell in enumerate(self.grid.cells, start=self.at):
                if isinstance(cell, Cell):
                    run.make(index, cell)
        except Stopped:
            stopped = True
        return dict(
            stopped=stopped,
            cells=len(self.grid.possible),
            seed=self.grid.seed,
            made=len(run.drawn),
            reused=run.reused,
            calls=run.calls,
            seconds=round(context.clock() - run.began, 3),
        )


class _GridRun:
    """The state of a grid that is being made; `drawn` has the pictures that it drew."""

    def __init__(self, grid: Grid, context: JobContext, of: tuple[int, int]):
        self._before, self._count = of[0], of[1] or len(grid.possible)
        self._grid, self._context, self._cache = grid, context, CellCache(context.outputs)
        self.began = context.clock()
        self.reused = self._done = 0
        self.drawn: list[CellPicture] = []

    @property
    def calls(self) -> float:
        """Network calls of the pictures drawn so far."""
        return sum(picture.nfe for picture in self.drawn)

    def make(self, index: int, cell: Cell) -> None:
        """Reuse or draw the picture of a cell, and report it."""
        context = self._context
        if context.should_stop():
            raise Stopped("the grid was stopped")
        try:
            others = open_models(cell.resolved, context).others
        except RequestError as error:
            context.tell(PartialResult(CellFailed(index, str(error))))
            self._done += 1
            return
        source = self._grid.source(cell)
        key = key_of_request(
            cell.request,
            cell.resolved.origins,
            identity_of(context.model, cell.request, context.upscalers, others),
            source,
            _coefficients(cell, context.registry, context.model.identity.weights, context.outputs, context.on_head),
        )
        result: CellResult
        if known := context.on_head(partial(self._cache.find, key)):
            self.reused += 1
            result = CellMade(index, known, reused=True)
        else:
            result = self._draw(index, cell, source)
            if isinstance(result, CellMade):
                context.on_head(partial(self._cache.add, key, result.picture, cell.request))
                self.drawn.append(result.picture)
        self._done += 1
        context.tell(PartialResult(result))

    def _draw(self, index: int, cell: Cell, source: Any) -> CellResult:
        context = self._context

        def listen(event: Event) -> None:
            if isinstance(event, Progress):
                context.tell(self._progress(event, cell))
            elif isinstance(event, Picture):
                pictures.append(event)

        pictures: list[Picture] = []
        try:
            info = draw(Drawing(cell.resolved, source), replace(context, tell=listen))
        except SamplerFailed as error:
            return CellFailed(index, explain(error, cell.resolved, context.public))
        if not pictures:
            raise Stopped("the grid was stopped")
        return CellMade(index, CellPicture(pictures[0].path, info["seconds"], info["nfe"]))

    def _progress(self, of_cell: Progress, cell: Cell) -> Progress:
        number, count = self._before + self._done + 1, self._count
        return replace(
            of_cell,
            image_index=0,
            calls=int(self.calls + of_cell.calls),
            total_calls=self._grid.calls if not self.reused else None,
            seconds=self._context.clock() - self.began,
            remaining=self._remaining(of_cell),
            text=f"cell {number} of {count} ({cell.name}), {of_cell.text.removeprefix('picture, ')}",
        )

    def _remaining(self, of_cell: Progress) -> float | None:
        """Seconds left: of this cell, and of each later one its calls, or the mean number, at the rate so far."""
        later = [cell.calls for cell in self._grid.possible[self._done + 1 :]]
        seconds = sum(picture.seconds for picture in self.drawn) + (of_cell.seconds if of_cell.calls > 1 else 0)
        calls = self.calls + (of_cell.calls if of_cell.calls > 1 else 0)
        if of_cell.remaining is None or not calls:
            return None
        mean = calls / max(1, len(self.drawn))
        return of_cell.remaining + seconds / calls * sum(mean if count is None else count for count in later)


def _coefficients(
    cell: Cell, registry: Registry, weights: str, outputs: Path, on_head: OnHead = here
) -> list[Mapping[str, Any]]:
    """The coefficients that a cell will be drawn with, of the sampler and the schedule of each pass, {} for none."""
    resolved, _ = with_coefficients(cell.resolved, registry, weights, outputs, on_head)
    return [one or {} for plan in resolved.plans for one in (plan.coefficients, plan.schedule_coefficients)]
