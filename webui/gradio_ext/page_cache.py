"""The page and its scripts as they were last sent: Gradio writes and compresses them anew for each visitor."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .signed_in import signed_in, signed_in_name

MOST = 16  # pages that are kept, a tenth of a megabyte each
LONGEST = 200  # bytes of a query whose page is kept
#: Of a request, what a page depends on beside who asks: its address, by which files are found, and its compression.
NAMES = (b"host", b"accept-encoding")
FORWARDED = b"x-"
#: Gradio's scripts and styles, whose names change with their content; a page asks for eighty, a megabyte.
ASSET = re.compile(r"/assets/[\w.-]+-[\w-]{8}\.(?:js|css)")
FOREVER = "public, max-age=31536000, immutable"


class PageCache:
    """ASGI middleware above the compression that answers with what it has sent before.

    All who ask for the page at one address under one name get the same bytes, until the page's configuration is another
    one. Gradio takes 80 ms of the event loop's lock for them, and as long for the scripts of a page, and everybody
    waits meanwhile. Browsers are told to keep the scripts, so that a page that is opened again asks for none.
    """

    def __init__(self, app: ASGIApp):
        self._app = app
        self._pages = OrderedDict[tuple[Any, ...], tuple[Any, list[Message]]]()
        self._assets: dict[tuple[str, bool], list[Message]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "GET":
            await self._app(scope, receive, send)
        elif ASSET.fullmatch(scope["path"]):
            await self._asset(scope, receive, send)
        elif _is_page(scope):
            await self._page(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _page(self, scope: Scope, receive: Receive, send: Send) -> None:
        key, config = _key(scope), scope["app"].get_blocks().config
        known, messages = self._pages.get(key, (None, []))
        if known is config:
            self._pages.move_to_end(key)
            await _send_again(messages, send)
            return
        sent = await self._pass_on(scope, receive, send)
        if sent and Headers(raw=sent[0]["headers"]).get("content-type", "").startswith("text/html"):
            self._pages[key] = config, sent
            while len(self._pages) > MOST:
                self._pages.popitem(last=False)

    async def _asset(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        if "range" in headers:
            await self._app(scope, receive, send)
            return
        key = scope["path"], "gzip" in headers.get("accept-encoding", "")
        if key in self._assets:
            await _send_again(self._assets[key], send)
            return

        def for_ever(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 200:
                MutableHeaders(raw=message["headers"])["cache-control"] = FOREVER

        if sent := await self._pass_on(scope, receive, send, for_ever):
            self._assets[key] = sent

    async def _pass_on(
        self, scope: Scope, receive: Receive, send: Send, change: Callable[[Message], None] = lambda message: None
    ) -> list[Message]:
        """What was sent, with a change, if it is the whole of an answer that is no error; else nothing."""
        sent: list[Message] = []

        async def send_kept(message: Message) -> None:
            change(message)
            sent.append(_copy(message))
            await send(message)

        await self._app(scope, receive, send_kept)
        whole = sent and sent[0].get("status") == 200 and not sent[-1].get("more_body")
        return sent if whole else []


async def _send_again(messages: list[Message], send: Send) -> None:
    for message in messages:
        await send(_copy(message))


def _copy(message: Message) -> Message:
    """A message for others: what is above changes it in place, its headers and its body."""
    return {name: list(value) if name == "headers" else value for name, value in message.items()}


def _is_page(scope: Scope) -> bool:
    return scope["path"] == "/" and len(scope["query_string"]) <= LONGEST and signed_in(scope)


def _key(scope: Scope) -> tuple[Any, ...]:
    headers = [(name, value) for name, value in scope["headers"] if name in NAMES or name.startswith(FORWARDED)]
    return (
        *(signed_in_name(scope), scope["scheme"], scope.get("root_path"), scope["query_string"], scope.get("server")),
        *headers,
    )
