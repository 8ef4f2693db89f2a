"""End samplers that never call the network: nothing else could, since Stop acts at network calls."""

from __future__ import annotations

import ctypes
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from samplers import run as running
from samplers.wrappers import Stoppable

from .events import Progress
from .job_queue import JobQueue
from .jobs import Job

LOOK = 0.5  # seconds between two looks
TOLD = 10.0  # seconds of silence after which the watchers are told
GRACE = 5.0  # seconds of silence after which a stopped job is interrupted
LIMIT = 60.0  # seconds of silence after which a job is interrupted for others that wait

log = logging.getLogger(__name__)


class Interrupted(BaseException):
    """Raised in a sampler that took too long; no Exception, so that a plugin's `except Exception` lets it pass."""


class Watchdog:
    """A thread that watches the jobs of a worker.

    A sampler is silent while it computes without a network call. It is named to the job's watchers, and interrupted
    when the job was stopped or others wait. Python can interrupt its own code only: where a call into a library does
    not return, `replace` lets another thread go on with the queue, and the lost one ends at its next network call.

    current  (job, id of its thread, when it last asked whether it should stop), or None
    replace  replace(job, message) ends the job and gives the queue to another thread
    """

    def __init__(
        self,
        queue: JobQueue,
        current: Callable[[], tuple[Job, int, float] | None],
        replace: Callable[[Job, str], None],
    ):
        self._queue, self._current, self._replace = queue, current, replace
        self._interrupted: tuple[Job, float] | None = None
        self._thread = threading.Thread(target=self._watch, name="sigmalab-watchdog", daemon=True)

    def start(self) -> None:
        """Start the thread, which ends with the queue."""
        self._thread.start()

    def _watch(self) -> None:
        while not self._queue.closed:
            time.sleep(LOOK)
            try:
                self.look()
            except Exception:
                log.exception("the watchdog met an error of its own")

    def look(self) -> None:
        """Look once."""
        current = self._current()
        if current is None:
            return
        job, thread, asked = current
        silent = self._queue.now - asked
        if silent < min(TOLD, GRACE) or (sampler := sampler_at_work(thread)) is None:
            return
        said = f"The sampler {sampler} has not called the network for {silent:.0f} seconds"
        if silent >= TOLD:
            job.tell(replace(job.snapshot().progress or Progress(text=""), text=said))
        stopped = job.should_stop(self._queue.patience)
        others = self._queue.others_wait
        if not (stopped and silent >= GRACE) and not (others and silent >= LIMIT):
            return
        message = f"{said}, so its run was ended. Report that to whoever wrote the plugin."
        if self._interrupted is None or self._interrupted[0] is not job:
            log.warning("job %s: %s", job.id, message)
            self._interrupted = job, self._queue.now
            interrupt(thread)
        elif self._queue.now - self._interrupted[1] >= GRACE:
            self._replace(job, message)


def sampler_at_work(thread: int) -> str | None:
    """The name of the sampler whose own code a thread is in; None in a network call and everywhere else."""
    frame = sys._current_frames().get(thread)
    inner = True
    while frame is not None:
        if frame.f_code is Stoppable.__call__.__code__:
            return None
        if frame.f_code is running.steps.__code__:
            # Without a frame above it, it is between two steps.
            return None if inner else frame.f_locals["plan"].sampler.name
        frame, inner = frame.f_back, False
    return None


def interrupt(thread: int) -> None:
    """Raise Interrupted in a thread, before its next instruction of Python."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(Interrupted))


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """A block of plugin code that is interrupted after so many seconds. Raises TimeoutError then."""
    thread, lock = threading.get_ident(), threading.Lock()
    over = late = False

    def end() -> None:
        nonlocal late
        with lock:
            if not over:
                late = True
                interrupt(thread)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
        with lock:
            over = True
        # One that is on its way arrives here.
        while late:
            time.sleep(0.01)
    except Interrupted:
        raise TimeoutError(f"it took more than {seconds:g} seconds and was ended") from None
    finally:
        timer.cancel()
        over = True
