"""The tool Compare: the cost of a grid, its pictures as they are made, two cells side by side, and the export."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from webui.core.menus import chosen_name
from webui.core.storage import write_new
from webui.engine.events import Snapshot
from webui.engine.jobs import Job, TaskJob
from webui.gradio_ext.files import served
from webui.gradio_ext.gradio_events import QUIET, RAW, Updates
from webui.tabs.form.describe import SMALL, note
from webui.tabs.form.form import Form
from webui.tabs.form.job_events import JobEvents, View
from webui.tabs.form.page_context import Page
from webui.tabs.form.workbench import Workbench

from .axes_view import AxesView, read_axes
from .cell_cache import CellPicture
from .cell_panel import CHOSEN, ShownCell, build_cell_panel, connect_cell_panel
from .compare import CellMade, CellResult, Compare, cost_of
from .grid import Grid, make_grid
from .grid_sheet import caption, encode_sheet, write_zip
from .grid_table import grid_html
from .lab_form import request_of
from .lab_text import compared, cost_text
from .tool_view import build_buttons, connect_cost, connect_tool

TOOL = "compare"
IDLE = "Choose what varies, look at the cost, and start. Every other setting is the one above."


@dataclass(frozen=True, eq=False)
class CompareView:
    """The outputs of the tool.

    after  holds what stands below a finished grid
    files  the pictures by label
    panel  of the cell that is chosen among `cells`
    """

    seed: gr.components.Component
    random_seed: gr.components.Component
    table: gr.HTML
    after: gr.Column
    left: gr.Dropdown
    right: gr.Dropdown
    slider: gr.ImageSlider
    sheet: gr.DownloadButton
    bundle: gr.DownloadButton
    files: gr.State
    panel: gr.Row
    cells: gr.State


def build_compare(page: Page, form: Form, axes: AxesView, benches: Sequence[Workbench], tabs: gr.Tabs) -> JobEvents:
    """Build what stands below the axes and wire it."""
    cost = gr.HTML(elem_id=f"{TOOL}-cost")
    buttons = build_buttons(TOOL, "Make the grid", IDLE)
    text = note("The pictures will stand here, row by row, as they are finished.")
    table = gr.HTML(text, elem_id=f"{TOOL}-grid", js_on_load=CHOSEN)
    panel = build_cell_panel(TOOL, benches)
    with gr.Column(visible=False, elem_classes="card", elem_id=f"{TOOL}-after") as after:
        with gr.Row():
            left = gr.Dropdown([], label="Left", elem_id=f"{TOOL}-a", interactive=True, min_width=140)
            right = gr.Dropdown([], label="Right", elem_id=f"{TOOL}-b", interactive=True, min_width=140)
        slider = gr.ImageSlider(
            type="filepath",
            format="png",
            label="Left and right, at the same place",
            show_label=False,
            elem_id=f"{TOOL}-slider",
            interactive=False,
            buttons=["fullscreen"],
            max_height=420,
            elem_classes="pixels",
        )
        with gr.Row(elem_classes="keep"):
            sheet = gr.DownloadButton("Save as one PNG", size="sm", elem_id=f"{TOOL}-png")
            bundle = gr.DownloadButton("Save as zip", size="sm", elem_id=f"{TOOL}-zip")
    shown = gr.State({})

    count = len(axes.inputs)
    inputs = [*axes.inputs, *form.inputs]

    def plan(*given: Any) -> Grid:
        varied, policy = read_axes(given[:count], page.registry)
        base, options = request_of(form, given[count:])
        return make_grid(page.engine, base, varied, policy, options)

    def tell_cost(*given: Any) -> str:
        grid = plan(*given)
        return cost_text(cost_of(grid, page.engine), len(grid.cells) - len(grid.possible))

    # The last one changes when a grid has ended: there is less left to make.
    watched = (*axes.inputs, *form.fields.values(), form.edits, form.revision, shown)
    connect_cost(cost, watched, inputs, tell_cost)
    # Raw, because what was chosen in the grid before may come once more after the menus have changed.
    chosen = [left.change, right.change]
    gr.on(chosen, _pair, [shown, left, right], slider, trigger_mode="always_last", **QUIET, **RAW)
    connect_cell_panel(page, panel, table, (left, right), shown, benches, tabs)
    seed, random_seed = form.fields["seed"], form.fields["random_seed"]
    view = CompareView(
        seed, random_seed, table, after, left, right, slider, sheet, bundle, shown, panel.box, panel.cells
    )
    outputs = [getattr(view, field.name) for field in fields(view)]
    return connect_tool(
        page, buttons, inputs, outputs, lambda *given: Compare(plan(*given)), partial(_view, view), compared
    )


def _view(view: CompareView, job: Job) -> View:
    """The updates of the tab for one job; a file is copied once to where Gradio serves it."""
    assert isinstance(job, TaskJob) and isinstance(job.task, Compare)
    grid = job.task.grid
    results: dict[int, CellResult] = {}
    files: dict[int, str] = {}
    cells: dict[int, ShownCell] = {}
    # The seed that was drawn stays in the form: a grid that is stopped and started once more has the same one.
    first: Updates = {view.seed: grid.seed, view.random_seed: False, view.cells: {}}
    first |= {each: gr.update(visible=False) for each in (view.after, view.panel)}

    async def show(now: Snapshot) -> Updates:
        updates = dict(first)
        first.clear()
        for result in now.parts[len(results) :]:
            results[result.index] = result
            if isinstance(result, CellMade):
                file = files[result.index] = await asyncio.to_thread(served, result.picture.path)
                cells[result.index] = ShownCell(_label(grid, result.index), file, caption(result.picture))
                updates[view.cells] = dict(cells)
        updates[view.table] = grid_html(grid, results, files, now.state == "running")
        if now.outcome is not None:
            pictures = {index: each.picture for index, each in results.items() if isinstance(each, CellMade)}
            updates |= await asyncio.to_thread(_after, view, job.id, grid, pictures, files)
        return updates

    return show


def _after(
    view: CompareView, name: str, grid: Grid, pictures: Mapping[int, CellPicture], files: Mapping[int, str]
) -> Updates:
    """Updates for what stands below a finished or stopped grid."""
    if not pictures:
        return {view.after: gr.update(visible=False)}
    labels = {_label(grid, index): files[index] for index in sorted(pictures)}
    choices = list(labels)
    left, right = choices[0], choices[-1]
    try:
        sheet, bundle = (gr.update(value=str(path), visible=True) for path in _export(name, grid, pictures))
    except OSError:
        sheet = bundle = gr.update(visible=False)
    widest = max(cell.request.width for cell in grid.possible)
    return {
        view.after: gr.update(visible=True),
        view.left: gr.update(choices=choices, value=left),
        view.right: gr.update(choices=choices, value=right),
        view.slider: gr.update(value=(labels[left], labels[right]), elem_classes=["pixels"] if widest <= SMALL else []),
        view.sheet: sheet,
        view.bundle: bundle,
        view.files: labels,
    }


def _label(grid: Grid, index: int) -> str:
    """A cell in the menus: its number, which makes it another one than all, and its name."""
    return f"{index + 1}: {grid.cells[index].name}"


def _export(name: str, grid: Grid, pictures: Mapping[int, CellPicture]) -> tuple[Path, Path]:
    """Write the labelled PNG and the zip where Gradio serves files from. Raises OSError."""
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


def _pair(shown: Mapping[str, str], left: Any, right: Any) -> Any:
    """The two chosen pictures for the slider."""
    files = shown.get(chosen_name(left)), shown.get(chosen_name(right))
    return files if all(files) else gr.skip()
