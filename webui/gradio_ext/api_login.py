"""The login of the APIs that clients of other programs call: HTTP Basic, or a bearer token "user:password"."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from .login_throttle import LoginAttempts, address_of, too_many
from .signed_in import API_CALLER, signed_in_name

OFFERED = "/v1/images/files/"  # files whose names nobody can guess
REMEMBERED = 60.0  # seconds for which a password is not checked again: the check of an account's is slow on purpose
MOST_REMEMBERED = 100
ASK = {"www-authenticate": 'Basic realm="Sigmalab", charset="UTF-8"'}
WRONG = "This API asks for a login: send it as HTTP Basic, or as the bearer token user:password."


@dataclass(frozen=True)
class Logins:
    """Who may call the APIs.

    own     (user, password) of --api-auth, and the page's own login
    verify  whether a name and a password are those of an account, None without accounts
    """

    own: tuple[tuple[str, str], ...] = ()
    verify: Callable[[str, str], bool] | None = None

    @property
    def asked(self) -> bool:
        """Whether a login is asked for at all."""
        return bool(self.own) or self.verify is not None

    def right(self, name: str, password: str) -> bool:
        """Whether this login is right; slow for accounts."""
        given = f"{name}:{password}".encode()
        # All of them, so that the time tells nothing.
        known = [secrets.compare_digest(given, f"{user}:{word}".encode()) for user, word in self.own]
        return any(known) or (self.verify is not None and self.verify(name, password))


class ApiLogin:
    """ASGI middleware before the APIs: 401 without a login, 429 where guessing has to wait, else the caller is known.

    Whoever has signed in on the page in a browser needs no other login.
    """

    def __init__(self, app: ASGIApp, logins: Logins, attempts: LoginAttempts):
        self._app, self._logins, self._attempts = app, logins, attempts
        self._right: dict[bytes, float] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name: str | None = ""
        if self._logins.asked and not scope["path"].startswith(OFFERED):
            name = signed_in_name(scope) if scope["app"].auth is not None else None
            if name is None:
                refused, name = await self._check(scope)
                if refused:
                    await refused(scope, receive, send)
                    return
        token = API_CALLER.set(name)
        try:
            await self._app(scope, receive, send)
        finally:
            API_CALLER.reset(token)

    async def _check(self, scope: Scope) -> tuple[JSONResponse | None, str]:
        """(the refusal or None, the name of the caller)."""
        header = Headers(scope=scope).get("authorization", "")
        given = credentials(header)
        if given is None:
            return JSONResponse({"detail": WRONG, "error": {"message": WRONG}}, 401, ASK), ""
        name, password = given
        key, now = hashlib.sha256(header.encode()).digest(), time.monotonic()
        if self._right.get(key, 0.0) > now:
            return None, name
        address = address_of(scope)
        if wait := self._attempts.begin(address, name):
            return too_many(wait), ""
        if not await asyncio.to_thread(self._logins.right, name, password):
            return JSONResponse({"detail": WRONG, "error": {"message": WRONG}}, 401, ASK), ""
        self._attempts.succeeded(address, name)
        self._right = {each: until for each, until in self._right.items() if until > now}
        if len(self._right) >= MOST_REMEMBERED:
            del self._right[next(iter(self._right))]
        self._right[key] = now + REMEMBERED
        return None, name


def credentials(header: str) -> tuple[str, str] | None:
    """(name, password) of an Authorization header, Basic or Bearer; None if it has none."""
    kind, _, rest = header.strip().partition(" ")
    text = rest.strip()
    if kind.lower() == "basic":
        try:
            text = base64.b64decode(text, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            return None
    elif kind.lower() != "bearer":
        return None
    name, colon, password = text.partition(":")
    return (name, password) if colon else None
