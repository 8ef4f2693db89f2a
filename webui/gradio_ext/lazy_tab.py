"""Tabs whose content the browser gets when they are first opened.

What a browser does for a Gradio page grows with the number of components times the number of events that they tell of,
at every event and above all when the page is opened; most visitors never open most tabs. The program builds the whole
page once, as ever; a tab's part of it is sent as `gr.render` sends what it builds, but is not built for each visitor.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr
from gradio.blocks import BlockContext
from gradio.components import Component
from gradio.components.api_component import Api
from gradio.data_classes import BlocksConfigDict
from gradio.events import Dependency
from gradio.renderable import Renderable

from .gradio_events import QUIET, page_being_built, signal


class LazyBlocks(gr.Blocks):
    """A page without the content of its lazy tabs, which come with the first opening.

    Nor has it the components that stand for the values of endpoints for scripts: scripts find them in /config.

    carrier  stands for the values that a server's event gets of the browser, see `gather`; its own is never used
    """

    def __enter__(self) -> LazyBlocks:
        super().__enter__()
        self.carrier = gr.JSON(visible=False)
        return self

    @property
    def contents(self) -> list[LazyContent]:
        """Those of its lazy tabs."""
        return [each for each in self.default_config.renderables if isinstance(each, LazyContent)]

    def __exit__(self, *problem: Any) -> None:
        # Not before: Gradio compares events with what they were when they were made, to find those to cancel.
        for content in self.contents:
            for number in content.events:
                self.fns[number].rendered_in = content
        super().__exit__(*problem)

    def get_config_file(self) -> BlocksConfigDict:
        """What a browser and the clients of endpoints get of the page."""
        config = super().get_config_file()
        later = {number for content in self.contents for number in content.components}
        sent = [each for each in config["dependencies"] if self.fns[each["id"]].rendered_in is None]
        named = {each for event in sent for each in (*event["inputs"], *event["outputs"])}
        config["dependencies"] = sent
        # A client of endpoints looks up whatever an event names.
        config["components"] = [each for each in config["components"] if each["id"] in named or each["id"] not in later]
        hidden = later | {number for number, block in self.blocks.items() if isinstance(block, Api)}
        page = config["page"][""]
        page["dependencies"] = [each["id"] for each in sent]
        page["components"] = [each for each in page["components"] if each not in hidden]
        _without(page["layout"], hidden)
        return config


class LazyContent(Renderable):
    """The content of a tab, sent when `opened` becomes 1, which `reach` and the tab itself do.

    name    the id of the tab, by which page.js knows that the content has arrived
    events  the numbers of those that are sent with it
    """

    def __init__(self, tab: gr.Tab):
        self.name, self.events = str(tab.id), list[int]()
        self.opened, self._selected = (signal() for _ in range(2))
        # The browser's own token first: the jobs that it left are found by it.
        selected = "() => window.sigmalab.known.then(() => [1, performance.now()])"
        tab.select(None, None, [self.opened, self._selected], js=selected, trigger_mode="multiple", **QUIET)
        super().__init__(
            _nothing, [], [(self.opened, "change")], None, None, "once", queue=False, show_progress="hidden"
        )
        # As in `CALM`, which a Renderable does not take: else the browser reads all of this again at each event.
        page_being_built().fns[page_being_built().fn_id - 1].show_progress_on = []

    def apply(self, *_: Any, **__: Any) -> None:
        """Build nothing: what is sent is there already."""

    @contextmanager
    def content(self) -> Iterator[None]:
        """Build components in the tab, or events of its components; both are sent with it.

        These events hear components of the rest of the page only through `follow`: Gradio 6.31 would forget who else
        listens.
        """
        page = page_being_built()
        first = page.fn_id
        with self.container:
            yield
        self.events += range(first, page.fn_id)

    @property
    def components(self) -> set[int]:
        """The numbers of all components in it."""
        return set(_below(self.container))

    def follow(self, component: Component) -> gr.Number:
        """A number for the content to listen to, which changes whenever a component of the rest of the page does."""
        told = signal()
        component.change(None, None, told, js="() => performance.now()", trigger_mode="multiple", **QUIET)
        return told

    def follow_count(self, count: gr.Number) -> gr.Number:
        """As `follow`, for a number that may be another one by now than the content was built with."""
        told = self.follow(count)
        with self.content():
            other = f"(count) => count === {json.dumps(count.value)} ? 0 : performance.now()"
            page_being_built().root_block.load(None, count, told, js=other, **QUIET)
        return told

    def when_shown(self, function: Callable[..., Any], outputs: Any) -> None:
        """Run `function` whenever the tab comes to the front, the first time included; call it inside `content`."""
        for listen in (page_being_built().root_block.load, self._selected.change):
            listen(function, None, outputs, **QUIET)

    def heard(self, component: Component, *events: str) -> None:
        """Tell a component that somebody listens to these events of it; call it inside `content`.

        Gradio 6.31 tells the components that the page begins with. Only its editor of images asks, and tells of no
        stroke unless somebody listens.
        """
        told = json.dumps({"__type__": "update", "attached_events": events})
        page_being_built().root_block.load(None, None, component, js=f"() => ({told})", **QUIET)

    def arrived(self, after: Callable[..., Dependency] | None = None) -> None:
        """Tell those who wait in `reach` that the content is here; call it inside `content`.

        after  listens to what brings its first values; without, it is here as soon as it is sent
        """
        listen = after or page_being_built().root_block.load
        listen(None, None, None, js=f"() => window.sigmalab.arrived('{self.name}')", **QUIET)


def reach(content: LazyContent | None, listen: Callable[..., Dependency]) -> Callable[..., Dependency]:
    """A listener as `listen`, for events that read or fill the content of a tab: it has the tab sent first.

    content  None for a tab that is always there
    """
    if content is None:
        return listen
    asked = listen(None, None, content.opened, js="() => 1", trigger_mode="multiple", **QUIET)
    waited = asked.then(None, None, None, js=f"() => window.sigmalab.sent('{content.name}')", **QUIET)
    return waited.then


def _nothing() -> None:
    """What Gradio reads the arguments of."""


def _below(block: BlockContext) -> Iterator[int]:
    for child in block.children:
        yield child._id
        if isinstance(child, BlockContext):
            yield from _below(child)


def _without(layout: Any, hidden: set[int]) -> None:
    """Take components out of a layout."""
    children = [each for each in layout.get("children", []) if each["id"] not in hidden]
    if "children" in layout:
        layout["children"] = children
    for each in children:
        _without(each, hidden)
