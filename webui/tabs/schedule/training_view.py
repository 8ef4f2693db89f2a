"""The third part of the Schedule tab: training noise schedules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from webui.core.menus import chosen_name
from webui.core.request import RequestError
from webui.gradio_ext.gradio_events import QUIET, on_change
from webui.tabs.form.describe import note, problem
from webui.tabs.form.page_context import Page

from .run_view import RunView
from .schedule_state import TRAINING
from .training_curves import (
    HIGHEST,
    KINDS,
    LARGEST_SHIFT,
    LOWEST,
    SHOWN,
    draw_training,
    explanation,
    training_curves,
    training_table,
)


@dataclass(frozen=True, eq=False)
class TrainingView:
    """The controls, in the order that `show` takes them, and what they show."""

    controls: tuple[gr.components.Component, ...]
    plot: gr.Plot
    sentence: gr.HTML
    table: gr.HTML

    @property
    def outputs(self) -> list[gr.components.Component]:
        """What `show` returns updates for."""
        return [self.plot, self.sentence, self.table]


def build_training() -> TrainingView:
    """Build the part's content."""
    with gr.Row(elem_classes="bench visual"):
        with gr.Column(elem_classes="compose"):
            with gr.Column(elem_classes="card"):
                kinds = gr.CheckboxGroup(
                    list(KINDS), value=TRAINING["kinds"], label="Trainings", elem_id="training-kinds", interactive=True
                )
                with gr.Row():
                    start, end = (
                        gr.Number(
                            value,
                            label=label,
                            minimum=LOWEST,
                            maximum=HIGHEST,
                            elem_id=f"training-{name}",
                            interactive=True,
                            min_width=120,
                        )
                        for name, label, value in (
                            ("start", "First beta", TRAINING["start"]),
                            ("end", "Last beta", TRAINING["end"]),
                        )
                    )
                zero = gr.Checkbox(
                    TRAINING["zero"],
                    label="Zero terminal SNR",
                    info="Rescale, so that nothing of the picture is left at the end.",
                    elem_id="training-zero",
                    interactive=True,
                )
                shift = gr.Slider(
                    1,
                    LARGEST_SHIFT,
                    value=TRAINING["shift"],
                    step=0.1,
                    label="Flow shift",
                    info="More time at high noise, for larger pictures.",
                    elem_id="training-shift",
                    interactive=True,
                )
        with gr.Column(elem_classes="result"):
            with gr.Row(elem_classes="looks"):
                measure = gr.Radio(
                    list(SHOWN), value=TRAINING["shown"], label="Show", elem_id="training-measure", interactive=True
                )
            with gr.Column(elem_classes="plot-place"):
                plot = gr.Plot(show_label=False, elem_id="training-plot", elem_classes="plot")
            sentence = gr.HTML(elem_id="training-sentence")
            table = gr.HTML(elem_id="training-table")
    return TrainingView((kinds, start, end, zero, shift, measure), plot, sentence, table)


def connect_training(page: Page, run: RunView, view: TrainingView, tab: gr.Tab) -> None:
    """Redraw on every change, and over another model's own training."""

    def update(*given: Any) -> list[Any]:
        return show(page, *given)

    model = run.fields["model"]
    watched, inputs = [*view.controls, model, run.revision], [model, *view.controls]
    on_change(watched, update, inputs, view.outputs, since=run.revision, tab=tab, **QUIET)


def show(page: Page, model: Any, kinds: Any, start: Any, end: Any, zero: Any, shift: Any, measure: Any) -> list[Any]:
    """Updates for TrainingView.outputs. A wrong setting shows its error and leaves the plot as it is."""
    models = page.engine.models()
    model_info = models.get(chosen_name(model)) or next(iter(models.values()), None)
    try:
        if model_info is None:
            raise RequestError("No model was found; put a diffusers folder into weights/.")
        curves = training_curves(kinds or (), start, end, bool(zero), shift)
        drawing = draw_training(curves, model_info.schedule, model_info.name, measure)
    except RequestError as error:
        return [gr.skip(), problem(str(error)), gr.skip()]
    return [drawing, note(explanation(measure, bool(zero), shift)), training_table(curves)]
