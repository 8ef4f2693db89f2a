"""Plugins that take long to load: they are named on the console, and in the end given up."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any


class TookTooLong(BaseException):
    """A plugin was still being loaded after its time; no Exception, so that its `except Exception` lets it pass."""


@contextlib.contextmanager
def named_while_slow(name: str, patience: float, limit: float) -> Iterator[None]:
    """Name a plugin on the console if the block takes longer than `patience` seconds; interrupt it after `limit`."""
    text = f"sigmalab: the plugin {name} is still being loaded after {patience:g} s; Ctrl+C gives it up and goes on"
    timer = threading.Timer(patience, lambda: print(text, file=sys.stderr, flush=True))
    timer.daemon = True
    timer.start()
    try:
        with _interrupted_after(limit):
            yield
    finally:
        timer.cancel()


@contextlib.contextmanager
def _interrupted_after(seconds: float) -> Iterator[None]:
    """A block of plugin code in which TookTooLong is raised after so many seconds, and again after as many more.

    A signal also ends a plugin that sleeps or waits. There is none on Windows, and only the main thread gets one: there
    the block may go on.
    """
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return
    over = False

    def end(*_: Any) -> None:
        if not over:
            raise TookTooLong(f"it was still being loaded after {seconds:g} seconds and was given up")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
    try:
        yield
    finally:
        over = True
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
