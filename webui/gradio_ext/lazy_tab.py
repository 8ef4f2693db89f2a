"""Tabs whose content is built when they are first opened.

What a browser does for a Gradio page grows with the number of components times the number of events that they tell of,
at every event and above all when the page is opened; most visitors never open most tabs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from typing import Any

import gradio as gr
from gradio.blocks import Block
from gradio.components import Component
from gradio.context import LocalContext, get_blocks_context

from .gradio_events import QUIET


def build_when_opened(tab: gr.Tab, build: Callable[..., None], inputs: Sequence[Component] = ()) -> gr.Number:
    """Have `build` fill a tab when it is first opened; call it inside the tab.

    build   build(*values of inputs) builds and connects components. It may name components of the rest of the page as
            inputs and outputs of events, but must not listen to them: Gradio 6.31 would forget who else listens.
    inputs  components of the rest of the page
    Returns a number that opens the tab, too, when an event sets it to 1.
    """
    opened = gr.Number(0, visible="hidden")
    tab.select(None, None, opened, js="() => 1", **QUIET)

    # One after the other for all visitors: Gradio goes through a visitor's events while they are sent.
    @gr.render(
        list(inputs),
        triggers=[opened.change],
        concurrency_limit=1,
        concurrency_id="tabs",
        trigger_mode="once",
        show_progress="hidden",
    )
    def content(*given: Any) -> None:
        with _apart():
            build(*given)

    # As in `CALM`, which gr.render does not take: else the browser reads all that was built again at each event.
    page = get_blocks_context()
    assert page is not None
    page.fns[page.fn_id - 1].show_progress_on = []
    return opened


def relay(component: Component) -> gr.Number:
    """A number that changes whenever the component does, for what is built later and must not listen to it itself."""
    told = gr.Number(0, visible="hidden")
    component.change(None, None, told, js="() => performance.now()", trigger_mode="multiple", **QUIET)
    return told


@contextmanager
def _apart() -> Iterator[None]:
    """Build into a copy of the visitor's page, which replaces it at once at the end.

    Gradio 6.31 goes through the components and events of the page in other threads, in the middle of which none may be
    added ("dictionary changed size during iteration").
    """
    page, renderable = LocalContext.blocks_config.get(), LocalContext.renderable.get()
    assert page is not None and renderable is not None
    building = copy(page)
    # What was built for an earlier call would else be kept for as long as the visitor's session.
    for each in _below(page.blocks[renderable.container_id]):
        building.blocks.pop(each, None)
    known, root = set(building.blocks), building.root_block
    files, token = len(root.temp_file_sets), LocalContext.blocks_config.set(building)
    try:
        yield
    finally:
        LocalContext.blocks_config.reset(token)
        # A set of files for each component of each visitor would be kept for ever.
        del root.temp_file_sets[files:]
    added = {each: block for each, block in building.blocks.items() if each not in known}
    for block in added.values():
        block.temp_files = root.upload_file_set
    # Other events may have updated components meanwhile.
    page.blocks = {each: block for each, block in page.blocks.items() if each in known} | added
    page.fns, page.fn_id = building.fns, building.fn_id


def _below(block: Block) -> Iterator[int]:
    for child in getattr(block, "children", ()):
        yield child._id
        yield from _below(child)
