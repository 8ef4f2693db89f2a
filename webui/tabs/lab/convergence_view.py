"""The tool Convergence: samplers, what they are measured on, the plot, and a table of orders and errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import gradio as gr
from markupsafe import Markup

from webui.engine.convergence import BUDGETS, Convergence, Point, Reference, group, levels_of, make_convergence, orders
from webui.engine.events import Snapshot
from webui.engine.jobs import Job, TaskJob
from webui.engine.reference_problem import Candidate, Excluded
from webui.gradio_ext.gradio_events import Updates
from webui.tabs.form.describe import note, seconds_text
from webui.tabs.form.form import Form
from webui.tabs.form.job_events import JobEvents, View
from webui.tabs.form.page_context import Page
from webui.templates import render

from .figures import convergence_figure
from .lab_form import build_samplers, build_schedule, request_of
from .lab_text import ahead_text
from .tool_view import build_buttons, connect_cost, connect_tool

TOOL = "convergence"
PROBLEMS = [
    ("A mixture with a known answer: seconds, no model", "mixture"),
    ("The model, with the prompt above", "model"),
]
MAX_CALLS = (20, 40, 80, 160, 320, 640)
DEFAULT_SAMPLERS = ("DDIM", "Euler", "Heun", "DPM++ 2M", "UniPC", "Flow")
IDLE = (
    "Every sampler starts from the same noise, and its end is compared with the converged answer. "
    "The steeper a line falls, the more each further network call is worth."
)


def build_convergence(page: Page, form: Form) -> JobEvents:
    """Build the tab's content and wire it."""
    with gr.Column(elem_classes="card"):
        where = gr.Radio(PROBLEMS, value="mixture", label="On", elem_id=f"{TOOL}-where", interactive=True)
        chosen = build_samplers(page, TOOL, DEFAULT_SAMPLERS)
        with gr.Row():
            schedule = build_schedule(
                page,
                TOOL,
                "Exponential",
                "One that starts and ends where the model does, or its ends count as errors.",
            )
            most = gr.Dropdown(
                [(f"up to {count}", count) for count in MAX_CALLS],
                value=160,
                label="Network calls a picture",
                info="Adaptive samplers run over their tolerance instead.",
                elem_id=f"{TOOL}-most",
                interactive=True,
            )
    cost = gr.HTML(elem_id=f"{TOOL}-cost")
    buttons = build_buttons(TOOL, "Measure", IDLE)
    plot = gr.Plot(show_label=False, visible=False, elem_id=f"{TOOL}-plot")
    table = gr.HTML(elem_id=f"{TOOL}-table")

    def make(where: Any, names: Any, schedule: Any, most: Any, *given: Any) -> Convergence:
        # The mixture reads only the options of the form, whose other fields may be empty.
        if where == "model":
            on, options = request_of(form, given)
        else:
            on, options = None, form.values(given)["options"]
        kept = options["schedules"].get(schedule, {}) if isinstance(schedule, str) else {}
        chosen = [str(name) for name in names] if isinstance(names, list) else []
        # The browser may send anything; only known numbers of calls are used.
        limit = most if most in MAX_CALLS else 160
        budgets = [count for count in (*BUDGETS, 320, 640) if count <= limit]
        return make_convergence(page.engine, chosen, str(schedule or ""), on, options["samplers"], kept, budgets)

    def tell_cost(*given: Any) -> str:
        task = make(*given)
        counts = task.counts(levels_of(page.engine, task))
        return ahead_text("The reference and all runs" if task.model else "All runs", counts)

    inputs = [where, chosen, schedule, most, *form.inputs]
    # Only what changes the number of runs: the prompts are typed.
    watched = [where, chosen, schedule, most, form.fields["model"], form.edits, form.revision]
    connect_cost(cost, watched, inputs, tell_cost)
    return connect_tool(page, buttons, inputs, [plot, table], make, partial(_view, plot, table), _finished)


def results_table(
    task: Convergence, points: Sequence[Point], measured: Mapping[str, float | None], excluded: Sequence[Excluded]
) -> str:
    """Declared and measured order and the errors of each sampler; then the excluded ones, and why."""
    heads = ("sampler", "declared order", "measured", "errors, by network calls")
    declared = {one.label: _declared(one) for one in task.candidates}
    rows = []
    for label, own in group(points):
        order = measured.get(label)
        errors = " · ".join(f"{point.calls:.3g}: {point.error:.2g}" for point in own)
        found = "over tolerances" if own[0].adaptive else "" if order is None else f"{order:.2f}"
        rows.append((label, declared.get(label, ""), found, errors))
    table = render("tables", "table", heads, rows) if rows else Markup()
    return table + (render("lab", "excluded", excluded) if excluded else "")


def _declared(one: Candidate) -> str:
    try:
        order = one.sampler.order_of(**one.options)
    except Exception:  # a plugin's own function, which may fail
        return ""
    return "" if order is None else f"{order:g}"


def _view(plot: gr.Plot, table: gr.HTML, job: Job) -> View:
    assert isinstance(job, TaskJob) and isinstance(job.task, Convergence)
    task, drawn = job.task, -1

    async def show(now: Snapshot) -> Updates:
        nonlocal drawn
        points = [part for part in now.parts if isinstance(part, Point)]
        excluded = [part for part in now.parts if isinstance(part, Excluded)]
        reference = next((part for part in now.parts if isinstance(part, Reference)), None)
        doubt = reference.doubt if reference else 0.0
        measured = orders(points, doubt)
        html = results_table(task, points, measured, excluded)
        if reference:
            html = note(f"Errors are measured against {reference.text}.") + html
        updates: Updates = {table: html}
        if len(points) != drawn:
            drawn = len(points)
            figure = convergence_figure(points, measured, doubt) if points else None
            updates[plot] = gr.update(value=figure, visible=True) if points else gr.update(visible=False)
        return updates

    return show


def _finished(info: Mapping[str, Any]) -> str:
    return f"Measured with {info['calls']} network calls in {seconds_text(info['seconds'])}"
