"""Headers of reverse proxies, which count from the proxies that were named and from nobody else."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

# Gradio believes these from anybody: the links of the page would lead where a header says.
FORWARDED = (b"x-forwarded-", b"forwarded", b"x-gradio-server", b"x-real-ip", b"x-direct-url")


class TrustedProxies:
    """ASGI middleware: X-Forwarded-For, -Proto and -Host of a trusted proxy are used, those of others are removed.

    proxies  addresses and networks of the proxies
    """

    def __init__(self, app: ASGIApp, proxies: Iterable[str] = ()):
        self._app = app
        self._networks = [ipaddress.ip_network(proxy, strict=False) for proxy in proxies]
        self._behind_proxy = ProxyHeadersMiddleware(app, [str(network) for network in self._networks])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif self._trusts((scope.get("client") or ("",))[0]):
            await self._behind_proxy(scope, receive, send)
        else:
            headers = [each for each in scope["headers"] if not each[0].lower().startswith(FORWARDED)]
            await self._app({**scope, "headers": headers}, receive, send)

    def _trusts(self, client: str) -> bool:
        try:
            address = ipaddress.ip_address(client)
        except ValueError:
            return False
        return any(address in network for network in self._networks)
