"""The tab Plugins: everything that was loaded, its origin, its measured order, and plugins that failed to load."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import gradio as gr

from samplers.registry import Entry, Registry
from samplers.sampler import Sampler
from samplers.testing import measure_order
from webui.core.menus import guidances_in_order, in_order, schedules_in_order
from webui.engine.watchdog import at_most
from webui.gradio_ext.gradio_events import LONG, QUIET
from webui.tabs.form.describe import calls_text, line, paper_link, problem
from webui.tabs.form.page_context import Page
from webui.templates import render

PATIENCE = 30.0  # seconds to measure one order
COLUMNS = ("Name", "Options", "From", "Version", "Paper", "Check at start")
SAMPLER_COLUMNS = (
    "Name",
    "Order",
    "Measured",
    "Network calls",
    "Noise",
    "Options",
    "From",
    "Version",
    "Paper",
    "Check at start",
)


def build_plugins(page: Page) -> None:
    """Build the tab's content. Plugins are code: nobody else than this machine's users loads any through the page."""
    with gr.Row():
        measure = gr.Button("Measure the orders", size="sm", elem_id="measure-orders", elem_classes="small")
        if not page.engine.settings.public:
            again = gr.Button("Load changed files", size="sm", elem_id="reload-plugins", elem_classes="small")
            told = gr.HTML(elem_id="reloaded")
            again.click(partial(_load_again, page), None, [page.plugins, told], concurrency_limit=1, **LONG)
    tables = gr.HTML(plugins_html(page.registry), elem_classes="plugins", elem_id="plugins")

    def run() -> Iterator[str]:
        measured: dict[str, str] = {}
        for name, entry in page.registry.samplers.items():
            measured[name] = measured_text(entry.item)
            yield plugins_html(page.registry, measured)

    page.plugins.change(lambda: plugins_html(page.registry), None, tables, **QUIET)
    measure.click(run, None, tables, concurrency_limit=1, **LONG)


def _load_again(page: Page) -> tuple[int, str]:
    """Load what has changed anew, and say what that was."""
    before = page.registry
    page.engine.reload_plugins()
    return page.engine.reloads, reload_text(before, page.registry)


def reload_text(before: Registry, now: Registry) -> str:
    """What differs between two loadings of plugins, in a line."""
    sources = {each.source for each in now.loaded}
    new = [each.source for each in now.loaded if each not in before.loaded and not each.broken]
    gone = [each.source for each in before.loaded if each.source not in sources]
    parts = [f"Loaded: {', '.join(new)}." if new else "", f"Gone: {', '.join(gone)}." if gone else ""]
    failed = [f"{each.source}: {each.reason}." for one in now.loaded for each in one.broken]
    if failed:
        return problem(" ".join([*filter(None, parts), "Not loaded:", *failed]))
    return line(" ".join(filter(None, parts)) or "No file of a plugin has changed.")


def measured_text(sampler: Sampler) -> str:
    """The order of accuracy, measured now on a Gaussian whose flow is known; empty where none is declared."""
    try:
        if sampler.order_of() is None or sampler.own_grid_with():
            return ""
        with at_most(PATIENCE):
            return f"{measure_order(sampler):.2f}"
    except TimeoutError as error:
        return f"failed: {error}"
    except (Exception, SystemExit) as error:
        return f"failed: {type(error).__name__}"


def plugins_html(registry: Registry, measured: Mapping[str, str] = {}) -> str:
    """The tables of the tab. `measured` has the orders measured so far, by sampler."""
    samplers = [_sampler(registry.samplers[name], measured.get(name, "")) for name in in_order(registry.samplers)]
    schedules = [_row(registry.schedules[name]) for name in schedules_in_order(registry.schedules)]
    guidances = [_row(registry.guidances[name]) for name in guidances_in_order(registry.guidances)]
    parts = [
        render("tables", "section", "Samplers", SAMPLER_COLUMNS, samplers),
        render("tables", "section", "Schedules", COLUMNS, schedules),
        render("tables", "section", "Guidances", COLUMNS, guidances),
    ]
    if registry.broken:
        broken = [(each.source, each.name, render("tables", "failure", each.reason)) for each in registry.broken]
        parts.append(render("tables", "section", "Could not be loaded", ("Plugin", "What", "Why"), broken))
    return "".join(parts)


def _sampler(entry: Entry, measured: str) -> list[str]:
    item = entry.item
    try:
        order, calls = item.order_of(), calls_text(item, {})
        noise = "fresh each step" if item.stochastic_with() else "none of its own"
    except Exception as error:
        order, calls, noise = None, f"cannot describe itself: {error}", ""
    return [
        entry.name,
        f"{order:g}" if order else "",
        measured,
        calls,
        noise,
        _options(entry),
        *_origin(entry),
        paper_link(item.paper),
        entry.check,
    ]


def _row(entry: Entry) -> list[str]:
    return [entry.name, _options(entry), *_origin(entry), paper_link(entry.item.paper), entry.check]


def _options(entry: Entry) -> str:
    return ", ".join(option.name for option in entry.item.options)


def _origin(entry: Entry) -> tuple[str, str]:
    return render("tables", "origin", entry.source, entry.digest), entry.version
