"""A tab that makes pictures: what to make, the result, and the controls, placed for a desktop and for a phone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from webui.core.request import RequestError
from webui.gradio_ext.lazy_tab import LazyContent
from webui.tabs.form.page_context import Page
from webui.templates import render

from .controls import build_form, build_prompt
from .form import Form
from .form_events import connect_form
from .job_events import JobEvents, build_job_buttons, connect_run
from .lora_menu import build_lora_menu, connect_lora_menu
from .model_events import connect_model
from .own_queue import build_own_queue
from .presets import build_presets, connect_presets
from .result_panel import ResultPanel, build_result, chosen_of


@dataclass(frozen=True, eq=False)
class Workbench:
    """One tab's form and result, and the events of its jobs.

    link     copies the form's settings as an address
    content  the tab's, if the browser gets it when the tab is first opened
    """

    mode: str
    form: Form
    result: ResultPanel
    events: JobEvents
    link: gr.Button
    content: LazyContent | None = None


def build_workbench(
    page: Page,
    mode: str,
    picture: Callable[[], Mapping[str, Any]] = dict,
    strength: Callable[[], Mapping[str, Any]] = dict,
    content: LazyContent | None = None,
) -> Workbench:
    """Build and wire a tab.

    picture   builds the controls that stand above the prompt, by name
    strength  builds those that stand above the other controls
    """
    # On a phone the three columns stand below one another: what to make and Generate, the result, then the rest.
    with gr.Row(elem_classes="bench"):
        with gr.Column(elem_classes="compose"):
            more = dict(picture())
            box = build_prompt(mode, page.first_model)
            buttons = build_job_buttons(mode, "Generate", "Add to queue", "generate", queues=True)
            queue = build_own_queue(page, mode)
            gr.HTML(render("form", "sheet_button"), elem_classes="sheet-box")
            with gr.Row(elem_classes="below"):
                gr.HTML("<p class='keys'><kbd>Ctrl</kbd> <kbd>Enter</kbd> generates, <kbd>Esc</kbd> stops</p>")
                link = gr.Button(
                    "Copy link", size="sm", elem_id=f"{mode}-link", elem_classes="link", min_width=0, scale=0
                )
        with gr.Column(elem_classes="result"):
            result = build_result(mode, page.first_model)
        with gr.Column(elem_classes="controls"):
            more |= strength()
            # Below the rest by its style: the form is built of it.
            presets = build_presets(page, mode)
            more["styles"] = presets.styles
            form = build_form(page, mode, box.prompt, more)
            loras = build_lora_menu(mode, box.prompt, page.engine.extra)
    connect_form(page, form)
    connect_model(page, form, box, result.wall, loras.few_steps)
    connect_lora_menu(page, form, loras)
    connect_presets(page, form, presets)
    events = connect_run(page, form, result, buttons, queue)
    return Workbench(mode, form, result, events, link, content)


def results_of(benches: Sequence[Workbench]) -> list[gr.State]:
    """The states that tell which pictures are shown, for `newest_result`."""
    return [state for bench in benches for state in (bench.result.made, bench.result.chosen)]


def newest_result(given: Sequence[Any]) -> Path:
    """The file of the newest chosen picture among the results. RequestError if there is none, or it is gone."""
    chosen = [chosen_of(made, index) for made, index in zip(given[::2], given[1::2], strict=True)]
    paths = [path for path in (Path(choice[0]) for choice in chosen if choice) if path.is_file()]
    if not paths:
        raise RequestError("There is no result yet: make a picture in txt2img or img2img.")
    return max(paths, key=lambda path: path.stat().st_mtime)
