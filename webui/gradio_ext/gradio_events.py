"""Events as the page needs them, and what they work around in Gradio."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from inspect import isasyncgenfunction, iscoroutinefunction
from typing import Any, TypeAlias

import gradio as gr
from gradio.blocks import Block
from gradio.components import Component
from gradio.events import Dependency

Inputs: TypeAlias = Component | Sequence[Component] | None
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


def gather(
    listen: Callable[..., Dependency], function: Callable[..., Any], inputs: Inputs, outputs: Any, **how: Any
) -> Dependency:
    """Run `function` on the values of many components, as the browser has them, when `listen` hears something.

    When an event of the server's ends, Gradio 6.31 lists its inputs among the components that show progress, although
    none of them does, and draws all of that list anew whenever any event begins, goes on or ends. An event that runs
    in the browser alone lists nothing: one puts the values into a hidden component, the only input of the server's.

    listen    a button's `click`, or another function that makes an event
    function  takes the values in their order; it may be async, or an async generator
    """
    components, held = _listed(inputs), gr.JSON(visible=False)
    gathered = listen(None, components, held, js="(...values) => [values]", trigger_mode="multiple", **QUIET)
    return _run_on(held, gathered.then, function, components, outputs, **how)


def on_change(
    watched: Sequence[Component], function: Callable[..., Any], inputs: Inputs, outputs: Any, **how: Any
) -> None:
    """As `gather`, when any of these components changes and no other change follows at once; never twice at a time.

    The browser waits for the last of many changes, as of a text that is typed: each event costs it a walk through all
    components, for every component that the event names. It waits in an event of its own, since Gradio runs the
    listeners of a component one after the other. The number between is there for another reason, too: when a busy
    listener becomes free, Gradio 6 restarts all listeners of its component, and two that are busy in turn restart each
    other for ever. It is hidden and no gr.State, whose change event gets lost while a page is being opened.
    """
    turn = gr.Number(0, visible="hidden")
    texts = [each for each in watched if isinstance(each, gr.Textbox)]
    rest = [each for each in watched if each not in texts]
    # Gradio reads all components that share a listener whenever one of them changes; texts change with every key.
    for group in filter(None, (rest, *([each] for each in texts))):
        changes = [each.change for each in group]
        gr.on(changes, None, None, turn, js="() => performance.now()", trigger_mode="multiple", **QUIET)
    settled = turn.change(
        None, None, None, js=f"() => window.sigmalab.settled({turn._id})", trigger_mode="multiple", **QUIET
    )
    gather(settled.then, function, inputs, outputs, trigger_mode="always_last", **how)


def on_choice(menu: gr.Dropdown, function: Callable[..., Any], inputs: Inputs, outputs: Any, **how: Any) -> Dependency:
    """As `gather`, when a visitor has chosen something else from a menu, once for each choice.

    Gradio 6 sends `input` once more when the menu loses its focus, even if nothing was chosen, and what the visitor
    typed in between would be overwritten. The browser compares the value with the one at focus.
    """
    components, held = _listed(inputs), gr.JSON(visible=False)
    entered = f"(name) => window.sigmalab.entered({menu._id}, name)"
    chosen = f"(name, ...values) => window.sigmalab.chosen({menu._id}, name, values)"
    menu.focus(None, menu, None, js=entered, **QUIET)
    menu.input(None, [menu, *components], held, js=chosen, trigger_mode="multiple", **QUIET)
    return _run_on(held, held.change, function, components, outputs, trigger_mode="always_last", **how)


def _listed(inputs: Inputs) -> list[Component]:
    return [inputs] if isinstance(inputs, Component) else list(inputs or ())


def _run_on(
    held: gr.JSON,
    listen: Callable[..., Dependency],
    function: Callable[..., Any],
    components: Sequence[Component],
    outputs: Any,
    **how: Any,
) -> Dependency:
    """Run `function` on the values of components that the browser put into `held`, after whatever else it put there."""
    # Of a state the browser knows nothing: it stays an input.
    states = [each for each in components if each.stateful]

    def values(given: Sequence[Any]) -> list[Any]:
        known, kept = given[0], iter(given[1:])
        if not isinstance(known, list) or len(known) < len(components):
            raise gr.Error("The page's values did not arrive; reload it.", print_exception=False)
        known = known[len(known) - len(components) :]
        return [next(kept) if each.stateful else value for each, value in zip(components, known, strict=True)]

    def call(*given: Any) -> Any:
        return function(*values(given))

    async def wait(*given: Any) -> Any:
        return await function(*values(given))

    async def follow(*given: Any) -> AsyncGenerator[Any]:
        async with aclosing(function(*values(given))) as updates:
            async for each in updates:
                yield each

    run = follow if isasyncgenfunction(function) else wait if iscoroutinefunction(function) else call
    return listen(run, [held, *states], outputs, **(how | RAW))


def browser_store(name: str) -> gr.BrowserState:
    """Where the browser keeps a form, under a fixed name and secret.

    Build it outside all tabs: Gradio does not read one in a tab that was never opened. By default both name and secret
    are random, so that a restarted server could read nothing that was kept before.
    """
    return gr.BrowserState(None, storage_key=f"sigmalab-{name}", secret=STORE_SECRET)
