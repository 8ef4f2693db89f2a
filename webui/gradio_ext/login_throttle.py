"""Slow down guessing of the login, which Gradio answers as often as anybody asks."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

FREE = 5  # attempts without a wait
LONGEST = 60.0  # seconds
FORGOTTEN = 600.0  # seconds after the last attempt
MAX_ADDRESSES = 1000

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Attempts:
    """The failed attempts of an address, and when the next one is allowed (time.monotonic)."""

    count: int
    allowed_at: float


class LoginThrottle:
    """ASGI middleware: from the sixth failed login of an address on, 429 for 1, 2, 4 ... 60 s after each attempt."""

    def __init__(self, app: ASGIApp):
        self._app = app
        self._attempts: dict[str, Attempts] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST" or scope["path"].rstrip("/") != "/login":
            await self._app(scope, receive, send)
            return
        address = (scope.get("client") or ("",))[0]
        now = time.monotonic()
        attempts = self._attempts.get(address, Attempts(0, now))
        wait = attempts.allowed_at - now
        if wait > 0:
            text = f"Too many failed logins; try again in {wait:.0f} seconds."
            await JSONResponse({"detail": text}, 429, {"retry-after": f"{wait:.0f}"})(scope, receive, send)
            return
        # Counted before the answer: many attempts at once must not all be free.
        self._count(address, attempts.count + 1, now)

        async def send_counted(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] < 400:
                self._attempts.pop(address, None)
            await send(message)

        await self._app(scope, receive, send_counted)

    def _count(self, address: str, count: int, now: float) -> None:
        pause = min(2.0 ** min(count - FREE, 10), LONGEST) if count >= FREE else 0.0
        if count == FREE:
            log.warning("%d failed logins from %s; further ones are slowed down", count, address)
        for key in [key for key, each in self._attempts.items() if now - each.allowed_at > FORGOTTEN]:
            del self._attempts[key]
        self._attempts.pop(address, None)
        if len(self._attempts) >= MAX_ADDRESSES:
            del self._attempts[next(iter(self._attempts))]
        self._attempts[address] = Attempts(count, now + pause)
