"""Checks of JSON bodies that Gradio does not make: numbers and texts that JSON cannot carry, and wrong files."""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .files import file_problem

WITHOUT_BODY = frozenset({"GET", "HEAD", "OPTIONS"})
FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")
# Anywhere else FastAPI would fail on a form that is no text.
TAKES_FORMS = re.compile(r"^(/login|/gradio_api/component_server)/?$")
MAX_DEPTH = 100
JSON_BODY = "sigmalab.json"  # where the scope has the value of the body for the middleware below


class JsonBodies:
    """ASGI middleware that answers 422 to a JSON body that would make Gradio fail or fetch an address.

    Gradio downloads a file whose path is an http address before it calls any function, also for callers whose request
    is refused afterwards. The answer has the form of Gradio's validators, whose text gradio_client shows.
    """

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = Headers(scope=scope).get("content-type", "").lower()
        if scope["method"] in WITHOUT_BODY or (kind.startswith(FORMS) and TAKES_FORMS.match(scope["path"])):
            await self._app(scope, receive, send)
            return
        try:
            body = await Request(scope, receive).body()
        except ClientDisconnect:
            return
        value, problem = read_body(body)
        if problem:
            detail = {"__type__": "validate", "is_valid": False, "parameter_name": "request", "message": problem}
            await JSONResponse({"detail": [detail]}, 422)(scope, receive, send)
            return
        await self._app({**scope, JSON_BODY: value}, resend_body(body, receive), send)


def read_body(body: bytes) -> tuple[Any, str | None]:
    """(the value of a JSON body, what is wrong with it); None for an empty body and for nothing wrong."""
    if not body:
        return None, None
    try:
        value = json.loads(body, parse_constant=_not_json)
    except RecursionError:
        return None, f"The request is nested too deeply; allowed are {MAX_DEPTH} levels."
    except ValueError as error:
        return None, f"The request is not JSON: {error}."
    return value, _value_problem(value)


def _value_problem(value: Any) -> str | None:
    level = [value]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for value in level:
            if isinstance(value, list):
                below += value
            elif isinstance(value, dict):
                if problem := file_problem(value):
                    return problem
                below += value.keys()
                below += value.values()
            elif isinstance(value, str) and not _encodable(value):
                return "The request has half a character (a lone surrogate); send text as UTF-8."
            elif isinstance(value, float) and not math.isfinite(value):
                return "The request has a number that is too large."
        if not below:
            return None
        level = below
    return f"The request is nested too deeply; allowed are {MAX_DEPTH} levels."


def _not_json(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number that JSON knows")


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def resend_body(body: bytes, receive: Receive | None = None) -> Receive:
    """What receives a body that has been read once more, and then what `receive` does; without it, the end."""
    given: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        if given or receive is None:
            return given.pop() if given else {"type": "http.disconnect"}
        return await receive()

    return receive_again
