"""The tour: noise, denoising, guidance and the sampler, each in some sentences and drawn by the model that is open."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from webui.core.menus import chosen_name
from webui.core.request import Request, RequestError
from webui.engine.events import Snapshot
from webui.engine.jobs import Job, TaskJob
from webui.gradio_ext.files import served
from webui.gradio_ext.gradio_events import QUIET, Updates, signal
from webui.tabs.form.controls import small_button
from webui.tabs.form.form import Form
from webui.tabs.form.job_events import JobEvents, View
from webui.tabs.form.page_context import Page
from webui.templates import render

from .axes import read_axis
from .compare import CellMade, CellResult, Compare
from .grid import make_grid
from .grid_table import grid_html
from .tool_view import build_buttons, connect_tool
from .trajectory import Frame, Trajectory, make_trajectory

TOOL = "tour"
PROMPT, STEPS, SEED = "red apple", 8, 1
IDLE = "Press Draw: these are real runs of the model that is open, of a few seconds each."
Axes = Sequence[tuple[str, str | list[str]]]


@dataclass(frozen=True)
class Stop:
    """A place of the tour: a grid over some axes, or, without any, a run of so many steps."""

    title: str
    text: str
    axes: Axes = ()
    steps: int = STEPS


STOPS = (
    Stop(
        "Noise",
        "Every picture begins as noise, which the seed makes: the same seed, the same noise. How much noise "
        "there is, is called sigma. At the start it is so much that nothing of any picture is left.",
        steps=1,
    ),
    Stop(
        "Denoise",
        "The network is shown the noisy state, above, and guesses the picture without noise, below. The first "
        "guesses are blurred: at so much noise only an average can be guessed. Each step takes away some "
        "noise, in the direction of the guess, and asks again. The schedule is the list of the sigmas in "
        "between.",
    ),
    Stop(
        "Guidance",
        "The network guesses twice: with your words and without. Guidance goes further in the direction in "
        "which the two differ. At 1 it is the guess with the words alone; much more follows the words harder, "
        "until colours burn out.",
        axes=(("guidance", "1, 2, 4, 8"),),
    ),
    Stop(
        "Sampler",
        "The sampler decides how a guess becomes the next state. Euler goes straight; Heun looks twice at "
        "each step; DPM++ 2M remembers the guess before; DDPM puts some fresh noise back. With few steps they "
        "differ most.",
        axes=(("sampler", ["Euler", "Heun", "DPM++ 2M", "DDPM"]), ("steps", "3, 6, 12")),
    ),
)


def build_tour(page: Page, form: Form) -> JobEvents:
    """Build the walk and wire it."""
    with gr.Walkthrough(selected=0, elem_classes="walk", elem_id=f"{TOOL}-walk") as walk:
        steps = []
        for number, stop in enumerate(STOPS):
            with gr.Step(stop.title, id=number) as step:
                gr.HTML(render("lab", "tour_text", stop.text))
                if number + 1 < len(STOPS):
                    after = small_button(f"Next: {STOPS[number + 1].title}", f"{TOOL}-next{number}", min_width=120)
                    steps.append((step, after))
                else:
                    steps.append((step, None))
    at = signal(name=f"{TOOL}-at")
    buttons = build_buttons(TOOL, "Draw", IDLE)
    drawn = gr.HTML(elem_id=f"{TOOL}-drawn")
    for number, (step, after) in enumerate(steps):
        step.select(None, None, at, js=f"() => {number}", **QUIET)
        if after is not None:
            go = after.click(None, None, at, js=f"() => {number + 1}", **QUIET)
            go.then(lambda number=number + 1: gr.Walkthrough(selected=number), None, walk, **QUIET)

    def make(at: Any, model: Any) -> Trajectory | Compare:
        number = int(at) if isinstance(at, int | float) and 0 <= at < len(STOPS) else 0
        return tour_task(page, STOPS[number], chosen_name(model))

    def view(job: Job) -> View:
        assert isinstance(job, TaskJob)
        task, files = job.task, dict[int, str]()

        async def show(now: Snapshot) -> Updates:
            if isinstance(task, Compare):
                results: dict[int, CellResult] = {each.index: each for each in now.parts}
                for index, each in results.items():
                    if isinstance(each, CellMade) and index not in files:
                        files[index] = await asyncio.to_thread(served, each.picture.path)
                return {drawn: grid_html(task.grid, results, files, now.state == "running")}
            # Of a run of one step, its start is what is meant.
            only = 1 if isinstance(task, Trajectory) and task.drawing.request.steps == 1 else None
            return {drawn: frames_html(now.parts[:only])}

        return show

    return connect_tool(page, buttons, [at, form.fields["model"]], [drawn], make, view, _finished)


def tour_task(page: Page, stop: Stop, model: str) -> Trajectory | Compare:
    """What a place of the tour draws with a model. Raises RequestError."""
    info = page.engine.models().get(model) or page.first_model
    if info is None:
        raise RequestError("There is no model to draw with.")
    prompt = info.card.examples[0].prompt if info.card and info.card.examples else PROMPT
    base = Request(prompt=prompt, model=info.name, steps=stop.steps, seed=SEED, guidance=info.defaults.guidance)
    if not stop.axes:
        return make_trajectory(page.engine, base)
    axes = [read_axis(kind, values, page.registry) for kind, values in stop.axes]
    return Compare(make_grid(page.engine, base, axes))


def frames_html(frames: Sequence[Frame]) -> str:
    """The states of a run, and below each the guess that led there."""
    return render("lab", "tour_frames", frames)


def _finished(info: Mapping[str, Any]) -> str:
    calls = info.get("nfe", info.get("calls", 0))
    return f"Drawn with {calls:g} network call{'s' if calls != 1 else ''}" if calls else "Drawn before"
