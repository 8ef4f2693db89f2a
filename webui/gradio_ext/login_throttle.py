"""Slow down guessing of the login, which Gradio answers as often as anybody asks."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from starlette.datastructures import FormData
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .json_bodies import resend_body

FREE, FREE_OF_NAME = 5, 20  # attempts without a wait, from an address and for a name
LONGEST = 60.0  # seconds
FORGOTTEN = 600.0  # seconds after the last attempt
MAX_KEYS = 1000
MAX_NAME = 256  # characters

Key = tuple[str, str]  # ("address", an address) or ("name", a user's name)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Attempts:
    """The failed attempts of an address or for a name, and when the next one is allowed (time.monotonic)."""

    count: int
    allowed_at: float


class LoginAttempts:
    """After 5 failed logins of an address, or 20 for a name, a wait of 1, 2, 4 ... 60 s after each.

    Who has signed in under a name before, from the same address, does not wait for what others do under that name.
    """

    def __init__(self) -> None:
        self._attempts: dict[Key, Attempts] = {}
        self._welcome: dict[tuple[str, str], None] = {}

    def begin(self, address: str, name: str) -> float:
        """Count an attempt as failed and return 0; or return the seconds until the next one is allowed."""
        now, keys = time.monotonic(), self._keys(address, name)
        wait = max(self._attempts[key].allowed_at - now if key in self._attempts else 0.0 for key in keys)
        if wait <= 0:
            # Counted before the answer: many attempts at once must not all be free.
            for key in keys:
                self._count(key, now)
        return max(0.0, wait)

    def succeeded(self, address: str, name: str) -> None:
        """The attempt that began was no failure."""
        for key in self._keys(address, name):
            self._attempts.pop(key, None)
        self._welcome[address, name] = None
        if len(self._welcome) > MAX_KEYS:
            del self._welcome[next(iter(self._welcome))]

    def _keys(self, address: str, name: str) -> list[Key]:
        keys: list[Key] = [("address", address)]
        if name and (address, name) not in self._welcome:
            keys.append(("name", name))
        return keys

    def _count(self, key: Key, now: float) -> None:
        free = FREE if key[0] == "address" else FREE_OF_NAME
        for old in [each for each, last in self._attempts.items() if now - last.allowed_at > FORGOTTEN]:
            del self._attempts[old]
        before = self._attempts.pop(key, None)
        count = before.count + 1 if before else 1
        pause = min(2.0 ** min(count - free, 10), LONGEST) if count >= free else 0.0
        if count == free:
            log.warning("%d failed logins with the %s %r; further ones are slowed down", count, *key)
        if len(self._attempts) >= MAX_KEYS:
            del self._attempts[next(iter(self._attempts))]
        self._attempts[key] = Attempts(count, now + pause)


class LoginThrottle:
    """ASGI middleware that slows down guessing of the page's login: 429 while an address or a name has to wait."""

    def __init__(self, app: ASGIApp, attempts: LoginAttempts):
        self._app, self._attempts = app, attempts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST" or scope["path"].rstrip("/") != "/login":
            await self._app(scope, receive, send)
            return
        try:
            body = await Request(scope, receive).body()
        except ClientDisconnect:
            return
        address, name = address_of(scope), await _name(scope, body)
        if wait := self._attempts.begin(address, name):
            await too_many(wait)(scope, receive, send)
            return

        async def send_counted(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] < 400:
                self._attempts.succeeded(address, name)
            await send(message)

        await self._app(scope, resend_body(body, receive), send_counted)


def address_of(scope: Scope) -> str:
    """The address of a request's sender."""
    return (scope.get("client") or ("",))[0]


def too_many(wait: float) -> JSONResponse:
    """The answer to an attempt that comes so many seconds too early."""
    seconds = f"{max(1, round(wait))}"
    text = f"Too many failed logins; try again in {seconds} seconds."
    return JSONResponse({"detail": text}, 429, {"retry-after": seconds})


async def _name(scope: Scope, body: bytes) -> str:
    """The user's name in a login; "" if there is none."""
    try:
        form: FormData = await Request(scope, resend_body(body)).form(max_files=0, max_fields=10)
    except (MultiPartException, ValueError, KeyError):
        return ""
    except Exception as error:  # starlette turns a bad form into an answer
        log.debug("a login could not be read: %s", error)
        return ""
    name = form.get("username", "")
    return name.strip()[:MAX_NAME] if isinstance(name, str) else ""
