"""The Schedule tab over a reload: what the browser keeps is put back when the page is opened."""

from __future__ import annotations

from typing import Any

import gradio as gr

from ..form.form_events import browser_store
from ..form.memory import RESTORED, recall_options
from ..shared import QUIET, RAW, Page, on_change, opening
from .forward_view import ForwardView
from .memory import MORE, recall_more, recall_run
from .redraw import FIELDS
from .run_view import RunView, steps_update
from .training_view import TrainingView


def connect_keeping(page: Page, blocks: gr.Blocks, run: RunView, forward: ForwardView, training: TrainingView) -> None:
    """Keep every setting of the tab in the browser, and fill the tab with them; menus are read anew."""
    kept = browser_store("schedule")
    fields = [run.fields[name] for name in FIELDS]
    more = [run.compare, *run.view, forward.at, forward.process, *training.controls]
    names = (*FIELDS, *MORE)

    def keep(revision: float, options: dict[str, Any], *given: Any) -> Any:
        # Before the browser's own values are in the tab, the defaults must not overwrite them.
        return {"options": options, **dict(zip(names, given, strict=True))} if revision else gr.skip()

    # `revision`, too: a pasted list or a form's settings change options without an edit.
    watched = [*fields, *more, run.edits, run.revision]
    inputs = [run.revision, run.options, *fields, *more]
    on_change(watched, keep, inputs, kept, **QUIET, **RAW)

    def fill(saved: Any) -> list[Any]:
        models, limits = page.engine.models(), page.engine.limits
        values = recall_run(saved, page.registry, models, limits)
        model = gr.update(choices=list(models), value=values.pop("model") or None)
        values["steps"] = steps_update(values["steps"])
        looks = recall_more(saved, page.registry)
        updates = [recall_options(saved, page.registry), model, *values.values(), *looks.values(), RESTORED]
        return opening(updates, filled)

    filled = [run.options, *fields, *more, run.revision]
    blocks.load(fill, kept, filled, **QUIET)
