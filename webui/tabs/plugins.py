"""The tab Plugins: what failed to load first, then everything that was loaded, its origin and measured order."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from samplers.registry import Entry, Registry
from samplers.sampler import Sampler
from samplers.testing import measure_order
from webui.core.menus import BUILT_IN, guidances_in_order, sampler_groups, schedules_in_order
from webui.engine.watchdog import at_most
from webui.gradio_ext.gradio_events import LONG, QUIET
from webui.tabs.form.controls import small_button
from webui.tabs.form.describe import calls_text, line, paper_link, problem
from webui.tabs.form.page_context import Page
from webui.templates import render

PATIENCE = 30.0  # seconds to measure one order
GUIDE = Path(__file__).parents[2] / "plugins" / "README.md"


def tab_title(registry: Registry) -> str:
    """The tab's name, with the number of plugins that cannot be used."""
    return f"Plugins ({len(registry.broken)} broken)" if registry.broken else "Plugins"


def build_plugins(page: Page, shown: gr.Number) -> None:
    """Build the tab's content. Plugins are code: nobody else than this machine's users loads any through the page.

    shown  how many times plugins had been loaded anew when the page's menus were filled
    """
    with gr.Row(elem_classes="told"):
        gr.HTML(render("plugins", "search"))
        measure = small_button("Measure the orders", "measure-orders")
        if not page.engine.settings.public:
            again = small_button("Load changed files", "reload-plugins")
            told = gr.HTML(elem_id="reloaded")
            again.click(partial(_load_again, page), None, [shown, told], concurrency_limit=1, **LONG)
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
    """The lists of the tab, what is broken first. `measured` has the orders measured so far, by sampler."""
    parts = [render("plugins", "broken", registry.broken)] if registry.broken else []
    parts.append(render("plugins", "guide", _example()))
    samplers = [
        _row(registry.samplers[name], _facts(registry.samplers[name].item, measured.get(name, "")), title)
        for title, names in sampler_groups(registry.samplers).items()
        for name in names
    ]
    schedules = [_row(registry.schedules[name]) for name in schedules_in_order(registry.schedules)]
    guidances = [_row(registry.guidances[name]) for name in guidances_in_order(registry.guidances)]
    for title, rows in (("Samplers", samplers), ("Schedules", schedules), ("Guidances", guidances)):
        parts.append(render("plugins", "section", title, rows))
    return "".join(parts)


def _example() -> str:
    """The shortest plugin, from the guide for their authors; empty where that is not there."""
    try:
        found = re.search(r"^```python\n(.*?)^```", GUIDE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    except OSError:
        return ""
    return found.group(1) if found else ""


def _facts(item: Sampler, measured: str) -> list[str]:
    try:
        order = item.order_of()
        facts = [f"order {order:g}"] if order else []
        facts += [f"measured {measured}"] if measured else []
        return [*facts, calls_text(item, {}), "draws fresh noise" if item.stochastic_with() else ""]
    except Exception as error:
        return [f"cannot describe itself: {error}"]


def _row(entry: Entry, facts: Sequence[str] = (), group: str = "") -> dict[str, Any]:
    """What a list says of an entry: in its line, and when it is unfolded."""
    options = [(option.name, option.default, option.allowed, option.help) for option in entry.item.options]
    return dict(
        name=entry.name,
        facts=[fact for fact in facts if fact],
        yours=not entry.source.startswith((BUILT_IN, "samplers")),
        group=group,
        options=options,
        source=entry.source,
        digest=entry.digest,
        version=entry.version,
        paper=paper_link(entry.item.paper) if entry.item.paper else "",
        check=entry.check,
    )
