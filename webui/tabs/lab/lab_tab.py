"""The tab Lab: compare, watch, measure and understand samplers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import gradio as gr

from webui.gradio_ext.gradio_events import QUIET
from webui.tabs.form.form import Form
from webui.tabs.form.job_events import JobEvents
from webui.tabs.form.page_context import Page
from webui.tabs.form.workbench import Workbench

from .axes_view import AxesView, build_axes
from .compare_view import TOOL as COMPARE
from .compare_view import build_compare
from .convergence_view import build_convergence
from .lab_form import build_settings
from .plane_view import build_plane
from .trajectory_view import build_trajectory


@dataclass(frozen=True, eq=False)
class Lab:
    """The shared form, the axes of a grid, and the tools, each with a job of its own."""

    form: Form
    axes: AxesView
    tools: tuple[JobEvents, ...]


def build_lab(page: Page, benches: Sequence[Workbench]) -> Lab:
    """Build the tab's content; `benches` have the last result."""
    with gr.Column(elem_classes="lab"):
        settings = build_settings(page)
        with gr.Tabs(elem_classes="tabs inner", overflow_behavior="wrap"):
            with gr.Tab("Compare", id="compare") as compare:
                axes = build_axes(page, COMPARE)
                tools = [build_compare(page, settings, axes)]
            with gr.Tab("Trajectory", id="trajectory") as trajectory:
                tools.append(build_trajectory(page, settings, benches))
            with gr.Tab("Convergence", id="convergence") as convergence:
                tools.append(build_convergence(page, settings))
            with gr.Tab("Paths in 2-D", id="plane") as plane:
                tools.append(build_plane(page, settings, plane))
        # The plane uses neither prompt nor model, so it does not show them.
        gr.on(
            [tab.select for tab in (compare, trajectory, convergence)],
            lambda: gr.update(visible=True),
            None,
            settings.box,
            **QUIET,
        )
        plane.select(lambda: gr.update(visible=False), None, settings.box, **QUIET)
    return Lab(settings.form, axes, tuple(tools))
