"""Export a grid: one labelled PNG, and a zip of the pictures' own files with their metadata."""

from __future__ import annotations

import json
import re
import textwrap
import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from .cell_cache import CellPicture
from .grid import Cell, Grid, ImpossibleCell, Place

Font = ImageFont.ImageFont | ImageFont.FreeTypeFont
KEYWORD = "sigmalab-grid"
PAPER, INK, SOFT, EMPTY = (255, 255, 255), (23, 30, 32), (86, 97, 100), (238, 240, 240)
MOST_PIXELS = 40_000_000  # of the sheet: larger pictures are scaled down
LEAST_SIDE = 112  # small pictures are enlarged, pixel by pixel, so that a label fits
GAP, MARGIN, TEXT = 8, 20, 15


def describe(grid: Grid, made: Mapping[int, CellPicture]) -> dict[str, Any]:
    """The grid as JSON data: its axes, and each cell's labels, settings, time and calls, or why it has none."""
    return dict(
        axes=[
            dict(kind=axis.kind, title=axis.title, values=[value.label for value in axis.values]) for axis in grid.axes
        ],
        cells=[_cell(cell, made.get(index)) for index, cell in enumerate(grid.cells)],
    )


def draw_sheet(grid: Grid, made: Mapping[int, CellPicture]) -> Image.Image:
    """All cells on one page: the first axis along the rows, the second down, the third as blocks below one another."""
    columns, rows, blocks = grid.shape
    side = _side(grid, columns * rows * blocks)
    font, strong = ImageFont.load_default(TEXT), ImageFont.load_default(TEXT + 1)
    left = MARGIN + (
        max(_width(strong, value.label, 260) for value in grid.axes[1].values) + 2 * GAP if len(grid.axes) > 1 else 0
    )
    head = MARGIN + 2 * (TEXT + GAP)
    block = head + rows * (side[1] + TEXT + 2 * GAP)
    sheet = Image.new("RGB", (left + columns * (side[0] + GAP) + MARGIN, blocks * block + MARGIN), PAPER)
    pen = ImageDraw.Draw(sheet)
    for plane in range(blocks):
        top = plane * block
        title = " / ".join(axis.title for axis in grid.axes[:2])
        if len(grid.axes) > 2:
            title = f"{grid.axes[2].title}: {grid.axes[2].values[plane].label}   ({title})"
        pen.text((MARGIN, top + MARGIN // 2), _short(strong, title, sheet.width - 2 * MARGIN), INK, strong)
        for i, value in enumerate(grid.axes[0].values):
            at = left + i * (side[0] + GAP)
            pen.text((at, top + head - TEXT - GAP), _short(strong, value.label, side[0]), INK, strong)
        for j, value in enumerate(grid.axes[1].values if len(grid.axes) > 1 else ()):
            at = top + head + j * (side[1] + TEXT + 2 * GAP)
            pen.text((MARGIN, at + side[1] // 2 - TEXT), _short(strong, value.label, left - MARGIN - GAP), INK, strong)
    for index, cell in enumerate(grid.cells):
        i, j, plane = (*cell.at, 0, 0)[:3]
        corner = left + i * (side[0] + GAP), plane * block + head + j * (side[1] + TEXT + 2 * GAP)
        _draw_cell(sheet, pen, font, corner, side, cell, made.get(index))
    return sheet


def encode_sheet(grid: Grid, made: Mapping[int, CellPicture]) -> bytes:
    """The sheet as a PNG that carries the grid's description."""
    buffer, chunks = BytesIO(), PngInfo()
    chunks.add_text(KEYWORD, json.dumps(describe(grid, made)))
    draw_sheet(grid, made).save(buffer, "PNG", pnginfo=chunks)
    return buffer.getvalue()


def write_zip(path: Path, grid: Grid, made: Mapping[int, CellPicture], sheet: bytes) -> None:
    """Write the sheet, the description and the pictures' own files, named by place and labels. Raises OSError."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as bundle:
        bundle.writestr("grid.png", sheet)
        bundle.writestr("grid.json", json.dumps(describe(grid, made), indent=1))
        for index in sorted(made):
            bundle.write(made[index].path, f"{index + 1:03d} {file_name(grid.cells[index])}.png")


def file_name(cell: Place) -> str:
    """The labels of a cell as a file name that every system takes."""
    return re.sub(r"[^\w.,+\- ]+", "_", ", ".join(cell.labels))[:80].strip(" .") or "cell"


def caption(picture: CellPicture) -> str:
    """Network calls of a picture; how long it took is mostly the machine's load."""
    return f"{picture.nfe:g} calls"


def _cell(cell: Cell | ImpossibleCell, picture: CellPicture | None) -> dict[str, Any]:
    request = cell.request.to_json() if isinstance(cell, Cell) else None
    known = dict(labels=list(cell.labels), request=request)
    return known | (dict(seconds=picture.seconds, nfe=picture.nfe) if picture else dict(reason=_reason(cell)))


def _reason(cell: Cell | ImpossibleCell) -> str:
    return cell.reason if isinstance(cell, ImpossibleCell) else "not made"


def _side(grid: Grid, cells: int) -> tuple[int, int]:
    """Width and height of a picture on the sheet: that of the largest, enlarged or scaled to what fits."""
    sizes = [(cell.request.width, cell.request.height) for cell in grid.possible]
    width, height = max(w for w, _ in sizes), max(h for _, h in sizes)
    scale = max(1, -(-LEAST_SIDE // width))
    scale = min(scale, (MOST_PIXELS / cells / (width * height)) ** 0.5)
    return max(1, int(width * scale)), max(1, int(height * scale))


def _draw_cell(
    sheet: Image.Image,
    pen: ImageDraw.ImageDraw,
    font: Font,
    corner: tuple[int, int],
    side: tuple[int, int],
    cell: Cell | ImpossibleCell,
    made: CellPicture | None,
) -> None:
    x, y = corner
    if made:
        with Image.open(made.path) as picture:
            grows = side[0] >= picture.width
            fitted = picture.convert("RGB").resize(
                side, Image.Resampling.NEAREST if grows else Image.Resampling.LANCZOS
            )
        sheet.paste(fitted, corner)
        pen.text((x, y + side[1] + 2), _short(font, caption(made), side[0]), SOFT, font)
        return
    pen.rectangle((x, y, x + side[0] - 1, y + side[1] - 1), EMPTY)
    small = ImageFont.load_default(11)
    lines = textwrap.wrap(_reason(cell), max(8, side[0] // 6))
    pen.multiline_text((x + 6, y + 6), "\n".join(lines[: max(1, side[1] // 15)]), SOFT, small)


def _width(font: Font, text: str, most: int) -> int:
    return min(most, int(font.getlength(text)) + 1)


def _short(font: Font, text: str, width: int) -> str:
    """The text, cut to a width in pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
