"""Many clients at once, and connections that send half a request."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx

from .server import Page

Found = Iterator[tuple[int, list[str], dict[str, float]]]
AT_ONCE = 500
NO_LIMITS = httpx.Limits(max_connections=None)


def crowd(page: Page, numbers: range) -> Found:
    """So many clients at once, without trying again: each must get its own seed back."""

    def one(seed: int) -> str:
        told = page.draw(prompt="red apple", steps=2, seed=seed)
        return "" if f'"seeds": [{seed}]' in told else f"client {seed}: {told[-300:]!r}"

    # The client of the page would hold them back.
    page.client = httpx.Client(base_url=page.address, timeout=60, limits=NO_LIMITS, cookies=page.client.cookies)
    measured: dict[str, float] = {}
    with page.others(measured), ThreadPoolExecutor(max(1, len(numbers))) as pool:
        findings = [told for told in pool.map(one, numbers) if told]
    yield len(numbers), findings, measured


def half_open(page: Page, numbers: range) -> Found:
    """Connections that send half a request: others must be served meanwhile, and the log must not grow."""
    port, opened = int(page.address.rsplit(":", 1)[1]), []
    before = page.console.stat().st_size
    for first in range(numbers.start, numbers.stop, AT_ONCE):
        measured: dict[str, float] = {}
        cases = range(first, min(first + AT_ONCE, numbers.stop))
        with page.others(measured):
            for _ in cases:
                try:
                    opened.append(connection := socket.create_connection(("127.0.0.1", port), timeout=5))
                    connection.send(b"GET / HTTP/1.1\r\nHost: 127")
                except OSError:
                    # Refused, which is right when there are too many.
                    pass
            # By a connection of its own: one that was kept may be closed in the moment in which it is used again.
            status = httpx.get(f"{page.address}/gradio_api/app_id", timeout=60, cookies=page.client.cookies).status_code
        measured["log, kB"] = (page.console.stat().st_size - before) / 1000
        yield len(cases), [] if status == 200 else [f"somebody else got {status}"], measured
    for connection in opened:
        connection.close()
