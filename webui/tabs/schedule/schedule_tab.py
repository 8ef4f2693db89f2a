"""The tab Schedule: the sigmas of a run, a picture with noise, and training schedules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from webui.core.menus import schedules_in_order
from webui.gradio_ext.gradio_events import QUIET, RESTORED, Updates, gather, opening
from webui.tabs.form.controls import small_button
from webui.tabs.form.describe import note
from webui.tabs.form.form_events import remember
from webui.tabs.form.form_state import recall_options
from webui.tabs.form.page_context import Page
from webui.tabs.form.plugin_menus import plugin_choices
from webui.tabs.form.workbench import Workbench
from webui.templates import render

from .forward_view import ForwardView, build_forward, connect_forward
from .run_plot import FIELDS
from .run_view import RunView, build_fields, build_plot, connect_run_view, steps_update
from .schedule_state import MORE, recall_more, recall_run
from .tab_transfer import connect_loading, connect_paste, connect_taking, connect_using
from .training_view import TrainingView, build_training, connect_training


@dataclass(frozen=True, eq=False)
class RunPart:
    """The first part, with what has to be connected to the rest of the page."""

    view: RunView
    last: gr.Button
    opened: gr.UploadButton
    message: gr.HTML
    take: dict[str, gr.Button]
    use: dict[str, gr.Button]


def build_schedule(page: Page, blocks: gr.Blocks, benches: Sequence[Workbench], tabs: gr.Tabs) -> None:
    """Build the tab's content, filled as the browser kept it; `benches` are the forms that it takes from and fills."""
    with gr.Tabs(elem_classes="parts", overflow_behavior="wrap"):
        with gr.Tab("The run", id="schedule-run"):
            parts = _build_run(page)
        with gr.Tab("A picture into noise", id="schedule-forward") as forward_tab:
            forward = build_forward()
        with gr.Tab("How models are trained", id="schedule-training") as training_tab:
            training = build_training()
    view = parts.view
    connect_loading(page, view, benches, parts.opened, parts.last, parts.message)
    connect_forward(page, view, forward, benches, forward_tab)
    connect_training(page, view, training, training_tab)
    for bench in benches:
        connect_taking(view, bench, parts.take[bench.mode])
        connect_using(page, view, bench, tabs, parts.use[bench.mode])
    _connect_restore(page, blocks, view, forward, training)


def _connect_restore(page: Page, blocks: gr.Blocks, run: RunView, forward: ForwardView, training: TrainingView) -> None:
    """Store every setting of the tab in the browser, and restore them now."""
    kept = page.kept["schedule"]
    fields = [run.fields[name] for name in FIELDS]
    more = [run.compare, *run.looks, forward.at, forward.process, *training.controls]
    controls = dict(zip((*FIELDS, *MORE), [*fields, *more], strict=True))
    remember(controls, run.options, run.edits, run.revision, kept)

    def fill(saved: Any) -> Updates:
        models, limits = page.engine.models(), page.engine.limits
        values = recall_run(saved, page.registry, models, limits)
        model = gr.update(choices=list(models), value=values.pop("model") or None)
        values["steps"] = steps_update(values["steps"])
        looks = recall_more(saved, page.registry)
        # The page itself has the menus that it was built with.
        if page.engine.reloads:
            choices = plugin_choices(page.registry)
            values |= {name: gr.update(value=values[name], choices=choices[name]) for name in ("sampler", "schedule")}
            looks["compare"] = gr.update(value=looks["compare"], choices=schedules_in_order(page.registry.schedules))
        updates = [recall_options(saved, page.registry), model, *values.values(), *looks.values(), RESTORED]
        return opening(dict(zip(filled, updates, strict=True)))

    filled = [run.options, *controls.values(), run.revision]
    for changed in (blocks.load, page.plugins.change):
        gather(changed, fill, kept, filled, **QUIET)


def _build_run(page: Page) -> RunPart:
    with gr.Row(elem_classes="bench visual"):
        with gr.Column(elem_classes="compose"):
            fields = build_fields(page)
        with gr.Column(elem_classes="result"):
            drawn = build_plot(page)
            with gr.Column(elem_classes="card"):
                parts = ("#schedule-paste textarea", "#schedule-list textarea", "#schedule-paste-use")
                gr.HTML(render("schedule", "curve_editor", *parts))
                pasted = gr.Textbox(
                    label="Your own list",
                    placeholder="14.6, 6.5, 3.9, 2.7, 1.9, 1.4, 0.96, 0.65, 0.4, 0.15",
                    lines=2,
                    max_lines=6,
                    elem_id="schedule-paste",
                    elem_classes="numbers",
                    interactive=True,
                )
                draw_it = small_button("Use as the schedule Custom", "schedule-paste-use")
                answer = gr.HTML(elem_id="schedule-paste-message")
        with gr.Column(elem_classes="controls"):
            with gr.Column(elem_classes="card"):
                gr.HTML("<h2>Settings of the forms</h2>")
                take, use = _buttons("take", "Take from {}"), _buttons("use", "Use in {}")
            with gr.Column(elem_classes="card"):
                gr.HTML("<h2>More curves</h2>")
                with gr.Row(elem_classes="small-buttons"):
                    keep = small_button("Keep this curve", "schedule-keep")
                    clear = small_button("Clear", "schedule-clear")
                    last = small_button("Last result", "schedule-last")
                    opened = gr.UploadButton(
                        "Open a picture", file_types=[".png"], size="sm", scale=0, min_width=0, elem_id="schedule-open"
                    )
                gr.HTML(note("A picture made here carries the sigmas that ran: they are drawn with the same code."))
                message = gr.HTML(elem_id="schedule-message")
    view = RunView(**fields, **drawn, kept=gr.State([]), loaded=gr.State(None))
    connect_run_view(page, view, keep, clear)
    connect_paste(page, view, pasted, draw_it, answer)
    return RunPart(view=view, last=last, opened=opened, message=message, take=take, use=use)


def _buttons(verb: str, text: str) -> dict[str, gr.Button]:
    with gr.Row(elem_classes="small-buttons"):
        return {mode: small_button(text.format(mode), f"schedule-{verb}-{mode}") for mode in ("txt2img", "img2img")}
