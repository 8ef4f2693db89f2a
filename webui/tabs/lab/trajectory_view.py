"""The tool Trajectory: state and estimate of every step under a slider, an animation, the numbers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from webui.core.storage import write_new
from webui.engine.events import Snapshot
from webui.engine.jobs import Job
from webui.gradio_ext.files import uploaded
from webui.gradio_ext.gradio_events import QUIET, Updates
from webui.tabs.form.controls import build_upload
from webui.tabs.form.describe import SMALL, note, summary
from webui.tabs.form.form import Form
from webui.tabs.form.job_events import JobEvents, View
from webui.tabs.form.page_context import Page
from webui.tabs.form.workbench import Workbench, newest_result, results_of
from webui.templates import render

from .figures import change_figure, gap_figure, noise_figure
from .lab_form import request_of
from .lab_text import ahead_text
from .replay_trajectory import replay_trajectory
from .tool_view import Start, build_buttons, connect_cost, connect_tool
from .trajectory import Frame, Trajectory, film, make_trajectory

TOOL = "trajectory"
IDLE = "Runs the settings above once, as Generate would, and keeps every step. The picture goes to outputs/ as always."
EXPLANATION = (
    "Left: the noise level after each step. Middle: how fast the state moves, for each unit of "
    "sigma, and how much the estimate changes: on a straight path both stay constant. Right: how far the estimate "
    "with the prompt is from the one without; guidance multiplies it."
)
REPLAY = (
    "Drop a picture that was made here, or take the last result: every step of its run is made again from "
    "what it carries, on the same sigmas, and the end is compared with it, bit for bit."
)
COLUMNS = (
    "step",
    "estimate at sigma",
    "state at sigma",
    "change of the state",
    "change of the estimate",
    "gap of guidance",
)


def build_trajectory(page: Page, form: Form, benches: Sequence[Workbench]) -> JobEvents:
    """Build the tab's content and wire it; `benches` have the last result."""
    cost = gr.HTML(elem_id=f"{TOOL}-cost")
    buttons = build_buttons(TOOL, "Run and watch", IDLE)
    opened, last = _build_replay()
    pair = gr.HTML(figures_of(None), elem_id=f"{TOOL}-pair")
    shown = gr.State(())
    with gr.Column(visible=False, elem_id=f"{TOOL}-after") as after:
        with gr.Row(elem_classes="scrub"):
            scrubber = gr.Slider(
                0, 1, value=0, step=1, label="Step", elem_id=f"{TOOL}-step", interactive=True, scale=4, buttons=[]
            )
            movie = gr.DownloadButton("Save as animated WebP", size="sm", elem_id=f"{TOOL}-film", scale=1)
        with gr.Row(elem_classes="plots"):
            plots = [gr.Plot(show_label=False, elem_id=f"{TOOL}-plot{i}", min_width=260) for i in range(3)]
        gr.HTML(note(EXPLANATION))
        with gr.Accordion("All numbers", open=False, elem_classes="card"):
            numbers = gr.HTML(elem_id=f"{TOOL}-numbers")

    def scrub(frames: Sequence[Frame], number: float) -> Any:
        if not frames or not isinstance(number, int | float):
            return gr.skip()
        return figures_of(frames[min(len(frames) - 1, max(0, int(number)))])

    scrubber.change(scrub, [shown, scrubber], pair, trigger_mode="always_last", **QUIET)

    engine = page.engine

    def make(*given: Any) -> Trajectory:
        request, _ = request_of(form, given)
        return make_trajectory(engine, request)

    def tell_cost(*given: Any) -> str:
        return ahead_text("One picture", [make(*given).drawing.plan.calls])

    # The prompts change nothing of it, and are typed.
    watched = [control for name, control in form.fields.items() if name not in ("prompt", "negative_prompt")]
    connect_cost(cost, [*watched, form.edits, form.revision], form.inputs, tell_cost)
    starts = (
        Start(opened.upload, [opened], lambda image: replay_trajectory(engine, uploaded(image))),
        Start(last.click, results_of(benches), lambda *given: replay_trajectory(engine, newest_result(given))),
    )

    def view(job: Job) -> View:
        async def show(now: Snapshot) -> Updates:
            frames: Sequence[Frame] = now.parts
            updates: Updates = {pair: figures_of(frames[-1] if frames else None)}
            if now.outcome is None or not frames:
                return updates | {after: gr.update(visible=False)}
            path = await asyncio.to_thread(_film, job.id, frames)
            figures = await asyncio.to_thread(lambda: [noise_figure(frames), change_figure(frames), gap_figure(frames)])
            return updates | {
                shown: frames,
                after: gr.update(visible=True),
                scrubber: gr.update(maximum=max(1, len(frames) - 1), value=len(frames) - 1),
                movie: gr.update(value=path, visible=path is not None),
                **dict(zip(plots, figures, strict=True)),
                numbers: numbers_table(frames),
            }

        return show

    outputs = [pair, shown, after, scrubber, movie, *plots, numbers]
    return connect_tool(page, buttons, form.inputs, outputs, make, view, _finished, starts)


def _build_replay() -> tuple[gr.Image, gr.Button]:
    """Build the upload and the button for a finished picture whose run is replayed."""
    with gr.Row(elem_classes="again"):
        opened = build_upload(f"{TOOL}-file", "A finished picture", 120, clipboard=False, min_width=200, scale=2)
        with gr.Column(min_width=220, scale=3):
            gr.HTML(note(REPLAY))
            last = gr.Button("Last result", size="sm", elem_id=f"{TOOL}-last", min_width=0)
    return opened, last


def figures_of(frame: Frame | None) -> str:
    """State and estimate of a step side by side; before the first step, what will be there."""
    if frame is None:
        texts = ("The state, as the network sees it", "What the network makes of it")
        return render("lab", "moment", [_half(text=text) for text in texts])
    where = f"step {frame.number}" if frame.number else "start"
    state = _half(frame.state, f"State after {where}", "State", f", {where}: sigma {frame.sigma:.3g}")
    if frame.denoised is None:
        return render("lab", "moment", [state, _half(text="Nothing asked of the network yet")])
    made = f", made at sigma {frame.seen:.3g}" if frame.seen is not None else ""
    alt = f"Estimate of the finished picture at {where}"
    return render("lab", "moment", [state, _half(frame.denoised, alt, "Estimate", f" that led there{made}")])


def numbers_table(frames: Sequence[Frame]) -> str:
    """Every step's numbers."""
    return render("tables", "table", COLUMNS, [_numbers(frame) for frame in frames])


def _numbers(frame: Frame) -> list[str]:
    values = (frame.seen, frame.sigma, frame.change, frame.estimate_change, frame.gap)
    return [str(frame.number), *("" if value is None else f"{value:.4g}" for value in values)]


def _half(png: bytes = b"", alt: str = "", title: str = "", text: str = "") -> dict[str, Any]:
    # The width is bytes 16 to 20 of a PNG: small pictures show their pixels.
    return dict(png=png, alt=alt, title=title, text=text, small=int.from_bytes(png[16:20], "big") <= SMALL)


def _finished(info: Mapping[str, Any]) -> str:
    """The run in a line; empty for a stopped one, which finished no picture."""
    if info["stopped"]:
        return ""
    return " · ".join([summary(info), *([info["comparison"]] if "comparison" in info else [])])


def _film(name: str, frames: Sequence[Frame]) -> str | None:
    """Write the animation where Gradio serves files from; None if it cannot be written."""
    path = Path(get_upload_folder()) / f"trajectory-{name}" / "sigmalab-trajectory.webp"
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_new(path, film(frames))
        return str(path)
    except OSError:
        return None
