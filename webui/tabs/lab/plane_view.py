"""The tool "Paths in 2-D": a density, the flow's arrows at a noise level, and the paths of samplers."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from samplers.schedule import noise_share, stable_diffusion
from webui.core.limits import SEEDS
from webui.engine.events import Snapshot
from webui.engine.jobs import Job, TaskJob
from webui.gradio_ext.gradio_events import QUIET, Updates, on_choice, signal
from webui.tabs.form.describe import note, percent, seconds_text
from webui.tabs.form.form import Form
from webui.tabs.form.job_events import JobEvents, View
from webui.tabs.form.page_context import Page

from .figures import plane_figure
from .lab_form import build_samplers, build_schedule
from .lab_text import ahead_text
from .plane import DENSITIES, MOST_POINTS, MOST_STEPS, PathFailed, PlanePath, PlaneTask, make_paths
from .tool_view import build_buttons, connect_cost, connect_tool

TOOL = "plane"
DEFAULT_SAMPLERS = ("DDPM", "DDIM", "Euler", "Heun", "Flow")
MAX_LEVEL = 100  # the noise slider's value for sigma max
DEFAULT_LEVEL = 45
IDLE = "Every sampler starts from the same points and follows them down to the data."
EXPLANATION = (
    "With their own defaults DDIM and Euler draw one line. DDPM draws fresh noise at every step, so its path is "
    "jagged. Heun evaluates each step twice and stays nearer to the exact flow, the dashed line. Flow chooses its own "
    "steps: long ones where the path is straight."
)


def build_plane(page: Page, form: Form, tab: gr.Tab) -> JobEvents:
    """Build the tab's content and wire it; the first picture is drawn when the tab is opened."""
    with gr.Row(elem_classes="plane"):
        with gr.Column(elem_classes="compose", min_width=300, scale=2):
            with gr.Column(elem_classes="card"):
                density = gr.Dropdown(
                    list(DENSITIES),
                    value=next(iter(DENSITIES)),
                    label="Data",
                    elem_id=f"{TOOL}-density",
                    interactive=True,
                )
                chosen = build_samplers(page, TOOL, DEFAULT_SAMPLERS)
                schedule = build_schedule(page, TOOL, "Karras")
                steps = gr.Slider(
                    1, MOST_STEPS, value=10, step=1, label="Steps", elem_id=f"{TOOL}-steps", interactive=True
                )
                with gr.Row():
                    points = gr.Slider(
                        1,
                        MOST_POINTS,
                        value=3,
                        step=1,
                        label="Points",
                        elem_id=f"{TOOL}-points",
                        interactive=True,
                        min_width=140,
                    )
                    seed = gr.Number(
                        0,
                        label="Seed",
                        precision=0,
                        minimum=0,
                        maximum=SEEDS - 1,
                        elem_id=f"{TOOL}-seed",
                        interactive=True,
                        min_width=90,
                    )
            cost = gr.HTML(elem_id=f"{TOOL}-cost")
            buttons = build_buttons(TOOL, "Draw paths", IDLE)
            gr.HTML(note(EXPLANATION))
            failed = gr.HTML(elem_id=f"{TOOL}-failed")
        with gr.Column(min_width=320, scale=3):
            level = gr.Slider(
                0,
                MAX_LEVEL,
                value=DEFAULT_LEVEL,
                step=1,
                label="Noise level: density, arrows and marks",
                info="0 is the data, 100 is all noise",
                elem_id=f"{TOOL}-level",
                interactive=True,
                buttons=[],
            )
            explained = gr.HTML(note_of(DEFAULT_LEVEL), elem_id=f"{TOOL}-note")
            plot = gr.Plot(show_label=False, elem_id=f"{TOOL}-plot")
    # A hidden number, since the change event of a state can get lost while a page is being opened.
    paths, changed = gr.State(()), signal()

    def draw(density: Any, level: Any, kept: Sequence[PlanePath]) -> list[Any]:
        if not isinstance(density, str) or density not in DENSITIES or not isinstance(level, int | float):
            return [gr.skip()] * 2
        return [note_of(level), plane_figure(DENSITIES[density](), sigma_at(level), kept)]

    triggers = [level.change, changed.change, tab.select]
    gr.on(triggers, draw, [density, level, paths], [explained, plot], trigger_mode="always_last", **QUIET)
    # Other data: the paths drawn belong to the old ones.
    on_choice(
        density,
        lambda density, level: [(), *draw(density, level, ())],
        [density, level],
        [paths, explained, plot],
        **QUIET,
    )

    def make(density: Any, names: Any, schedule: Any, steps: Any, points: Any, seed: Any, options: Any) -> PlaneTask:
        chosen = [str(name) for name in names] if isinstance(names, list) else []
        kept = options["schedules"].get(schedule, {}) if isinstance(schedule, str) else {}
        return make_paths(
            page.engine, str(density), chosen, str(schedule or ""), steps, points, seed, options["samplers"], kept
        )

    def tell_cost(*given: Any) -> str:
        counts = make(*given).counts
        return ahead_text(f"{len(counts)} paths, with the exact ones", counts, "call")

    inputs = [density, chosen, schedule, steps, points, seed, form.options]
    connect_cost(cost, [chosen, schedule, steps, points, seed, form.edits, form.revision], inputs, tell_cost)

    def view(job: Job) -> View:
        assert isinstance(job, TaskJob) and isinstance(job.task, PlaneTask)
        task = job.task

        async def show(now: Snapshot) -> Updates:
            failures = [part for part in now.parts if isinstance(part, PathFailed)]
            reasons = {part.label: note(f"{part.label}: {part.reason}", problem=True) for part in failures}
            updates: Updates = {failed: "".join(reasons.values())}
            if now.outcome is not None:
                drawn = tuple(part for part in now.parts if isinstance(part, PlanePath))
                updates |= {density: task.name, paths: drawn, changed: time.time()}
            return updates

        return show

    return connect_tool(page, buttons, inputs, [density, paths, changed, failed], make, view, _finished)


def sigma_at(level: float) -> float:
    """The sigma of a slider value: even in log sigma over Stable Diffusion's range."""
    levels = stable_diffusion()
    share = min(1.0, max(0.0, level / MAX_LEVEL))
    return levels.sigma_min * (levels.sigma_max / levels.sigma_min) ** share


def note_of(level: float) -> str:
    """What the plot shows at a noise level."""
    sigma = sigma_at(level)
    return note(
        f"sigma {sigma:.3g}, {percent(noise_share(sigma))} noise. Green is where noised data are at this level, "
        f"grey arrows are the direction of the flow, the large marks are where each path is at this level."
    )


def _finished(info: Mapping[str, Any]) -> str:
    return f"Drawn with {info['calls']} calls of the denoiser in {seconds_text(info['seconds'])}"
