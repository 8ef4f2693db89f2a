"""The pictures of a grid as HTML, with their seeds and median times."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any
from urllib.parse import quote

from webui.tabs.form.describe import seconds_text
from webui.templates import render

from .cell_cache import CellPicture
from .compare import CellFailed, CellMade, CellResult
from .grid import Cell, Grid, ImpossibleCell
from .grid_sheet import caption


def grid_html(grid: Grid, results: Mapping[int, CellResult], files: Mapping[int, str], at_work: bool) -> str:
    """The pictures of a grid as HTML, one table for each value of the third axis.

    results  of the cells so far, by their number
    files    the served copies of the pictures
    at_work  whether the first cell without a result is being made now
    """
    waiting = (i for i, cell in enumerate(grid.cells) if isinstance(cell, Cell) and i not in results)
    current = next(waiting, None) if at_work else None
    columns, rows, blocks = grid.shape
    cells = [_cell(i, cell, results.get(i), files.get(i), i == current) for i, cell in enumerate(grid.cells)]
    lines = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    heads = [value.label if value else None for value in (grid.axes[1].values if len(grid.axes) > 1 else [None])]
    shown = [
        dict(_head(grid, block), rows=list(zip(heads, lines[block * rows : (block + 1) * rows], strict=True)))
        for block in range(blocks)
    ]
    pictures = {i: each.picture for i, each in results.items() if isinstance(each, CellMade)}
    times = [] if at_work or not pictures else median_times(grid, pictures)
    return render("lab", "grid", shown, columns, times)


def median_times(grid: Grid, pictures: Mapping[int, CellPicture]) -> list[tuple[str, list[tuple[str, str]]]]:
    """(title of an axis, (label of a value, median seconds of its pictures)); one picture's time is mostly chance."""
    found = []
    for place, axis in enumerate(grid.axes):
        own: dict[str, list[float]] = {value.label: [] for value in axis.values}
        for index, picture in pictures.items():
            own[grid.cells[index].labels[place]].append(picture.seconds)
        found.append((axis.title, [(label, seconds_text(median(each))) for label, each in own.items() if each]))
    return found


def _head(grid: Grid, block: int) -> dict[str, Any]:
    third = f"{grid.axes[2].title}: {grid.axes[2].values[block].label}" if len(grid.axes) > 2 else ""
    corner = grid.axes[1].title if len(grid.axes) > 1 else None
    columns = [value.label for value in grid.axes[0].values]
    return dict(block=third, title=grid.axes[0].title, corner=corner, columns=columns)


def _cell(index: int, cell: Cell | ImpossibleCell, result: CellResult | None, file: str | None, running: bool) -> str:
    if isinstance(cell, ImpossibleCell):
        return render("lab", "impossible_cell", cell.reason)
    if isinstance(result, CellFailed):
        return render("lab", "impossible_cell", result.reason)
    if isinstance(result, CellMade) and file:
        url = f"gradio_api/file={quote(file)}"
        return render("lab", "picture_cell", index, url, cell.name, caption(result.picture), result.reused)
    return render("lab", "empty_cell", "making" if running else "coming")
