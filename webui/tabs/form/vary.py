"""Vary a result: its own settings with another starting noise, a little way from its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from webui.core.picture_metadata import read_picture
from webui.core.request import RequestError
from webui.gradio_ext.gradio_events import QUIET, Updates, gather
from webui.importers.imported_settings import from_record

from .apply_settings import fill
from .form_events import refilled
from .page_context import Page
from .result_panel import chosen_of, show_problem
from .workbench import Workbench

STRENGTH, COUNT = 0.15, 4


def connect_vary(page: Page, bench: Workbench) -> None:
    """Wire Vary: the settings of the chosen picture come into the form as variations, and Generate is pressed."""
    result, form = bench.result, bench.form

    def vary(made: list[tuple[str, int]], chosen: int, kept: Any) -> Updates:
        choice = chosen_of(made, chosen)
        # Gradio takes an empty dictionary for one value of many.
        return {result.message: gr.skip()} if choice is None else varied(page, bench, Path(choice[0]), kept)

    outputs = [*refilled(form), result.message]
    filled = gather(result.vary.click, vary, [result.made, result.chosen, page.kept[form.mode]], outputs, **QUIET)
    filled.success(None, None, None, js=f"() => document.querySelector('#{form.mode}-generate').click()", **QUIET)


def varied(page: Page, bench: Workbench, path: Path, kept: Any) -> Updates:
    """Updates for the form and the message: variations of a picture that was made here.

    kept  what the browser keeps of the form
    """
    try:
        record = read_picture(path).record
        if record is None:
            raise RequestError("The picture carries no settings of Sigmalab.")
        imported = from_record(record, page.registry, page.engine.models())
    except RequestError as error:
        return show_problem(bench.result, str(error))
    strength = imported.fields.get("variation_strength") or STRENGTH
    count = min(COUNT, page.engine.limits.count)
    fields = {**imported.fields, "variation_seed": -1, "variation_strength": strength, "count": count}
    updates, _ = fill(page, bench.form, kept, fields, imported.open)
    return updates
