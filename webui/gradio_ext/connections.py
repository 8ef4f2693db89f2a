"""Connections that send no request, or half of one: they are closed before they lock others out or fill the log."""

from __future__ import annotations

import asyncio
import errno
import logging
import threading
import time
from collections import Counter
from typing import Any, TextIO

try:
    import resource
except ImportError:  # Windows, which has no such limit
    resource = None  # type: ignore[assignment]

FILES = 65_536  # open files that are asked for
MOST = 1_000  # connections
RESERVED = 200  # open files that are left for everything else
PATIENCE = 15.0  # seconds that a connection may take to send a request's headers
UPLOAD_PATIENCE = 600.0  # seconds that it may take to send all of a request
FAREWELL = 1.0  # seconds that answers may still take once the server is to end
LOOK = 0.25  # seconds between two looks
LINES, SPAN = 5, 60.0  # equal lines of the log that are let through in so many seconds
CHARACTERS = 200_000  # on the console, in as many seconds

log = logging.getLogger(__name__)


def raise_file_limit() -> int:
    """Let this process open as many files as it may, FILES at most; how many connections that leaves room for."""
    if resource is None:
        return MOST
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return max(16, min(MOST, soft - RESERVED))


def watch_connections(server: Any) -> None:
    """Look after the connections of a uvicorn server that runs, and after what they make it log.

    At its end those that are still being answered are closed: an open page listens to streams that have no end.
    """
    most, loop = raise_file_limit(), server.servers[0].get_loop()
    for name in ("asyncio", "uvicorn.error"):
        logging.getLogger(name).addFilter(RepeatedLines())
    watch, connections = ConnectionWatch(most), server.server_state.connections

    async def look() -> None:
        while not server.should_exit:
            watch.look(connections)
            await asyncio.sleep(LOOK)
        end = time.monotonic() + FAREWELL
        while connections and time.monotonic() < end:
            await asyncio.sleep(LOOK / 5)
        for each in list(connections):
            each.transport.abort()

    def start() -> None:
        loop.set_exception_handler(_on_error)
        # The server keeps its tasks, and ends those that are left.
        server.server_state.tasks.add(task := loop.create_task(look()))
        task.add_done_callback(server.server_state.tasks.discard)

    loop.call_soon_threadsafe(start)


class ConnectionWatch:
    """Closes connections that take too long over a request, and of too many those that have waited longest: first the
    ones that have never sent a request, then those that a browser keeps for its next one.

    most  connections at once; those that are being answered are not closed, whatever their number
    """

    def __init__(self, most: int):
        self._most = most
        self._since: dict[Any, tuple[bool, float]] = {}

    def look(self, connections: set[Any]) -> None:
        """Look at all connections once."""
        now = time.monotonic()
        states = {each: state for each in connections if (state := _state(each)) is not None}
        self._since = {
            each: known if (known := self._since.get(each)) and known[0] == state else (state, now)
            for each, state in states.items()
        }
        idle = [(each.cycle is not None, since, id(each), each) for each, (idle, since) in self._since.items() if idle]
        waiting = sorted(idle)
        surplus = max(0, len(connections) - self._most)
        late = [each for _, since, _, each in waiting if now - since > PATIENCE]
        slow = [each for each, (idle, since) in self._since.items() if not idle and now - since > UPLOAD_PATIENCE]
        ending = {*late, *slow, *(each for *_, each in waiting[:surplus])}
        for each in ending:
            each.transport.abort()
        if surplus:
            log.warning("more than %d connections: %d that sent no request were closed", self._most, len(ending))


def _state(connection: Any) -> bool | None:
    """True while the headers of a request are awaited, False while its body is, None while it is answered."""
    cycle = connection.cycle
    if cycle is None or cycle.response_complete:
        return True
    return False if cycle.more_body else None


def _on_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    error = context.get("exception")
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        # Without the traceback that asyncio would add to each of thousands.
        logging.getLogger("asyncio").error("no more files can be opened, so connections are refused for a moment")
        return
    loop.default_exception_handler(context)


class LimitedText:
    """A text stream that lets so many characters through in SPAN seconds, and then says how many it left out.

    Gradio writes a traceback of every error, past the log: whoever finds one could fill the disk.
    """

    def __init__(self, stream: TextIO):
        self._stream, self._lock = stream, threading.Lock()
        self._began, self._written, self._left_out = 0.0, 0, 0

    def write(self, text: str) -> int:
        """Write a text or leave it out."""
        with self._lock:
            now = time.monotonic()
            if now - self._began > SPAN:
                if self._left_out:
                    self._stream.write(f"\n({self._left_out} characters were left out here)\n")
                self._began, self._written, self._left_out = now, 0, 0
            if self._written + len(text) > CHARACTERS:
                self._left_out += len(text)
            else:
                self._written += len(text)
                self._stream.write(text)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class RepeatedLines(logging.Filter):
    """Lets the first LINES of equal messages through, then none until SPAN seconds are over."""

    def __init__(self) -> None:
        super().__init__()
        self._began, self._seen = 0.0, Counter[str]()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line is written."""
        now = time.monotonic()
        if now - self._began > SPAN:
            self._began, self._seen = now, Counter()
        text = str(record.msg)[:200]
        self._seen[text] += 1
        return self._seen[text] <= LINES and len(self._seen) < 1000
