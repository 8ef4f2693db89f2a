"""Show a grid of pictures as HTML tables with the axes' labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from webui.templates import render

from .compare import CellFailed, CellMade, CellResult
from .grid import Cell, Grid, ImpossibleCell
from .grid_sheet import caption


def tables(grid: Grid, results: Mapping[int, CellResult], files: Mapping[int, str], at_work: bool) -> str:
    """One table for each value of the third axis.

    results  of the cells so far, by their number
    files    the served copies of the pictures
    at_work  whether the first cell without a result is being made now
    """
    waiting = (i for i, cell in enumerate(grid.cells) if isinstance(cell, Cell) and i not in results)
    current = next(waiting, None) if at_work else None
    columns, rows, blocks = grid.shape
    cells = [_cell(cell, results.get(i), files.get(i), i == current) for i, cell in enumerate(grid.cells)]
    lines = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    heads = [value.label if value else None for value in (grid.axes[1].values if len(grid.axes) > 1 else [None])]
    shown = [
        dict(_head(grid, block), rows=list(zip(heads, lines[block * rows : (block + 1) * rows], strict=True)))
        for block in range(blocks)
    ]
    return render("lab", "grid", shown, max(cell.request.width for cell in grid.possible) <= 128)


def file_url(path: str) -> str:
    """The address of a served file, from the page's own."""
    return f"gradio_api/file={quote(path)}"


def _head(grid: Grid, block: int) -> dict[str, Any]:
    third = f"{grid.axes[2].title}: {grid.axes[2].values[block].label}" if len(grid.axes) > 2 else ""
    corner = grid.axes[1].title if len(grid.axes) > 1 else None
    columns = [value.label for value in grid.axes[0].values]
    return dict(block=third, title=grid.axes[0].title, corner=corner, columns=columns)


def _cell(cell: Cell | ImpossibleCell, result: CellResult | None, file: str | None, running: bool) -> str:
    if isinstance(cell, ImpossibleCell):
        return render("lab", "impossible_cell", cell.reason)
    if isinstance(result, CellFailed):
        return render("lab", "impossible_cell", result.reason)
    if isinstance(result, CellMade) and file:
        return render("lab", "picture_cell", file_url(file), cell.name, caption(result.picture), result.reused)
    return render("lab", "empty_cell", "making" if running else "coming")
