"""Who has signed in: of a request on its way, and of the event that is running; and what others may not see."""

from __future__ import annotations

import re
from contextvars import ContextVar
from typing import Any

from gradio.context import LocalContext
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

API_INFO = re.compile(rb"(<script>window\.gradio_api_info = ).*?(;</script>)", re.DOTALL)
# Whose call of an API this thread or task answers, see `ApiLogin`; None for events of the page.
API_CALLER: ContextVar[str | None] = ContextVar("api_caller", default=None)
NO_ENDPOINTS = rb'\1{"named_endpoints": {}, "unnamed_endpoints": {}}\2'


def signed_in(scope: Scope) -> bool:
    """Whether the sender of a request may use the page: it asks for no login, or the sender has one."""
    return scope["app"].auth is None or signed_in_name(scope) is not None


def signed_in_name(scope: Scope) -> str | None:
    """The name under which the sender of a request has signed in on the page; None without a login."""
    app: Any = scope["app"]
    cookies = HTTPConnection(scope).cookies
    names = (f"access-token-{app.cookie_id}", f"access-token-unsecure-{app.cookie_id}")
    return next((found for name in names if (found := app.tokens.get(cookies.get(name))) is not None), None)


def current_user() -> str:
    """The name of whoever caused the event that is running in this thread or task; "" without a login."""
    if (caller := API_CALLER.get()) is not None:
        return caller
    request = LocalContext.request.get(None)
    return getattr(request, "username", None) or ""


def current_session() -> str:
    """What Gradio calls the page that caused the event that is running, until it is opened anew; "" outside events."""
    return getattr(LocalContext.request.get(None), "session_hash", None) or ""


def current_cookie(name: str) -> str:
    """A cookie of the browser that caused the event that is running; "" without it, and outside events."""
    return (getattr(LocalContext.request.get(None), "cookies", None) or {}).get(name, "")


class HiddenEndpoints:
    """ASGI middleware that takes the list of endpoints out of the login page, where Gradio puts it, too."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "GET" or signed_in(scope):
            await self._app(scope, receive, send)
            return
        # A compressed page could not be searched.
        headers = [each for each in scope["headers"] if each[0] != b"accept-encoding"]
        begun: list[Message] = []
        page = bytearray()

        async def send_page(message: Message) -> None:
            if message["type"] == "http.response.start":
                kind = dict(message["headers"]).get(b"content-type", b"")
                if not kind.startswith(b"text/html"):
                    await send(message)
                    return
                begun.append(message)
            elif not begun:
                await send(message)
            else:
                page.extend(message.get("body", b""))
                if not message.get("more_body"):
                    await _send_page(begun[0], API_INFO.sub(NO_ENDPOINTS, bytes(page)), send)

        await self._app({**scope, "headers": headers}, receive, send_page)


async def _send_page(start: Message, page: bytes, send: Send) -> None:
    headers = [each for each in start["headers"] if each[0] != b"content-length"]
    await send({**start, "headers": [*headers, (b"content-length", b"%d" % len(page))]})
    await send({"type": "http.response.body", "body": page})
