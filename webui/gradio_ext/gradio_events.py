"""Events as the page needs them, and what they work around in Gradio."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr
from gradio.blocks import Block
from gradio.components import Component
from gradio.events import Dependency

Updates = dict[Block, Any]  # what an event's function returns: the components that change, and to what

# No spinner on any component: with one, the browser searches the whole page for every component that ever had one at
# each event, which was half of the time that the page took to open.
CALM: dict[str, Any] = dict(show_progress="hidden", show_progress_on=[], api_visibility="private")
# For events that only tidy the page: no queue, no spinner, and no endpoint for scripts.
QUIET: dict[str, Any] = dict(queue=False, **CALM)
# For events that take the form: its values as the browser sent them. Gradio's checks of a value would come before
# ours, which say what is allowed, and it would decode uploads.
RAW: dict[str, Any] = dict(preprocess=False)
# For events that run as long as a job does.
LONG: dict[str, Any] = CALM

RESTORED = 1.0  # a form's revision once the browser's values are in it, until other settings are put in
STORE_SECRET = "not a secret: it only keeps the stored form readable for the next start"


def opening(updates: Updates) -> Updates:
    """Updates for a page that is being opened, without the values that the components were built with.

    Gradio answers a load event after the visitor can already type: what was entered before the answer must stay.
    """
    return {component: _unless_built(update, component) for component, update in updates.items()}


def _unless_built(update: Any, component: Block) -> Any:
    built = getattr(component, "value", None)
    if not (isinstance(update, dict) and update.get("__type__") == "update"):
        return gr.skip() if update == built else update
    if "value" in update and update["value"] == built:
        return {name: value for name, value in update.items() if name != "value"}
    return update


def on_change(
    watched: Sequence[Component], function: Callable[..., Any], inputs: Any, outputs: Any, **how: Any
) -> None:
    """Run `function` when any of these components changes: for the newest change, and never twice at a time.

    The change goes through a hidden number that only this function listens to. When a busy listener becomes free,
    Gradio 6 restarts all listeners of its component, and two that are busy in turn restart each other for ever. The
    number is hidden and no gr.State, whose change event gets lost while a page is being opened.
    """
    turn = gr.Number(0, visible="hidden")
    changes = [each.change for each in watched]
    gr.on(changes, None, None, turn, js="() => performance.now()", trigger_mode="multiple", **QUIET)
    turn.change(function, inputs, outputs, trigger_mode="always_last", **how)


def on_choice(menu: gr.Dropdown, function: Callable[..., Any], inputs: Any, outputs: Any, **how: Any) -> Dependency:
    """Run `function` when a visitor has chosen something else from a menu, once for each choice.

    Gradio 6 sends `input` once more when the menu loses its focus, even if nothing was chosen, and what the visitor
    typed in between would be overwritten. The browser compares the value with the one at focus.
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
