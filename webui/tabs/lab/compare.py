"""Making the pictures of a grid, one cell after another: what was made before is taken, what fails is told."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from samplers.run import SamplerFailed
from samplers.sampler import Stopped
from webui.engine.drawing import Drawing
from webui.engine.engine import Engine
from webui.engine.errors import explain
from webui.engine.events import Event, PartialResult, Progress
from webui.engine.job_context import JobContext
from webui.engine.nested_job import NestedJob

from .cell_cache import Cells, Made, key_of_request
from .grid import Cell, Grid


@dataclass(frozen=True)
class CellDone:
    """What became of a cell: its picture, or the reason why there is none. `reused`: it had been made before."""

    index: int
    made: Made | None = None
    reused: bool = False
    reason: str = ""


@dataclass(frozen=True)
class Cost:
    """What a grid costs: cells to make, cells that are there, network calls, cells of unknown calls, seconds if known."""

    cells: int
    there: int
    calls: int
    uncounted: int
    seconds: float | None


def cost_of(grid: Grid, engine: Engine) -> Cost:
    """The cost of a grid before it starts; what is there already can only be known while the model is open."""
    known, identity = Cells(engine.settings.outputs), engine.identity_of(grid.model)

    def there(cell: Cell) -> bool:
        key = identity and key_of_request(cell.request, engine.registry, identity, grid.source(cell))
        return bool(key and known.find(key))

    wanted = [cell for cell in grid.possible if not there(cell)]
    rates = [known.seconds_a_call(cell.request) for cell in wanted]
    calls = [cell.plan.calls for cell in wanted]
    sure = None not in rates and None not in calls
    return Cost(
        len(wanted),
        len(grid.possible) - len(wanted),
        sum(count or 0 for count in calls),
        calls.count(None),
        sum(count * rate for count, rate in zip(calls, rates)) if sure else None,
    )


@dataclass(frozen=True, eq=False)
class Compare:
    """The task of a grid (`webui.engine.job_context.Task`). It tells a `CellDone` for each cell that can be made."""

    grid: Grid

    @property
    def model(self) -> str:
        """The model of all cells."""
        return self.grid.model

    def run(self, desk: JobContext) -> dict[str, Any]:
        """Make the cells in order. A sampler that fails costs its own cell only; a full disk ends the grid."""
        run = _Run(self.grid, desk)
        stopped = False
        try:
            for index, cell in enumerate(self.grid.cells):
                if cell.request is not None:
                    run.cell(index, cell)
        except Stopped:
            stopped = True
        return dict(
            stopped=stopped,
            cells=len(self.grid.possible),
            made=run.made,
            reused=run.reused,
            calls=run.calls,
            seconds=round(desk.clock() - run.began, 3),
        )


class _Run:
    """The state of a grid that is being made."""

    def __init__(self, grid: Grid, desk: JobContext):
        self._grid, self._desk, self._known = grid, desk, Cells(desk.outputs)
        self.began = desk.clock()
        self.made = self.reused = self._passed = 0
        self.calls: float = 0
        self._drawn: list[tuple[float, float]] = []  # (seconds, calls) of the cells drawn here

    def cell(self, index: int, cell: Cell) -> None:
        """Take or draw a cell, and tell it."""
        desk = self._desk
        if desk.should_stop():
            raise Stopped("the grid was stopped")
        source = self._grid.source(cell)
        key = key_of_request(cell.request, desk.registry, desk.model.identity, source)
        if there := self._known.find(key):
            self.reused += 1
            done = CellDone(index, there, reused=True)
        else:
            done = self._draw(index, cell, source)
            if done.made:
                self._known.add(key, done.made, cell.request)
                self.made += 1
                self.calls += done.made.nfe
                self._drawn.append((done.made.seconds, done.made.nfe))
        self._passed += 1
        desk.tell(PartialResult(done))

    def _draw(self, index: int, cell: Cell, source: Any) -> CellDone:
        desk = self._desk

        def hear(event: Event) -> None:
            if isinstance(event, Progress):
                desk.tell(self._progress(event, cell))

        job = NestedJob(hear, cell.request, cell.plan, source=source, clock=desk.clock)
        drawing = Drawing(job, desk)
        try:
            info = drawing.draw()
        except SamplerFailed as error:
            return CellDone(index, reason=explain(error, cell.request, desk.public))
        if not job.pictures:
            raise Stopped("the grid was stopped")
        return CellDone(index, Made(job.pictures[0].path, info["seconds"], info["nfe"]))

    def _progress(self, of_cell: Progress, cell: Cell) -> Progress:
        total = self._grid.calls if not self._grid.uncounted and not self.reused else None
        return replace(
            of_cell,
            image_index=0,
            calls=int(self.calls + of_cell.calls),
            total_calls=total,
            seconds=self._desk.clock() - self.began,
            remaining=self._remaining(of_cell),
            text=f"cell {self._passed + 1} of {len(self._grid.possible)} ({cell.name}), {of_cell.text.removeprefix('picture, ')}",
        )

    def _remaining(self, of_cell: Progress) -> float | None:
        """Seconds left: this cell's own, and for each later one its calls, or the usual number, at the pace so far."""
        later = [cell.plan.calls for cell in self._grid.possible[self._passed + 1 :]]
        seconds = sum(pair[0] for pair in self._drawn) + (of_cell.seconds if of_cell.calls > 1 else 0)
        calls = sum(pair[1] for pair in self._drawn) + (of_cell.calls if of_cell.calls > 1 else 0)
        if of_cell.remaining is None or not calls:
            return None
        usual = calls / max(1, len(self._drawn))
        return of_cell.remaining + seconds / calls * sum(usual if count is None else count for count in later)
