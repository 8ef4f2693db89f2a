"""The tab Plugins: every sampler and schedule, where it comes from, what was measured, and what could not be loaded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape

import gradio as gr

from samplers.registry import Broken, Entry, Registry
from samplers.sampler import Sampler
from samplers.testing import measure_order
from samplers.timeouts import Limit, bounded
from webui.core.menus import in_order, schedules_in_order
from webui.gradio_ext.gradio_events import LONG
from webui.tabs.form.describe import calls_text, paper_link
from webui.tabs.form.page_context import Page

# A measurement takes parts of a second; a sampler that hangs must not hold up the ones after it.
PATIENCE = Limit(busy=20.0, all=60.0, imports=60.0)
SAMPLERS = (
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
    """Build the tab's content; plugins do not change while the program runs."""
    measure = gr.Button("Measure the orders", size="sm", elem_id="measure-orders", elem_classes="small")
    tables = gr.HTML(plugins_html(page.registry), elem_classes="plugins", elem_id="plugins")

    def run() -> Iterator[str]:
        measured: dict[str, str] = {}
        for name, entry in page.registry.samplers.items():
            measured[name] = measured_text(entry.item)
            yield plugins_html(page.registry, measured)

    measure.click(run, None, tables, concurrency_limit=1, **LONG)


def measured_text(sampler: Sampler) -> str:
    """The order of accuracy as measured now on a Gaussian with a known answer; empty where none is declared."""
    try:
        if sampler.order_of() is None or sampler.own_grid_with():
            return ""
        return f"{bounded(lambda: measure_order(sampler), PATIENCE):.2f}"
    except Exception as error:
        return f"failed: {type(error).__name__}"


def plugins_html(registry: Registry, measured: Mapping[str, str] = {}) -> str:
    """The tables of the tab; `measured` has the orders that were measured so far, by sampler."""
    samplers = [_sampler(registry.samplers[name], measured.get(name, "")) for name in in_order(registry.samplers)]
    schedules = [
        [escape(entry.name), *_origin(entry), paper_link(entry.item.paper), escape(entry.check)]
        for entry in map(registry.schedules.get, schedules_in_order(registry.schedules))
    ]
    parts = [
        _section("Samplers", SAMPLERS, samplers),
        _section("Schedules", ("Name", "From", "Version", "Paper", "Check at start"), schedules),
    ]
    if registry.broken:
        parts.append(
            _section("Could not be loaded", ("Plugin", "What", "Why"), [_broken(each) for each in registry.broken])
        )
    return "".join(parts)


def _sampler(entry: Entry, measured: str) -> list[str]:
    item = entry.item
    try:
        order, calls = item.order_of(), calls_text(item, {})
        noise = "fresh each step" if item.stochastic_with() else "none of its own"
    except Exception as error:
        order, calls, noise = None, f"cannot describe itself: {error}", ""
    options = ", ".join(option.name for option in item.options)
    return [
        escape(entry.name),
        f"{order:g}" if order else "",
        escape(measured),
        escape(calls),
        noise,
        escape(options),
        *_origin(entry),
        paper_link(item.paper),
        escape(entry.check),
    ]


def _origin(entry: Entry) -> tuple[str, str]:
    digest = f" title='SHA-256 {escape(entry.digest)}'" if entry.digest else ""
    return f"<span{digest}>{escape(entry.source)}</span>", escape(entry.version)


def _broken(broken: Broken) -> list[str]:
    return [escape(broken.source), escape(broken.name), f"<span class='problem'>{escape(broken.reason)}</span>"]


def _section(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th scope='col'>{column}</th>" for column in columns)
    body = "".join(
        "<tr>"
        + "".join(f"<td data-label='{column}'>{cell}</td>" for column, cell in zip(columns, row, strict=True))
        + "</tr>"
        for row in rows
    )
    return f"<section><h2>{title}</h2><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></section>"
