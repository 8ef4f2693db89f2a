"""End calls whose answer nobody fetches: a POST starts one, and only a second request listens to it."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections import Counter
from typing import Any
from urllib.parse import parse_qs, urlencode

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .json_bodies import JSON_BODY

START = re.compile(r"^/gradio_api/(call/(v2/)?[^/]+|queue/join)/?$")
LISTEN = re.compile(r"^/gradio_api/call/(v2/)?[^/]+/(?P<event>[^/]+)$")
STREAM = re.compile(r"^/gradio_api/queue/data/?$")
OPEN = re.compile(r"^/gradio_api/heartbeat/(?P<session>[^/]+)/?$")
SECONDS = 10.0
MOMENT = 0.5  # seconds
KEPT = frozenset({b"host", b"cookie", b"authorization"})

log = logging.getLogger(__name__)


class UnfetchedCalls:
    """ASGI middleware below `JsonBodies` that ends a call, and drops its answer, if nobody listens within seconds.

    A listener names the call, or the session that the call was started in. A page that is open says so all the time, in
    the name of its session: what it asks for is let be, however late a busy machine's browser begins to listen. Gradio
    itself ends the calls of a listener, or of a page, that goes away: so this one listens in the caller's name for a
    moment, and goes away.
    """

    def __init__(self, app: ASGIApp):
        self._app = app
        self._listeners: Counter[str] = Counter()
        self._timers: dict[str, set[asyncio.Task]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "GET" and (key := _listened_to(scope)):
            await self._listen(key, scope, receive, send)
        elif scope["method"] == "POST" and START.match(scope["path"]):
            await self._start(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _listen(self, key: str, scope: Scope, receive: Receive, send: Send) -> None:
        for timer in self._timers.pop(key, set()):
            timer.cancel()
        self._listeners[key] += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._listeners[key] -= 1
            if not self._listeners[key]:
                del self._listeners[key]

    async def _start(self, scope: Scope, receive: Receive, send: Send) -> None:
        answered = bytearray()
        listening = {**scope, "method": "GET", "headers": [each for each in scope["headers"] if each[0] in KEPT]}

        async def send_kept(message: Message) -> None:
            answered.extend(message.get("body", b""))
            await send(message)

        await self._app(scope, receive, send_kept)
        event = _text(_parsed(answered), "event_id")
        session = _text(scope.get(JSON_BODY), "session_hash") or event
        if event and not self._listeners[session]:
            timer = asyncio.create_task(self._hang_up_later(listening, session, event))
            self._timers.setdefault(session, set()).add(timer)
            timer.add_done_callback(lambda ended: self._forget(session, ended))

    def _forget(self, session: str, timer: asyncio.Task) -> None:
        timers = self._timers.get(session, set())
        timers.discard(timer)
        if not timers:
            self._timers.pop(session, None)

    async def _hang_up_later(self, scope: Scope, session: str, event: str) -> None:
        await asyncio.sleep(SECONDS)
        if session == event:
            path, query = f"{scope['path'].rstrip('/')}/{event}", ""
        else:
            path, query = "/gradio_api/queue/data", urlencode({"session_hash": session})
        ends = time.monotonic() + MOMENT

        async def receive() -> Message:
            if time.monotonic() < ends:
                await asyncio.sleep(ends - time.monotonic())
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            pass

        try:
            await self._app(
                {**scope, "path": path, "raw_path": path.encode(), "query_string": query.encode()}, receive, send
            )
        except Exception as error:
            log.debug("an unfetched call had ended: %s", error)


def _listened_to(scope: Scope) -> str:
    """The call or the session that a request listens to or keeps open; "" if it does neither."""
    if match := LISTEN.match(scope["path"]):
        return match["event"]
    if match := OPEN.match(scope["path"]):
        return match["session"]
    if STREAM.match(scope["path"]):
        return parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [""])[0]
    return ""


def _parsed(answer: bytearray) -> Any:
    try:
        return json.loads(answer)
    except ValueError:
        return None


def _text(value: Any, name: str) -> str:
    text = value.get(name) if isinstance(value, dict) else None
    return text if isinstance(text, str) else ""
