"""What every part of the page is built with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr
from gradio.blocks import Block
from gradio.components import Component
from gradio.events import Dependency

Updates = dict[Block, Any]  # what an event's function returns: the components that change, and to what

# No spinner on any component: at each event the browser would else go through all that ever could have had one, and
# search the whole page for each, which was half of the time that the page took to open.
CALM: dict[str, Any] = dict(show_progress="hidden", show_progress_on=[], api_visibility="private")
# For events that only tidy the page: no queue, no spinner, and no endpoint for scripts.
QUIET: dict[str, Any] = dict(queue=False, **CALM)
# For events that take the form: its values as the browser sent them. Gradio's own checks would answer a wrong one
# before ours, which say what is allowed, and it would decode uploads.
RAW: dict[str, Any] = dict(preprocess=False)
# For events that run as long as a job does.
LONG: dict[str, Any] = CALM

RESTORED = 1.0  # a form's revision once the browser's values are in it, until other settings are put in
STORE_SECRET = "not a secret: it only keeps the stored form readable for the next start"


def opening(updates: Sequence[Any], components: Sequence[Component]) -> list[Any]:
    """Updates for a page that is being opened, without the values that these components were built with.

    On a busy machine the answer takes its time; what a visitor entered before it came is not theirs to lose.
    """
    return [_unless_built(update, each) for update, each in zip(updates, components, strict=True)]


def _unless_built(update: Any, component: Component) -> Any:
    if not (isinstance(update, dict) and update.get("__type__") == "update"):
        return gr.skip() if update == component.value else update
    if "value" in update and update["value"] == component.value:
        return {name: value for name, value in update.items() if name != "value"}
    return update


def on_change(
    watched: Sequence[Component], function: Callable[..., Any], inputs: Any, outputs: Any, **how: Any
) -> None:
    """Run `function` when any of these components changes: for the newest change, and never twice at a time.

    Through a number of its own. In Gradio 6 a listener that was busy starts, when it is free, all listeners of the same
    component again, and two of them that are busy in turn do so for ever.
    """
    turn = gr.Number(0, visible="hidden")
    changes = [each.change for each in watched]
    gr.on(changes, None, None, turn, js="() => performance.now()", trigger_mode="multiple", **QUIET)
    turn.change(function, inputs, outputs, trigger_mode="always_last", **how)


def on_choice(menu: gr.Dropdown, function: Callable[..., Any], inputs: Any, outputs: Any, **how: Any) -> Dependency:
    """Run `function` when a visitor has chosen something else from a menu, once for each choice.

    `input` alone will not do: Gradio 6 tells it a second time when the menu is left, also of a menu that was only
    looked into, and what the visitor typed since then would be overwritten.
    """
    turn = gr.Number(0, visible="hidden")
    entered, chosen = (f"(name) => window.sigmalab.{told}({menu._id}, name)" for told in ("entered", "chosen"))
    menu.focus(None, menu, None, js=entered, **QUIET)
    menu.input(None, menu, turn, js=chosen, trigger_mode="multiple", **QUIET)
    return turn.change(function, inputs, outputs, trigger_mode="always_last", **how)


def browser_store(name: str) -> gr.BrowserState:
    """Where the browser keeps a form, under a fixed name and secret.

    Build it outside all tabs: Gradio does not read one in a tab that was never opened. By default both name and secret
    are random, so that a restarted server could read nothing that was kept before.
    """
    return gr.BrowserState(None, storage_key=f"sigmalab-{name}", secret=STORE_SECRET)
