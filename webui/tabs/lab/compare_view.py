"""Compare on the page: axes, the cost before it starts, the grid as it fills, two cells side by side, and what to keep."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from webui.core.storage import write_new
from webui.engine.events import Snapshot
from webui.engine.jobs import Job
from webui.gradio_ext.files import served
from webui.gradio_ext.gradio_events import QUIET
from webui.tabs.form.describe import note
from webui.tabs.form.page_context import Page
from webui.tabs.form.result_panel import SMALL

from .axes_view import AxesView, read_axes
from .cell_cache import Made
from .compare import CellDone, Compare, cost_of
from .grid import Grid, make_grid
from .grid_html import tables
from .grid_sheet import encode_sheet, write_zip
from .lab_form import Settings, request_of
from .lab_text import compared, cost_text
from .tool_view import Tool, View, build_buttons, connect_cost, connect_tool

MODE = "compare"
IDLE = "Choose what varies, look at the cost, and start. Every other setting is the one above."


def build_compare(page: Page, settings: Settings, axes: AxesView) -> Tool:
    """Build what stands below the axes and wire it."""
    cost = gr.HTML(elem_id=f"{MODE}-cost")
    buttons = build_buttons(MODE, "Make the grid", IDLE)
    table = gr.HTML(note("The pictures will stand here, row by row, as they are finished."), elem_id=f"{MODE}-grid")
    with gr.Column(visible=False, elem_classes="card", elem_id=f"{MODE}-after") as after:
        with gr.Row():
            first = gr.Dropdown([], label="Left", elem_id=f"{MODE}-a", interactive=True, min_width=140)
            second = gr.Dropdown([], label="Right", elem_id=f"{MODE}-b", interactive=True, min_width=140)
        slider = gr.ImageSlider(
            type="filepath",
            format="png",
            label="Left and right, at the same place",
            show_label=False,
            elem_id=f"{MODE}-slider",
            interactive=False,
            buttons=["fullscreen"],
            max_height=420,
            elem_classes="pixels",
        )
        with gr.Row(elem_classes="keep"):
            sheet = gr.DownloadButton("Save as one PNG", size="sm", elem_id=f"{MODE}-png")
            bundle = gr.DownloadButton("Save as zip", size="sm", elem_id=f"{MODE}-zip")
    made = gr.State({})

    form, mine = settings.form, len(axes.inputs)
    inputs = [*axes.inputs, *form.inputs]

    def plan(*given: Any) -> Grid:
        varied, policy = read_axes(given[:mine], page.registry)
        base, options = request_of(form, given[mine:])
        return make_grid(page.engine, base, varied, policy, options)

    def tell_cost(*given: Any) -> str:
        grid = plan(*given)
        return cost_text(cost_of(grid, page.engine), len(grid.cells) - len(grid.possible))

    # The last one changes when a grid has ended: there is less left to make.
    watched = (*axes.inputs, *form.fields.values(), form.edits, form.revision, made)
    connect_cost(cost, watched, inputs, tell_cost)
    gr.on([first.change, second.change], _pair, [made, first, second], slider, trigger_mode="always_last", **QUIET)
    # The seed that was drawn stays: who stops a grid and starts it again goes on with the same one.
    seeds = [form.fields["seed"], form.fields["random_seed"]]
    outputs = [*seeds, table, after, first, second, slider, sheet, bundle, made]
    return connect_tool(page, buttons, inputs, outputs, lambda *given: Compare(plan(*given)), _view, compared)


def _view(job: Job) -> View:
    """The updates of the tab for one job; files are copied to where Gradio serves them once."""
    grid: Grid = job.task.grid
    done: dict[int, CellDone] = {}
    files: dict[int, str] = {}
    first = True

    async def show(now: Snapshot) -> list[Any]:
        nonlocal first
        start = [grid.seed, False, gr.update(visible=False)] if first else [gr.skip()] * 3
        first = False
        for one in now.parts[len(done) :]:
            done[one.index] = one
            if one.made:
                files[one.index] = await asyncio.to_thread(served, one.made.path)
        table = tables(grid, done, files, now.state == "running")
        if now.outcome is None:
            return [*start[:2], table, start[2], *[gr.skip()] * 6]
        pictures = {index: one.made for index, one in done.items() if one.made}
        return [*start[:2], table, *await asyncio.to_thread(_after, job.id, grid, pictures, files)]

    return show


def _after(name: str, grid: Grid, pictures: Mapping[int, Made], files: Mapping[int, str]) -> list[Any]:
    """Updates for what stands below a finished or stopped grid."""
    if not pictures:
        return [gr.update(visible=False), *[gr.skip()] * 6]
    labels = {f"{index + 1}: {grid.cells[index].name}": files[index] for index in sorted(pictures)}
    left, right = next(iter(labels)), list(labels)[-1]
    try:
        sheet, bundle = (gr.update(value=str(path), visible=True) for path in _kept(name, grid, pictures))
    except OSError:
        sheet = bundle = gr.update(visible=False)
    choices = list(labels)
    widest = max(cell.request.width for cell in grid.possible)
    return [
        gr.update(visible=True),
        gr.update(choices=choices, value=left),
        gr.update(choices=choices, value=right),
        gr.update(value=(labels[left], labels[right]), elem_classes=["pixels"] if widest <= SMALL else []),
        sheet,
        bundle,
        labels,
    ]


def _kept(name: str, grid: Grid, pictures: Mapping[int, Made]) -> tuple[Path, Path]:
    """The labelled PNG and the zip, where Gradio serves files from. Raises OSError."""
    folder = Path(get_upload_folder()) / f"grid-{name}"
    sheet, bundle = folder / "sigmalab-grid.png", folder / "sigmalab-grid.zip"
    if not bundle.exists():
        folder.mkdir(parents=True, exist_ok=True)
        data = encode_sheet(grid, pictures)
        if not sheet.exists():
            write_new(sheet, data)
        part = bundle.with_suffix(".part")
        write_zip(part, grid, pictures, data)
        os.replace(part, bundle)
    return sheet, bundle


def _pair(made: Mapping[str, str], first: str | None, second: str | None) -> Any:
    """The two chosen pictures for the slider."""
    files = made.get(first or ""), made.get(second or "")
    return files if all(files) else gr.skip()
