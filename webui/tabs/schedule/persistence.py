"""The Schedule tab over a reload: what the browser keeps is put back when the page is opened."""

from __future__ import annotations

from typing import Any

import gradio as gr

from webui.gradio_ext.gradio_events import QUIET, RESTORED, browser_store, opening
from webui.tabs.form.form_events import remember
from webui.tabs.form.form_state import recall_options
from webui.tabs.form.page_context import Page

from .forward_view import ForwardView
from .run_plot import FIELDS
from .run_view import RunView, steps_update
from .schedule_state import MORE, recall_more, recall_run
from .training_view import TrainingView


def connect_keeping(page: Page, blocks: gr.Blocks, run: RunView, forward: ForwardView, training: TrainingView) -> None:
    """Keep every setting of the tab in the browser, and fill the tab with them; menus are read anew."""
    kept = browser_store("schedule")
    fields = [run.fields[name] for name in FIELDS]
    more = [run.compare, *run.view, forward.at, forward.process, *training.controls]
    controls = dict(zip((*FIELDS, *MORE), [*fields, *more], strict=True))
    remember(controls, run.options, run.edits, run.revision, kept)

    def fill(saved: Any) -> list[Any]:
        models, limits = page.engine.models(), page.engine.limits
        values = recall_run(saved, page.registry, models, limits)
        model = gr.update(choices=list(models), value=values.pop("model") or None)
        values["steps"] = steps_update(values["steps"])
        looks = recall_more(saved, page.registry)
        updates = [recall_options(saved, page.registry), model, *values.values(), *looks.values(), RESTORED]
        return opening(updates, filled)

    filled = [run.options, *controls.values(), run.revision]
    blocks.load(fill, kept, filled, **QUIET)
