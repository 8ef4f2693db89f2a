"""The menus of a form that name plugins, and the widgets of their options."""

from __future__ import annotations

from typing import Any

import gradio as gr

from samplers.registry import Registry
from webui.core.fields import fields_of
from webui.core.menus import guidances_in_order, sampler_choices, schedules_in_order
from webui.core.plugin_fields import GUIDANCE
from webui.core.request import Request
from webui.gradio_ext.option_rows import SPARE, OptionBox, build_options
from webui.tabs.form.page_context import Page


def build_plugin_options(page: Page, mode: str, kind: str, menu: gr.Dropdown) -> OptionBox:
    """The widgets for the options of a menu's plugins; a page of plugins that are being written has spare ones."""
    settings = page.engine.settings
    spare = SPARE if settings.reload or settings.plugin_folders else ()
    return build_options(mode, kind, lambda: getattr(page.registry, kind), menu, spare)


def build_sampler_menu(registry: Registry, mode: str, sampler: str) -> gr.Dropdown:
    """The menu of samplers, `sampler` chosen."""
    return gr.Dropdown(
        plugin_choices(registry)["sampler"],
        value=sampler,
        label=fields_of(Request)["sampler"].setting.label,
        elem_id=f"{mode}-sampler",
        elem_classes="samplers",
        interactive=True,
    )


def build_schedule_menu(registry: Registry, mode: str, schedule: str = "") -> gr.Dropdown:
    """The menu of schedules, `schedule` chosen; "" is the model's own."""
    return gr.Dropdown(
        plugin_choices(registry)["schedule"],
        value=schedule,
        label=fields_of(Request)["schedule"].setting.label,
        elem_id=f"{mode}-schedule",
        interactive=True,
    )


def schedule_update(own_grid: bool) -> dict[str, Any]:
    """The menu of schedules for a sampler: of no use where it makes its own steps."""
    # Not None, which gr.update leaves out: the words would stay when another sampler is chosen.
    return gr.update(interactive=not own_grid, info="This sampler makes its own steps." if own_grid else "")


def plugin_choices(registry: Registry) -> dict[str, list[tuple[str, str]]]:
    """What the menus of plugins offer, by field; the model's own schedule, which a note names, first."""
    samplers = sampler_choices(registry.samplers)
    schedules = [(name, name) for name in schedules_in_order(registry.schedules)]
    guidances = registry.guidances
    return {
        "sampler": samplers,
        "schedule": [("Model's own", ""), *schedules],
        "hires_sampler": [("As above", ""), *samplers],
        "hires_schedule": [("As above", ""), *schedules],
        GUIDANCE.name: [(name, GUIDANCE.named(guidances[name])) for name in guidances_in_order(guidances)],
    }
