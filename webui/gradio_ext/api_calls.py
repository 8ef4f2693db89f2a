"""Checks of calls that Gradio does not make: names of endpoints, and the number and names of their arguments."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from inspect import Parameter, isclass, isgeneratorfunction, signature
from typing import Any
from urllib.parse import unquote

import gradio as gr
from gradio.components import FormComponent
from gradio.utils import get_type_hints
from pydantic import ValidationError
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .json_bodies import JSON_BODY, resend_body
from .signed_in import signed_in
from .strokes import COMPONENT, Strokes, is_file

CALL = re.compile(r"^/gradio_api/call/(?P<v2>v2/)?(?P<name>[^/]+)/?$")
# The page runs the events here that need no queue.
RUN = re.compile(r"^/gradio_api/(run|api)/(?P<name>[^/]+)/?$")
JOIN = re.compile(r"^/gradio_api/queue/join/?$")


class ApiCalls:
    """ASGI middleware below `JsonBodies` that refuses calls in words which Gradio answers with a bare error.

    Arguments that are left out at the end get their defaults: a script goes on when a new version takes more of them.

    seconds_until_room  how long a full queue takes until it has room, None while it has: until then a call that draws
                        gets 429
    """

    def __init__(self, app: ASGIApp, seconds_until_room: Callable[[], float | None] = lambda: None):
        self._app, self._seconds_until_room = app, seconds_until_room
        self._strokes = Strokes(app)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, path = scope.get(JSON_BODY), scope["path"]
        if COMPONENT.match(path) and signed_in(scope):
            await self._component(scope, receive, send)
            return
        call, run = CALL.match(path), RUN.match(path)
        if not (call or run or JOIN.match(path)) or not isinstance(body, dict) or not signed_in(scope):
            await self._app(scope, receive, send)
            return
        config = _config(scope["app"].get_blocks(), body.get("session_hash"))
        functions = config.fns
        named = call or (run if body.get("fn_index") is None else None)
        function, problem = _by_name(functions, unquote(named["name"])) if named else _by_number(functions, body)
        if problem:
            await JSONResponse({"detail": problem}, 404)(scope, receive, send)
            return
        # What draws answers more than once.
        if call and isgeneratorfunction(function.fn) and (seconds := self._seconds_until_room()) is not None:
            text = f"The queue is full. Try again in about {math.ceil(seconds)} seconds."
            await JSONResponse({"detail": text}, 429, {"retry-after": str(math.ceil(seconds))})(scope, receive, send)
            return
        given: Any = body if call and call["v2"] else body.get("data")
        told, data = complete(function, given, with_hidden=call is None)
        told = told or value_problem(function, data, config.blocks, with_hidden=call is None)
        told = told or ("" if call else event_problem(function, body.get("event_data")))
        if told:
            detail = {"__type__": "validate", "is_valid": False, "parameter_name": "request", "message": told}
            await JSONResponse({"detail": [detail]}, 422)(scope, receive, send)
            return
        if data is given:
            await self._app(scope, receive, send)
            return
        filled = {**body, "data": data}
        await self._app({**scope, JSON_BODY: filled}, resend_body(json.dumps(filled).encode(), receive), send)

    async def _component(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a component's own function be called; what it cannot take is refused."""
        begun = False

        async def send_noted(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await (self._strokes if is_file(scope) else self._app)(scope, receive, send_noted)
        except (LookupError, TypeError, ValueError, AttributeError):
            if begun:
                raise
            text = "No component of the page takes this; reload the page."
            await JSONResponse({"detail": text}, 422)(scope, receive, send)


def _by_name(functions: Mapping[int, Any], name: str) -> tuple[Any, str]:
    """(the endpoint of this name, what is wrong); events of the page have names, too, but are not for scripts."""
    for function in functions.values():
        if function.api_name == name and function.api_visibility != "private":
            return function, ""
    return None, f"There is no endpoint /{name}; the list is at /gradio_api/info."


def _by_number(functions: Mapping[int, Any], body: Mapping[str, Any]) -> tuple[Any, str]:
    """(the event that a body names by its number, what is wrong)."""
    number = body.get("fn_index")
    function = functions.get(number) if isinstance(number, int) else None
    if function is None:
        return None, f"There is no event {str(number)[:50]}; reload the page."
    # Gradio would answer with an error of its own.
    return function, "" if function.fn else f"Event {number} runs in the browser alone."


def complete(function: Any, given: Any, with_hidden: bool = False) -> tuple[str, Any]:
    """(what is wrong with the arguments of a call, the arguments with the defaults of those left out at the end).

    given        a list by position or an object by name; anything else is left to Gradio, which says what it needs
    with_hidden  whether the list has a place for each input that only the server knows; Gradio adds them to calls
    """
    inputs = [block for block in function.inputs if with_hidden or not block.skip_api]
    parameters = _parameters(function, len(inputs))
    name = f"/{function.api_name}" if function.api_name else "This event"
    if isinstance(given, Mapping):
        if parameters is None:
            return "", given
        unknown = [str(key)[:50] for key in given if key not in parameters and key != "oauth_token"]
        missing = [key for key, each in parameters.items() if each.default is Parameter.empty and key not in given]
        if unknown:
            return f"{name} has no argument {unknown[0]}; it has {', '.join(parameters) or 'none'}.", given
        return (f"{name} needs {', '.join(missing)}." if missing else ""), given
    if not isinstance(given, list) or len(given) in (len(inputs), len(function.inputs)):
        return "", given
    if len(given) > len(inputs):
        return f"{name} takes {len(inputs)} values, not {len(given)}.", given
    rest = list((parameters or {}).values())[len(given) :]
    if parameters and all(each.default is not Parameter.empty for each in rest):
        return "", given + [each.default for each in rest]
    wanted = f" ({', '.join(parameters)})" if parameters else ""
    return f"{name} takes {len(inputs)} values{wanted}; {len(given)} came.", given


def value_problem(function: Any, data: Any, blocks: Any, with_hidden: bool = False) -> str:
    """Which of the values its control cannot have, such as a number for a picture; "" if there is none.

    Gradio would fail on a wrong form, whatever the function takes, and write a traceback of a wrong choice to the log.

    blocks  the controls by their number, as they are on the caller's page; see `complete` for the other arguments
    """
    inputs = [block for block in function.inputs if with_hidden or not block.skip_api]
    if isinstance(data, Mapping):
        parameters = _parameters(function, len(inputs)) or {}
        pairs = [(block, data.get(name)) for name, block in zip(parameters, inputs, strict=False)]
    else:
        pairs = list(zip(inputs, data, strict=False)) if isinstance(data, list) else []
    for built, value in pairs:
        block = blocks.get(built._id, built)
        if value is None or block.stateful:
            continue
        try:
            model = getattr(block, "data_model", None)
            given = model.model_validate(value, context={"validate_meta": True}) if model else value
            # Pictures and files do not come this way: their events take them as they are.
            if function.preprocess and isinstance(block, FormComponent):
                block.preprocess(given)
        except gr.Error as error:
            return f"{_label(block)}: {str(error.message)[:300]}"
        except (ValidationError, TypeError, ValueError, LookupError, AttributeError, OverflowError):
            return f"{_label(block)} was given a value of another form; reload the page."
    return ""


def event_problem(function: Any, event_data: Any) -> str:
    """What is wrong with what an event says about itself, such as which picture was selected; "" for nothing."""
    try:
        hints = get_type_hints(function.fn).values() if function.collects_event_data else ()
        kinds: list[Any] = [hint for hint in hints if isclass(hint) and issubclass(hint, gr.EventData)]
        for kind in kinds:
            kind(None, event_data)
    except (TypeError, ValueError, LookupError, AttributeError):
        return "This event does not say what it is about; reload the page."
    return ""


def _label(block: Any) -> str:
    label = getattr(block, "label", None)
    return label if isinstance(label, str) and label else "A control"


def _config(blocks: Any, session: Any) -> Any:
    """The controls and the events by their numbers; a visitor's page has more of them once tabs have been opened."""
    known = blocks.state_holder.session_data.get(session) if isinstance(session, str) else None
    return known.blocks_config if known else blocks.default_config


def _parameters(function: Any, count: int) -> Mapping[str, Parameter] | None:
    """The arguments of an endpoint for scripts; None for an event of the page, whose values have no defaults."""
    if function.api_visibility == "private" or not callable(function.fn):
        return None
    parameters = signature(function.fn).parameters
    return parameters if len(parameters) == count else None
