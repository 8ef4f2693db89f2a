"""What Gradio's server does not refuse by itself: other sites' requests, foreign host names, its fetch proxies, and
large bodies of callers who have not logged in.
"""

from __future__ import annotations

import ipaddress
import logging
import re
import socket
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from starlette.middleware.body_limit import RequestBodyLimitMiddleware

from webui.core.images import MAX_BYTES

from .api_calls import ApiCalls
from .api_login import ApiLogin, Logins
from .failed_events import FailedEvents
from .json_bodies import JsonBodies
from .login_throttle import LoginAttempts, LoginThrottle
from .signed_in import HiddenEndpoints
from .strokes import is_file
from .unfetched_calls import UnfetchedCalls

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Callable, Callable], Awaitable[None]]

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
TUNNEL = ".gradio.live"
LOGOUT = re.compile(r"^/logout/?$")
UPLOAD = re.compile(r"^(/gradio_api)?/upload/?$")
MAX_BODY = 2 * 1024 * 1024
MAX_STROKES = 8 * 1024 * 1024  # a PNG of 1024 x 1024 pixels takes 4 MB at most
# Gradio limits each file of an upload after the login; this also limits their number.
MAX_UPLOAD = 2 * MAX_BYTES
# JSON with pictures as base64: one of MAX_BYTES and a mask. It is read in one piece, while everybody else waits.
MAX_API_BODY = 48 * 1024 * 1024
APIS = re.compile(r"^/(sdapi/v1|v1|mcp|docs|openapi\.json)(/|$)")
# Gradio would fetch any address for a caller, write state files, or scale an icon to any size. Streams of sound, which
# the page has not, it refuses without a word.
CLOSED = re.compile(r"^(/gradio_api)?/(file=https?:|proxy=|pwa_icon|deep_link|stream/)", re.IGNORECASE)
# Everything that the page needs comes from its own server; blob: and data: are its previews and uploads.
POLICY = "; ".join(
    (
        "default-src 'self' data: blob:",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
        "style-src 'self' 'unsafe-inline'",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'self'",
    )
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    # Not "no-referrer": with it a browser sends `Origin: null`, which could not be told from a foreign page.
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)

log = logging.getLogger(__name__)


class Guard:
    """ASGI middleware that lets through what this page's own browser tabs and scripts send, and nothing else.

    hosts  names that the page is served under besides localhost and bare addresses
    share  whether the public tunnel's names are good, too
    seconds_until_room  of a full queue, see `ApiCalls`
    apis    the app of the APIs of other programs, None if they are off; logins: who may call it

    Any other name is refused with 400: another site's page reaches a local server by one (DNS rebinding). A request
    that a browser marks as coming from another site is refused with 403, unless it only opens the page. A body above
    MAX_BODY (MAX_UPLOAD for an upload, MAX_STROKES for a mask, MAX_API_BODY for the APIs) is refused with 413: FastAPI
    parses bodies before it checks the login.
    """

    def __init__(
        self,
        app: App,
        hosts: Iterable[str] = (),
        share: bool = False,
        seconds_until_room: Callable[[], float | None] = lambda: None,
        apis: App | None = None,
        logins: Logins | None = None,
    ):
        self._share, attempts = share, LoginAttempts()
        checked = HiddenEndpoints(JsonBodies(ApiCalls(UnfetchedCalls(FailedEvents(app)), seconds_until_room)))
        throttled = LoginThrottle(checked, attempts)
        self._app = RequestBodyLimitMiddleware(throttled, MAX_BODY)
        self._strokes_app = RequestBodyLimitMiddleware(throttled, MAX_STROKES)
        self._upload_app = RequestBodyLimitMiddleware(app, MAX_UPLOAD)
        self._api_app = apis and ApiLogin(RequestBodyLimitMiddleware(apis, MAX_API_BODY), logins or Logins(), attempts)
        self._hosts = {"localhost", socket.gethostname().lower(), *(host.lower() for host in hosts)}

    async def __call__(self, scope: Scope, receive: Callable, send: Callable) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal:
            await _answer(send, *refusal)
            return

        begun = False

        async def send_hardened(message: MutableMapping[str, Any]) -> None:
            nonlocal begun
            begun = True
            if message["type"] == "http.response.start":
                named = {name.lower() for name, _ in message["headers"]}
                added = [(name, value) for name, value in HEADERS if name not in named]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        if LOGOUT.match(scope["path"]):
            # By default Gradio would end every session of the user's name.
            scope = {**scope, "query_string": b"all_session=false"}
        app = self._upload_app if UPLOAD.match(scope["path"]) else self._app
        # They are read after the login.
        if is_file(scope):
            app = self._strokes_app
        if self._api_app and APIS.match(scope["path"]):
            app = self._api_app
        try:
            await app(scope, receive, send_hardened)
        except Exception:
            if begun:
                raise
            log.exception("the server met an error of its own at %s", scope["path"])
            await _answer(send, 500, "The server met an error of its own; its log says which.")

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers = {name.lower().decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        # Only a trusted proxy's header has come so far.
        host, behind = headers.get("host", ""), headers.get("x-forwarded-host", "").split(",")[0].strip()
        try:
            urlsplit(f"//{host}"), urlsplit(f"//{behind}"), urlsplit(headers.get("origin", ""))
        except ValueError as error:
            return 400, f"The header Host or Origin is malformed: {error}."
        host = behind or host
        if not self._known(host):
            return 400, "This page is not served under that host name; use its address, or name it with --public-name."
        if CLOSED.match(scope["path"]):
            return 404, "Not found."
        # A link on another site may open the page, but not sign its visitor out.
        method = "POST" if LOGOUT.match(scope["path"]) else scope["method"]
        if self._foreign(headers, host, method):
            return 403, "This request comes from another site."
        return None

    def _known(self, host: str) -> bool:
        name = (urlsplit(f"//{host}").hostname or "").lower() if host else ""
        if name in self._hosts or (self._share and name.endswith(TUNNEL)):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _foreign(self, headers: MutableMapping[str, str], host: str, method: str) -> bool:
        site, opens = headers.get("sec-fetch-site"), headers.get("sec-fetch-mode") == "navigate"
        if site:
            # Browsers set this header themselves, and a page cannot change it.
            return site not in ("same-origin", "none") and not (opens and method in SAFE_METHODS)
        origin = headers.get("origin")
        return origin is not None and urlsplit(origin).netloc.lower() != host.lower()


async def _answer(send: Callable, status: int, text: str) -> None:
    body = text.encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode()), *HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
