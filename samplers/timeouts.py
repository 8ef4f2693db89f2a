"""Run code of others within limits: in a thread that is interrupted and, where even that fails, left behind."""

from __future__ import annotations

import ctypes
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

TICK = 0.01
UNITS = {"busy": " of processor time", "all": "", "imports": " of importing packages"}


class TookTooLong(Exception):
    """The code did not end within its limit; the message says where it was."""


class Escaped(Exception):
    """The code raised what would have ended the program: SystemExit, KeyboardInterrupt and their like."""


@dataclass(frozen=True)
class Limit:
    """Seconds that code of others may take.

    busy     processor time of its own, where the system can tell it for a thread
    all      time on the clock, which also ends one that sleeps; not what it waited for a processor, where that is told
    imports  time on the clock while it imports a package, which counts for neither of the others
    """

    busy: float
    all: float
    imports: float = 30.0


class _Interrupt(BaseException):
    """Raised inside the thread; not an Exception, so that `except Exception` does not keep it alive."""


class _WouldImport(BaseException):
    """Raised in place of an import; not an Exception, so that no sampler takes it for one of its own."""


class ImportGuard:
    """While entered, `run` keeps a function from importing packages that are not loaded yet, which may take seconds."""

    def __init__(self) -> None:
        self._threads: set[int] = set()

    def __enter__(self) -> ImportGuard:
        sys.meta_path.insert(0, self)
        return self

    def __exit__(self, *_: object) -> None:
        sys.meta_path.remove(self)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """Asked by the import system before its own finders; only what belongs to a loaded package goes on to them."""
        top = name.partition(".")[0]
        if threading.get_ident() in self._threads and top not in sys.modules and top not in sys.stdlib_module_names:
            raise _WouldImport(name)

    def run(self, check: Callable[[], str]) -> str:
        """What `check` returns, or a note that it was put off because of an import."""
        self._threads.add(threading.get_ident())
        try:
            return check()
        except _WouldImport as missing:
            return f"put off: it imports {missing} when it runs"
        finally:
            self._threads.discard(threading.get_ident())


def bounded(function: Callable[[], Any], limit: Limit, file: str = "") -> Any:
    """Call `function` and return its result or raise its error; Escaped for sys.exit(), TookTooLong after `limit`.

    file  the file whose lines are blamed, and whose own import is not taken for the import of a package
    A thread that neither ends nor can be interrupted (it waits inside C code) is a daemon and stays behind.
    """
    outcome: dict[str, Any] = {}

    def work() -> None:
        try:
            outcome["clock"] = _processor_clock()
            outcome["result"] = function()
        except BaseException as error:
            outcome["error"] = error

    thread = threading.Thread(target=work, daemon=True, name="plugin")
    thread.start()
    late = _watch(thread, outcome, limit, file)
    if late:
        _interrupt(thread)
        raise TookTooLong(late)
    error = outcome.get("error")
    if error is None:
        return outcome["result"]
    if isinstance(error, Exception):
        raise error
    raise Escaped(f"{type(error).__name__}: {error}".rstrip(": ")) from error


def _watch(thread: threading.Thread, outcome: dict[str, Any], limit: Limit, file: str) -> str | None:
    """None when the thread ended in time, else which limit it broke and where it was."""
    spent = dict(busy=0.0, all=0.0, imports=0.0)
    before = time.monotonic(), 0.0, 0.0
    while True:
        thread.join(TICK)
        if not thread.is_alive():
            return None
        now = time.monotonic(), _read(outcome.get("clock")), _queued(thread)
        frame = sys._current_frames().get(thread.ident)
        importing = _importing(frame, file)
        # A busy machine is not the plugin's fault.
        spent["imports" if importing else "all"] += max(0.0, now[0] - before[0] - (now[2] - before[2]))
        spent["busy"] += 0.0 if importing else now[1] - before[1]
        before = now
        for kind, unit in UNITS.items():
            if spent[kind] > getattr(limit, kind):
                return f"it did not end within {getattr(limit, kind):g} s{unit}; it was {_place(frame, file)}"


def _importing(frame: FrameType | None, file: str) -> bool:
    """Whether the innermost of `file` and the import machinery is the latter."""
    while frame is not None:
        name = frame.f_code.co_filename
        if file and name == file:
            return False
        if name.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _place(frame: FrameType | None, file: str) -> str:
    innermost = frame
    while frame is not None and frame.f_code.co_filename != file:
        frame = frame.f_back
    frame = frame or innermost
    if frame is None:
        return "about to start"
    return f"at line {frame.f_lineno} of {frame.f_code.co_filename.replace(chr(92), '/').rsplit('/', 1)[-1]}"


def _interrupt(thread: threading.Thread) -> None:
    for _ in range(20):
        if not thread.is_alive():
            return
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(_Interrupt))
        thread.join(TICK)


def _processor_clock() -> int | None:
    # Windows and macOS have none; there the clock on the wall is the only limit.
    return time.pthread_getcpuclockid(threading.get_ident()) if hasattr(time, "pthread_getcpuclockid") else None


def _read(clock: int | None) -> float:
    try:
        return 0.0 if clock is None else time.clock_gettime(clock)
    except OSError:
        # The thread ended between two looks, and its clock with it.
        return 0.0


def _queued(thread: threading.Thread) -> float:
    """Seconds for which it could have run and had no processor; 0 on systems that do not tell."""
    try:
        return int(Path(f"/proc/self/task/{thread.native_id}/schedstat").read_text("ascii").split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0
