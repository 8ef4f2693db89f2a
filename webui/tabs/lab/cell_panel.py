"""What a chosen cell of a grid offers: its picture large, its settings in a form, and a side of the comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr
from gradio.blocks import Block

from webui.core.request import RequestError
from webui.gradio_ext.gradio_events import QUIET, Updates, gather
from webui.gradio_ext.lazy_tab import reach
from webui.importers.imported_settings import read_imported_settings
from webui.tabs.form.controls import small_button
from webui.tabs.form.page_context import Page
from webui.tabs.form.picture_actions import settings_outputs, use_settings
from webui.tabs.form.workbench import Workbench
from webui.templates import render

# A plain click chooses a cell; with Ctrl, or by the middle button, its link opens the file as any link does.
CHOSEN = """
let chosen = "";
const mark = () => element.querySelectorAll("[data-cell]").forEach((each) => {
  each.setAttribute("aria-current", each.dataset.cell === chosen);
});
element.addEventListener("click", (event) => {
  const cell = event.target.closest("[data-cell]");
  if (!cell || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  chosen = cell.dataset.cell;
  mark();
  trigger("click", { cell: Number(chosen) });
});
new MutationObserver(mark).observe(element, { childList: true, subtree: true });
"""


class CellData(gr.EventData):
    """What CHOSEN says of a click: the number of the `cell`."""

    def __init__(self, target: Block | None, data: Any):
        super().__init__(target, data)
        self.cell = int(data["cell"])


@dataclass(frozen=True)
class ShownCell:
    """A cell's picture on the page: its label in the menus, the served file, time and calls."""

    label: str
    file: str
    about: str


@dataclass(frozen=True, eq=False)
class CellPanel:
    """The panel below a grid; `cells` are the pictures of the grid by their number, `chosen` is one of them."""

    box: gr.Row
    picture: gr.HTML
    use: Mapping[str, gr.Button]
    left: gr.Button
    right: gr.Button
    cells: gr.State
    chosen: gr.State


def build_cell_panel(tool: str, benches: Sequence[Workbench]) -> CellPanel:
    """Build the panel, which is not seen until a cell is chosen."""
    with gr.Row(visible=False, elem_classes="cell-panel", elem_id=f"{tool}-cell") as box:
        picture = gr.HTML()
        use = {
            bench.mode: small_button(f"Use in {bench.mode}", f"{tool}-use-{bench.mode}", min_width=90)
            for bench in benches
        }
        left = small_button("Left", f"{tool}-cell-left", min_width=60)
        right = small_button("Right", f"{tool}-cell-right", min_width=60)
    return CellPanel(box, picture, use, left, right, gr.State({}), gr.State(None))


def connect_cell_panel(
    page: Page,
    panel: CellPanel,
    grid: gr.HTML,
    sides: tuple[gr.Dropdown, gr.Dropdown],
    paired: gr.State,
    benches: Sequence[Workbench],
    tabs: gr.Tabs,
) -> None:
    """Wire the panel.

    grid    has a link with the number of its cell around each picture, and runs CHOSEN
    sides   the menus of the comparison, which take a label
    paired  the labels in them, once a grid has ended
    """

    def choose(cells: Mapping[int, ShownCell], event: CellData) -> Updates:
        cell = cells.get(event.cell)
        if cell is None:
            return gr.skip()
        shown = render("lab", "chosen_cell", f"gradio_api/file={quote(cell.file)}", cell.label, cell.about)
        return {panel.box: gr.update(visible=True), panel.picture: shown, panel.chosen: cell}

    def put(chosen: ShownCell | None, paired: Mapping[str, str]) -> Any:
        if chosen is None or chosen.label not in paired:
            gr.Info("The comparison comes when the grid has ended.")
            return gr.skip()
        return chosen.label

    def use(bench: Workbench, chosen: ShownCell | None, kept: Any) -> Updates:
        try:
            if chosen is None:
                raise RequestError("Choose a picture of the grid first.")
            path = Path(chosen.file)
            imported = read_imported_settings(path, page.registry, page.engine.models(), page.engine.upscalers())
            return use_settings(page, bench, tabs, kept, imported, path)
        except (RequestError, OSError):
            gr.Warning("The picture is no longer there; make the grid once more.")
            return gr.skip()

    grid.click(choose, panel.cells, [panel.box, panel.picture, panel.chosen], trigger_mode="multiple", **QUIET)
    for button, side in zip((panel.left, panel.right), sides, strict=True):
        button.click(put, [panel.chosen, paired], side, **QUIET)
    for bench in benches:
        inputs = [panel.chosen, page.kept[bench.mode]]
        listen = reach(bench.content, panel.use[bench.mode].click)
        gather(listen, partial(use, bench), inputs, settings_outputs(bench, tabs), **QUIET)
