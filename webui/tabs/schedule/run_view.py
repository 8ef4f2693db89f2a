"""The first part of the Schedule tab: the sigmas of a run as curves, text and numbers."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from webui.core.fields import fields_of
from webui.core.menus import chosen_name, schedules_in_order
from webui.core.request import Request, RequestError
from webui.gradio_ext.gradio_events import QUIET, gather, on_change, on_choice, signal
from webui.gradio_ext.option_rows import connect_options
from webui.tabs.form.controls import build_control, build_group, build_hires, build_model_menu
from webui.tabs.form.form_state import fresh, recall_options
from webui.tabs.form.page_context import Page
from webui.tabs.form.plugin_menus import build_plugin_options, build_sampler_menu, build_schedule_menu

from .curves import AGAINST, LOGS, MEASURES, Curve
from .run_plot import FIELDS, dry_run_or_reason, own_curves, plan_from, redraw
from .schedule_state import LOOKS, WHOLE

SLIDER_STEPS = 150  # the slider's usual end; a loaded run or a pasted list may have more
MAX_KEPT = 8  # curves


@dataclass(frozen=True, eq=False)
class RunView:
    """The controls by the names of FIELDS, what is drawn, and the states behind it.

    options   as in `webui.tabs.form.form.Form`; `revision` and `edits` too
    kept      the curves that were kept, a list of Curve
    loaded    the finished run that is shown, a RecordedRun or None
    compare   names of more schedules
    looks     how the curves are drawn: measure, against, logs
    """

    fields: Mapping[str, gr.components.Component]
    options: gr.State
    revision: gr.Number
    edits: gr.Number
    kept: gr.State
    loaded: gr.State
    compare: gr.Dropdown
    looks: Sequence[gr.components.Component]
    plot: gr.Plot
    sentence: gr.HTML
    facts: gr.HTML
    listed: gr.Textbox

    @property
    def inputs(self) -> list[gr.components.Component]:
        """The inputs of `redraw`."""
        return [
            self.options,
            self.kept,
            self.loaded,
            self.compare,
            *self.looks,
            *(self.fields[name] for name in FIELDS),
        ]

    @property
    def outputs(self) -> list[gr.components.Component]:
        """The outputs of `redraw`."""
        return [self.plot, self.sentence, self.facts, self.listed, self.fields["schedule"]]


def build_fields(page: Page) -> dict[str, Any]:
    """The controls of the run, and the hidden ones behind them: arguments of RunView."""
    registry, described = page.registry, fields_of(Request)
    start = fresh(registry, page.first_model)
    store = gr.State(recall_options(None, registry))
    revision, edits = (signal(name=f"schedule-{name}") for name in ("revision", "edits"))
    with gr.Column(elem_classes="card"):
        model = build_model_menu(page, "schedule", start["model"])
        sampler = build_sampler_menu(registry, "schedule", start["sampler"])
        menu = build_schedule_menu(registry, "schedule")
        boxes = (
            build_plugin_options(page, "schedule", "samplers", sampler),
            build_plugin_options(page, "schedule", "schedules", menu),
        )
        connect_options(boxes, store, revision, edits)
        most = min(SLIDER_STEPS, page.engine.limits.steps)
        steps = build_control(described["steps"], "schedule", maximum=most, step=1)
        strength = build_control(
            described["strength"],
            "schedule",
            value=WHOLE["strength"],
            info="1 is a picture from words; below it, img2img.",
        )
        meaning = build_control(described["strength_as"], "schedule")
        with gr.Accordion("Guidance", open=False, elem_id="schedule-guided", elem_classes="more"):
            info = "1 is none; where it acts, the curve has a halo."
            scale = build_control(described["guidance"], "schedule", value=start["guidance"], info=info)
            interval = build_group("schedule", "interval")
        second = build_hires(page, "schedule", of_sizes=False)
    controls = dict(model=model, sampler=sampler, schedule=menu, steps=steps, strength=strength, strength_as=meaning)
    controls |= dict(guidance=scale) | interval | second
    fields = {name: controls[name] for name in FIELDS}
    return dict(fields=fields, options=store, revision=revision, edits=edits)


def build_plot(page: Page) -> dict[str, Any]:
    """The plot with its controls and the texts below it: arguments of RunView."""
    with gr.Row(elem_classes="looks"):
        measure = gr.Radio(
            list(MEASURES),
            value=LOOKS["measure"],
            label="Show",
            elem_id="schedule-measure",
            interactive=True,
            min_width=280,
            scale=4,
        )
        against = gr.Radio(
            list(AGAINST),
            value=LOOKS["against"],
            label="Against",
            elem_id="schedule-against",
            interactive=True,
            min_width=160,
            scale=1,
        )
        logs = gr.CheckboxGroup(
            list(LOGS),
            value=LOOKS["logs"],
            label="Log axes",
            elem_id="schedule-logs",
            interactive=True,
            min_width=190,
            scale=2,
        )
    with gr.Column(elem_classes="plot-place"):
        plot = gr.Plot(show_label=False, elem_id="schedule-plot", elem_classes="plot")
    sentence = gr.HTML(elem_id="schedule-sentence")
    about = gr.HTML(elem_id="schedule-facts")
    compare = gr.Dropdown(
        schedules_in_order(page.registry.schedules),
        value=[],
        multiselect=True,
        label="Compare with",
        info="More schedules over this one, with the same steps and strength. "
        "A click on a name in the legend hides it.",
        elem_id="schedule-compare",
        interactive=True,
    )
    listed = gr.Textbox(
        label="The sigmas of this run",
        lines=3,
        max_lines=6,
        interactive=False,
        buttons=["copy"],
        elem_id="schedule-list",
        elem_classes="numbers",
    )
    return dict(
        looks=(measure, against, logs), plot=plot, sentence=sentence, facts=about, compare=compare, listed=listed
    )


def connect_run_view(page: Page, view: RunView, keep: gr.Button, clear: gr.Button) -> None:
    """Redraw on every change, and keep or forget curves."""

    def update(*given: Any) -> list[Any]:
        return redraw(page.engine, *given)

    controls = [view.fields[name] for name in FIELDS] + [view.compare, *view.looks]
    # Restored settings change `revision`, too, so that a page that restores nothing is drawn.
    watched = [*controls, view.edits, view.revision]
    on_change(watched, update, view.inputs, view.outputs, since=view.revision, **QUIET)

    model = view.fields["model"]
    # Only a visitor's choice: settings that are put in bring their own guidance.
    on_choice(model, lambda name: _usual_guidance(page, name), model, view.fields["guidance"], **QUIET)

    def keep_curve(*given: Any) -> tuple[Any, float]:
        kept = given[1]
        try:
            preview = plan_from(page.engine, given[0], given[-len(FIELDS) :])
            shown = own_curves(preview, dry_run_or_reason(preview)[0])[0]
        except RequestError as error:
            gr.Warning(str(error))
            return gr.skip(), gr.skip()
        return [*kept, Curve(shown.name, shown.places, shown.sigmas)][-MAX_KEPT:], time.time()

    gather(keep.click, keep_curve, view.inputs, [view.kept, view.edits], **QUIET)
    clear.click(lambda: ([], None, [], time.time()), None, [view.kept, view.loaded, view.compare, view.edits], **QUIET)


def _usual_guidance(page: Page, name: str | None) -> Any:
    model_info = page.engine.models().get(chosen_name(name))
    return model_info.defaults.guidance if model_info else gr.skip()


def steps_update(steps: Any) -> Any:
    """The steps slider at this value, longer if it has to be."""
    reach = max(SLIDER_STEPS, steps) if isinstance(steps, int) else SLIDER_STEPS
    return gr.update(value=steps, maximum=reach)
