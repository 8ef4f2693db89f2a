"""Convergence on the page: which samplers, on what, the plot as it fills, and the numbers behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr
from markupsafe import Markup

from webui.core.menus import in_order, schedules_in_order
from webui.engine.events import Snapshot
from webui.engine.jobs import Job
from webui.tabs.form.describe import note, seconds_text
from webui.tabs.form.page_context import Page
from webui.templates import render

from .convergence import BUDGETS, Convergence, Excluded, Point, Reference, group, levels_of, make_convergence, orders
from .figures import convergence_figure
from .lab_form import Settings, request_of
from .lab_text import ahead_text
from .reference_problem import Entrant
from .tool_view import Tool, View, build_buttons, connect_cost, connect_tool

MODE = "convergence"
WHERE = [("A mixture with a known answer: seconds, no model", "mixture"), ("The model, with the prompt above", "model")]
MOST = (20, 40, 80, 160, 320, 640)
FIRST = ("DDPM", "DDIM", "Euler", "Heun", "DPM++ 2M", "UniPC", "Flow")
IDLE = (
    "Every sampler starts from the same noise, and its end is compared with the converged answer. "
    "The steeper a line falls, the more each further network call is worth."
)


def build_convergence(page: Page, settings: Settings) -> Tool:
    """Build the tab's content and wire it."""
    registry = page.registry
    names, schedules = in_order(registry.samplers), schedules_in_order(registry.schedules)
    with gr.Column(elem_classes="card"):
        where = gr.Radio(WHERE, value="mixture", label="On", elem_id=f"{MODE}-where", interactive=True)
        chosen = gr.Dropdown(
            names,
            value=[name for name in FIRST if name in names],
            multiselect=True,
            label="Samplers",
            elem_id=f"{MODE}-samplers",
            interactive=True,
        )
        with gr.Row():
            schedule = gr.Dropdown(
                schedules,
                value="Exponential" if "Exponential" in schedules else schedules[0] if schedules else None,
                label="Schedule",
                info="One that starts and ends where the model does, or its ends count as errors.",
                elem_id=f"{MODE}-schedule",
                interactive=True,
            )
            most = gr.Dropdown(
                [(f"up to {count}", count) for count in MOST],
                value=160,
                label="Network calls a picture",
                info="Adaptive samplers run over their tolerance instead.",
                elem_id=f"{MODE}-most",
                interactive=True,
            )
    cost = gr.HTML(elem_id=f"{MODE}-cost")
    buttons = build_buttons(MODE, "Measure", IDLE)
    plot = gr.Plot(show_label=False, visible=False, elem_id=f"{MODE}-plot")
    table = gr.HTML(elem_id=f"{MODE}-table", elem_classes="plugins")

    def make(where: Any, names: Any, schedule: Any, most: Any, *given: Any) -> Convergence:
        # A form that is not filled in yet is no hindrance to the mixture, which reads its options only.
        if where == "model":
            on, options = request_of(settings.form, given)
        else:
            on, options = None, settings.form.values(given)["options"]
        kept = options["schedules"].get(schedule, {}) if isinstance(schedule, str) else {}
        picked = [str(name) for name in names] if isinstance(names, list) else []
        # What the browser sends may be anything; a measurement of nothing but known sizes is made of it.
        limit = most if most in MOST else 160
        budgets = [count for count in (*BUDGETS, 320, 640) if count <= limit]
        return make_convergence(page.engine, picked, str(schedule or ""), on, options["samplers"], kept, budgets)

    def tell_cost(*given: Any) -> str:
        task = make(*given)
        counts = task.counts(levels_of(page.engine, task))
        return ahead_text("The reference and all runs" if task.model else "All runs", counts)

    form = settings.form
    inputs = [where, chosen, schedule, most, *form.inputs]
    # Of the form only what changes the runs: the rest is typed or drawn.
    watched = [where, chosen, schedule, most, form.fields["model"], form.edits, form.revision]
    connect_cost(cost, watched, inputs, tell_cost)
    return connect_tool(page, buttons, inputs, [plot, table], make, _view, _finished)


def results_table(
    task: Convergence, points: Sequence[Point], found: Mapping[str, float | None], excluded: Sequence[Excluded]
) -> str:
    """Declared and measured order, and the errors; then who is left out, and why."""
    heads = ("sampler", "declared order", "measured", "errors, by network calls")
    declared = {one.label: _declared(one) for one in task.contestants}
    rows = []
    for label, own in group(points):
        order = found.get(label)
        errors = " · ".join(f"{point.calls:.3g}: {point.error:.2g}" for point in own)
        rows.append((label, declared.get(label, ""), "" if order is None else f"{order:.2f}", errors))
    table = render("tables", "table", heads, rows) if rows else Markup()
    return table + (render("lab", "excluded", excluded) if excluded else "")


def _declared(one: Entrant) -> str:
    try:
        order = one.sampler.order_of(**one.options)
    except Exception:  # a plugin's own function; the measured one tells more
        return ""
    return "" if order is None else f"{order:g}"


def _view(job: Job) -> View:
    task: Convergence = job.task
    drawn = -1

    async def show(now: Snapshot) -> list[Any]:
        nonlocal drawn
        points, excluded, references = (
            [part for part in now.parts if isinstance(part, kind)] for kind in (Point, Excluded, Reference)
        )
        doubt = references[0].doubt if references else 0.0
        found = orders(points, doubt)
        text = results_table(task, points, found, excluded)
        if references:
            text = note(f"Errors are measured against {references[0].text}.") + text
        if len(points) == drawn:
            return [gr.skip(), text]
        drawn = len(points)
        return [
            gr.update(value=convergence_figure(points, found, doubt), visible=True)
            if points
            else gr.update(visible=False),
            text,
        ]

    return show


def _finished(info: Mapping[str, Any]) -> str:
    return f"Measured with {info['calls']} network calls in {seconds_text(info['seconds'])}"
