"""The page as it was last sent: Gradio copies and writes its configuration anew for each visitor."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .signed_in import signed_in, signed_in_name

MOST = 16  # pages that are kept, a tenth of a megabyte each
LONGEST = 200  # bytes of a query whose page is kept
#: Of a request, what a page depends on beside who asks: its address, by which files are found, and its compression.
NAMES = (b"host", b"accept-encoding")
FORWARDED = b"x-"


class PageCache:
    """ASGI middleware above the compression that answers with the page that it has sent before.

    All who ask at one address under one name get the same bytes, until the page's configuration is another one. Gradio
    takes 80 ms of the event loop's lock for them, and everybody waits meanwhile.
    """

    def __init__(self, app: ASGIApp):
        self._app = app
        self._kept = OrderedDict[tuple[Any, ...], tuple[Any, list[Message]]]()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _is_page(scope):
            await self._app(scope, receive, send)
            return
        key, config = _key(scope), scope["app"].get_blocks().config
        known, messages = self._kept.get(key, (None, []))
        if known is config:
            self._kept.move_to_end(key)
            for message in messages:
                await send(message)
            return
        sent: list[Message] = []

        async def send_kept(message: Message) -> None:
            sent.append(message)
            await send(message)

        await self._app(scope, receive, send_kept)
        start, last = sent[0], sent[-1]
        html = Headers(raw=start.get("headers", [])).get("content-type", "").startswith("text/html")
        if html and start["status"] == 200 and not last.get("more_body"):
            self._kept[key] = config, sent
            while len(self._kept) > MOST:
                self._kept.popitem(last=False)


def _is_page(scope: Scope) -> bool:
    return (
        scope["method"] == "GET" and scope["path"] == "/" and len(scope["query_string"]) <= LONGEST and signed_in(scope)
    )


def _key(scope: Scope) -> tuple[Any, ...]:
    headers = [(name, value) for name, value in scope["headers"] if name in NAMES or name.startswith(FORWARDED)]
    return (
        *(signed_in_name(scope), scope["scheme"], scope.get("root_path"), scope["query_string"], scope.get("server")),
        *headers,
    )
