"""The tab Lab: compare, watch, measure and understand samplers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import gradio as gr

from webui.gradio_ext.gradio_events import LONG, QUIET, gather
from webui.tabs.form.form_events import refilled, restore
from webui.tabs.form.page_context import Page
from webui.tabs.form.workbench import Workbench

from .axes_view import STORE, build_axes, restore_axes
from .calibrate_view import TOOL as CALIBRATE
from .calibrate_view import build_calibrate
from .compare_presets import build_presets
from .compare_view import TOOL as COMPARE
from .compare_view import build_compare
from .convergence_view import TOOL as CONVERGENCE
from .convergence_view import build_convergence
from .lab_form import build_settings
from .plane_view import TOOL as PLANE
from .plane_view import build_plane
from .tour_view import TOOL as TOUR
from .tour_view import build_tour
from .trajectory_view import TOOL as TRAJECTORY
from .trajectory_view import build_trajectory

MODES = (COMPARE, TRAJECTORY, CONVERGENCE, CALIBRATE, PLANE, TOUR)  # of the tools' jobs


def build_lab(page: Page, blocks: gr.Blocks, benches: Sequence[Workbench], tabs: gr.Tabs) -> None:
    """Build the tab's content, filled as the browser kept it.

    benches  have the last result, and take the settings of a picture; they are among `tabs`
    """
    with gr.Column(elem_classes="lab"):
        form = build_settings(page)
        with gr.Tabs(elem_classes="tabs inner", overflow_behavior="wrap"):
            with gr.Tab("Compare", id="compare"):
                presets = gr.Column()
                axes = build_axes(page, COMPARE)
                with presets:
                    build_presets(page, COMPARE, form, axes)
                tools = [build_compare(page, form, axes, benches, tabs)]
            with gr.Tab("Trajectory", id="trajectory"):
                tools.append(build_trajectory(page, form, benches))
            with gr.Tab("Convergence", id="convergence"):
                tools.append(build_convergence(page, form))
            with gr.Tab("Calibrate", id="calibrate"):
                tools.append(build_calibrate(page, form))
            # style.css hides the settings here: the plane uses neither prompt nor model.
            with gr.Tab("Paths in 2-D", id="plane") as plane:
                tools.append(build_plane(page, form, plane))
            # It has settings of its own as well.
            with gr.Tab("Tour", id="tour"):
                tools.append(build_tour(page, form))
    gather(blocks.load, partial(restore, page, form), page.kept[form.mode], refilled(form), **QUIET)
    for changed in (blocks.load, page.plugins.change):
        gather(changed, partial(restore_axes, page, axes), page.kept[STORE], axes.outputs, **QUIET)
    for each in tools:
        blocks.load(each.resume, page.token, each.outputs, concurrency_limit=None, **LONG)
