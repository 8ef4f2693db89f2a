"""A grid of pictures as HTML: tables with the axes' labels, each cell in one of its states. Everything is escaped."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from urllib.parse import quote

from .compare import CellDone
from .grid import Cell, Grid
from .grid_sheet import caption

EMPTY = "<p class='note'>The pictures will stand here, row by row, as they are finished.</p>"


def tables(grid: Grid, done: Mapping[int, CellDone], files: Mapping[int, str], at_work: bool) -> str:
    """One table for each value of the third axis.

    done     what became of the cells so far, by their number
    files    the served copies of the pictures
    at_work  whether the first cell without an outcome is being made now
    """
    next_one = (
        next((i for i, cell in enumerate(grid.cells) if cell.request and i not in done), None) if at_work else None
    )
    lengths = [len(axis.values) for axis in grid.axes] + [1, 1]
    columns, rows, blocks = lengths[:3]
    small = " pixels" if max(cell.request.width for cell in grid.possible) <= 128 else ""
    parts = []
    for block in range(blocks):
        lines = []
        for row in range(rows):
            first = (block * rows + row) * columns
            cells = "".join(
                _cell(grid.cells[i], done.get(i), files.get(i), i == next_one) for i in range(first, first + columns)
            )
            head = f"<th scope='row'>{escape(grid.axes[1].values[row].label)}</th>" if len(grid.axes) > 1 else ""
            lines.append(f"<tr>{head}{cells}</tr>")
        parts.append(f"<table class='cells'>{_head(grid, block)}<tbody>{''.join(lines)}</tbody></table>")
    return f"<div class='grid{small}' tabindex='0' role='region' aria-label='Grid of pictures'>{''.join(parts)}</div>"


def file_url(path: str) -> str:
    """The address of a served file, from the page's own."""
    return f"gradio_api/file={quote(path)}"


def _head(grid: Grid, block: int) -> str:
    across = "".join(f"<th scope='col'>{escape(value.label)}</th>" for value in grid.axes[0].values)
    corner = f"<td class='corner'>{escape(grid.axes[1].title)}</td>" if len(grid.axes) > 1 else ""
    title = escape(grid.axes[0].title)
    if len(grid.axes) > 2:
        title = f"<strong>{escape(grid.axes[2].title)}: {escape(grid.axes[2].values[block].label)}</strong> · {title}"
    return f"<caption>{title} →</caption><thead><tr>{corner}{across}</tr></thead>"


def _cell(cell: Cell, done: CellDone | None, file: str | None, running: bool) -> str:
    if done and done.made and file:
        url, name = escape(file_url(file), quote=True), escape(cell.name, quote=True)
        again = "<br>made before" if done.reused else ""
        return (
            f"<td><figure><a href='{url}' target='_blank' rel='noopener' title='{name}'>"
            f"<img src='{url}' alt='{name}' loading='lazy'></a><figcaption>{caption(done.made)}{again}</figcaption></figure></td>"
        )
    reason = cell.reason or (done.reason if done else "")
    if reason:
        return f"<td class='none'><p>{escape(reason)}</p></td>"
    return "<td class='making'><i></i></td>" if running else "<td class='coming'><i></i></td>"
