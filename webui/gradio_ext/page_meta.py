"""The page's meta tags: Gradio's template has its own name, pictures and words in them, fixed."""

from __future__ import annotations

import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from webui.templates import render

OTHERS = re.compile(rb"""<meta\s+(?:property="og:|name="twitter:)[^>]*>\s*""")


class PageMeta:
    """ASGI middleware that puts a name and a description of Sigmalab in the place of Gradio's in its HTML pages."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "GET":
            await self._app(scope, receive, send)
            return
        start: Message | None = None
        body = b""

        async def send_changed(message: Message) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start" and _is_html(message):
                start = message
            elif start is None:
                await send(message)
            else:
                body += message.get("body", b"")
                if not message.get("more_body"):
                    changed = with_own_meta(body)
                    MutableHeaders(raw=start["headers"])["content-length"] = str(len(changed))
                    await send(start)
                    await send({"type": "http.response.body", "body": changed})

        await self._app(scope, receive, send_changed)


def with_own_meta(html: bytes) -> bytes:
    """A page with our own tags for link previews; as it is if it has no head."""
    return OTHERS.sub(b"", html).replace(b"</head>", render("header", "meta").encode() + b"</head>", 1)


def _is_html(message: Message) -> bool:
    return Headers(raw=message["headers"]).get("content-type", "").startswith("text/html")
