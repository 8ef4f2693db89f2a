"""Events as the page needs them, and what they work around in Gradio."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from functools import partial
from inspect import isasyncgenfunction, iscoroutinefunction
from typing import Any, TypeAlias

import gradio as gr
from gradio.blocks import Block, BlocksConfig
from gradio.components import Component
from gradio.context import get_blocks_context
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


def signal(value: float = 0, name: str | None = None) -> gr.Number:
    """A number that nobody sees: events change it, and others hear of that.

    Gradio tells of its changes without drawing it, nor a form around it.
    """
    return gr.Number(value, visible=False, container=False, elem_id=name)


def after_values(told: gr.Number) -> Callable[..., Dependency]:
    """A listener to a signal that hears when the other components of the same answer have their values, too.

    Gradio applies an update of several properties one by one; a signal tells of its change at once.
    """
    later = "() => new Promise((resolve) => setTimeout(resolve, 0, []))"
    return told.change(None, None, None, js=later, trigger_mode="multiple", **QUIET).then


def gather(
    listen: Callable[..., Dependency],
    function: Callable[..., Any],
    inputs: Inputs,
    outputs: Any,
    *,
    scripts: Sequence[str] = (),
    **how: Any,
) -> Dependency:
    """Run `function` on the values of many components, as the browser has them, when `listen` hears something.

    When an event of the server's ends, Gradio 6.31 lists its inputs among the components that show progress, although
    none of them does, and draws all of that list anew whenever any event begins, goes on or ends. An event that runs
    in the browser alone lists nothing: one leaves the values with page.js, from where the server's event takes them.

    listen    a button's `click`, or another function that makes an event
    function  takes the values in their order; it may be async, or an async generator
    scripts   expressions of JavaScript whose values follow those of the components
    """
    components, key = _listed(inputs), page_being_built().fn_id
    leave = f"(...values) => window.sigmalab.gathered({key}, [...values{''.join(f', {each}' for each in scripts)}])"
    known = [each for each in components if not each.stateful]
    gathered = listen(None, known, None, js=leave, trigger_mode="multiple", **QUIET)
    return _run_on(key, gathered.then, function, components, len(scripts), outputs, **how)


def on_change(
    watched: Sequence[Component],
    function: Callable[..., Any],
    inputs: Inputs,
    outputs: Any,
    *,
    since: gr.Number | None = None,
    tab: gr.Tab | None = None,
    **how: Any,
) -> None:
    """As `gather`, when any of these components changes and no other change follows at once; never twice at a time.

    The browser waits for the last of many changes, as of a text that is typed: each event costs it a walk through all
    components, for every component that the event names. It waits in an event of its own, since Gradio runs the
    listeners of a component one after the other. The number between is there for another reason, too: when a busy
    listener becomes free, Gradio 6 restarts all listeners of its component, and two that are busy in turn restart each
    other for ever. It is hidden and no gr.State, whose change event gets lost while a page is being opened.

    since  one of them, of a form: nothing runs before it has changed, when the form has been filled
    tab    nothing runs while it is not in front; when it comes to the front, it runs
    """
    turn = signal()
    waits, front = json.dumps(since is not None), json.dumps(tab.id if tab else "")

    def on(listen: Callable[..., Dependency], script: str) -> None:
        listen(None, None, turn, js=f"() => window.sigmalab.{script}", trigger_mode="multiple", **QUIET)

    texts = [each for each in watched if isinstance(each, gr.Textbox)]
    rest = [each for each in watched if each not in texts and each is not since]
    # Gradio reads all components that share a listener whenever one of them changes; texts change with every key.
    for group in filter(None, (rest, *([each] for each in texts))):
        on(partial(gr.on, [each.change for each in group]), f"turn({turn._id}, {waits}, {front})")
    if since:
        on(since.change, f"begin({turn._id}, {front})")
    if tab:
        on(tab.select, f'turn({turn._id}, {waits}, "")')
    settled = turn.change(
        None, None, None, js=f"() => window.sigmalab.settled({turn._id})", trigger_mode="multiple", **QUIET
    )
    gather(settled.then, function, inputs, outputs, trigger_mode="always_last", **how)


def on_choice(menu: gr.Dropdown, function: Callable[..., Any], inputs: Inputs, outputs: Any, **how: Any) -> Dependency:
    """As `gather`, when a visitor has chosen something else from a menu, once for each choice.

    Gradio 6 sends `input` once more when the menu loses its focus, even if nothing was chosen, and what the visitor
    typed in between would be overwritten. The browser compares the value with the one at focus.
    """
    components, turn = _listed(inputs), signal()
    known = [each for each in components if not each.stateful]
    menu.focus(None, menu, None, js=f"(name) => window.sigmalab.entered({menu._id}, name)", **QUIET)
    key = page_being_built().fn_id
    chosen = f"(name, ...values) => window.sigmalab.chosen({key}, {menu._id}, name, values)"
    menu.input(None, [menu, *known], turn, js=chosen, trigger_mode="multiple", **QUIET)
    return _run_on(key, turn.change, function, components, 0, outputs, trigger_mode="always_last", **how)


def page_being_built() -> BlocksConfig:
    """Gradio's account of it, to which components and events are added."""
    page = get_blocks_context()
    assert page is not None
    return page


def _listed(inputs: Inputs) -> list[Component]:
    return [inputs] if isinstance(inputs, Component) else list(inputs or ())


def _run_on(
    key: int,
    listen: Callable[..., Dependency],
    function: Callable[..., Any],
    components: Sequence[Component],
    more: int,
    outputs: Any,
    **how: Any,
) -> Dependency:
    """Run `function` on the values of components, and `more` of scripts, that page.js has under `key`."""
    # Of a state the browser knows nothing: it stays an input.
    states = [each for each in components if each.stateful]
    count = len(components) - len(states) + more

    def values(given: Sequence[Any]) -> list[Any]:
        known, kept = given[0], iter(given[1:])
        if not isinstance(known, list) or len(known) != count:
            raise gr.Error("The page's values did not arrive; reload it.", print_exception=False)
        rest = iter(known)
        return [next(kept if each.stateful else rest) for each in components] + list(rest)

    def call(*given: Any) -> Any:
        return function(*values(given))

    async def wait(*given: Any) -> Any:
        return await function(*values(given))

    async def follow(*given: Any) -> AsyncGenerator[Any]:
        async with aclosing(function(*values(given))) as updates:
            async for each in updates:
                yield each

    run = follow if isasyncgenfunction(function) else wait if iscoroutinefunction(function) else call
    take = f"(carrier, ...states) => [window.sigmalab.given({key}), ...states]"
    return listen(run, [page_being_built().root_block.carrier, *states], outputs, js=take, **(how | RAW))


def browser_store(name: str) -> gr.BrowserState:
    """Where the browser keeps a form, under a fixed name and secret.

    Build it outside all tabs: Gradio does not read one in a tab that was never opened. By default both name and secret
    are random, so that a restarted server could read nothing that was kept before.
    """
    return gr.BrowserState(None, storage_key=f"sigmalab-{name}", secret=STORE_SECRET)
