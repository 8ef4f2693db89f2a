"""Jobs: a request to draw or a task to compute, on its way through the engine, and what it tells its watchers.

A job keeps its latest state and all of its pictures, never a queue: a watcher that reads slowly, or nobody at all,
costs no memory, and a second watcher (a reloaded page) sees the same as the first.
"""

from __future__ import annotations

import math
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from samplers.run import Plan
from webui.core.request import Request

from .drawing import Drawing, Share
from .events import (
    Event,
    Failed,
    Finished,
    Outcome,
    PartialResult,
    Picture,
    Progress,
    Snapshot,
    StoppedEarly,
    Waiting,
    news,
)
from .job_context import Task
from .run_environment import DEFAULT_ENVIRONMENT, RunEnvironment

if TYPE_CHECKING:
    from .job_parts import SharedRun

STATES = {Finished: "done", Failed: "failed", StoppedEarly: "stopped"}
PROGRESS_GAP = 0.1  # seconds between two reports of progress to one watcher


class Job:
    """What every job has. Only the engine changes it; anyone may read it, from any thread.

    urgent       goes before jobs that are not
    model        name of the model that it needs; empty for none
    environment  how the engine has to be set up for it
    account      whose it is, on a page with accounts
    turn         where it stands in the queue; created and started: when it came
                 and when a worker took it (None before), by the engine's clock
    run          its parts, where workers of other processes do it
    passed       how many jobs went before it because a worker had their model open
    skips        how often it was asked to leave out the pictures that were being drawn
    """

    urgent = False

    def __init__(
        self,
        model: str,
        owner: str = "",
        clock: Callable[[], float] = time.monotonic,
        environment: RunEnvironment = DEFAULT_ENVIRONMENT,
    ):
        self.id, self.model, self.owner, self.environment = uuid.uuid4().hex, model, owner, environment
        self.account, self.turn, self.passed, self.skips = "", 0, 0, 0
        self.run: SharedRun | None = None
        self.started: float | None = None
        self._clock, self.created = clock, clock()
        lock = threading.RLock()
        self._changed = threading.Condition(lock)
        # Told of everything but progress and places in the queue.
        self._changed_much = threading.Condition(lock)
        self._now = Snapshot("waiting", None, None, (), None)
        self._done_callbacks: list[Callable[[], None]] = []
        self._stop = False
        self._watchers = 1
        self._left: float | None = None
        self._ended = 0.0

    @property
    def held(self) -> int:
        """Bytes of pictures that it holds while it waits, about."""
        return 0

    @property
    def whose(self) -> str:
        """Whose turn it takes: its account's, without accounts its browser tab's; "" is that of all API calls."""
        return self.account or self.owner.partition("/")[0]

    @property
    def title(self) -> str:
        """What it does, in a few words without anything that its owner wrote."""
        return type(getattr(self, "task", self)).__name__

    @property
    def state(self) -> str:
        """ "waiting", "running", "done", "stopped" or "failed"."""
        return self._now.state

    @property
    def stopping(self) -> bool:
        """Whether somebody asked it to end, which it will before its next network call."""
        return self._stop

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """The pictures finished so far, in order."""
        return self._now.pictures

    @property
    def outcome(self) -> Outcome | None:
        """How it ended; None while it has not."""
        return self._now.outcome

    @property
    def ended(self) -> float:
        """When it ended, by the engine's clock; 0 before."""
        return self._ended

    def snapshot(self) -> Snapshot:
        """Everything known now; give it to `events` to hear only what is newer."""
        return self._now

    def events(
        self, after: Snapshot | None = None, tick: float | None = None, waiting_tick: float | None = None
    ) -> Iterator[Event | None]:
        """What happens to the job, up to and including its end; any number of watchers may listen.

        after         leave out what this snapshot already shows; by default every picture and the latest state first
        tick          seconds after which None is yielded if nothing happened, so that a caller can be cancelled there
        waiting_tick  the same while the job waits; by default equal
        Of Waiting and Progress only the latest is kept for a slow watcher; pictures and the end always come. Progress
        comes at most every PROGRESS_GAP seconds, and Waiting as many of them apart as jobs are ahead: all places change
        whenever a job begins, and hundreds of watchers would be told hundreds of times. All else comes at once.
        """
        seen, told = after or Snapshot("", None, None, (), None), -math.inf

        def early() -> float:
            """Seconds until what is new may be told; 0 or less for now."""
            if not self._now.only_progress_since(seen):
                return 0.0
            return told + PROGRESS_GAP * max(1, self._now.position or 0) - time.monotonic()

        while True:
            with self._changed:
                longest = waiting_tick if waiting_tick and self.started is None else tick
                if self._now is seen:
                    self._changed.wait(longest)
                if self._now is not seen and (seconds := early()) > 0:
                    self._changed_much.wait(seconds if longest is None else min(seconds, longest))
                now = seen if early() > 0 else self._now
            if now is seen:
                yield None
                continue
            told = time.monotonic()
            yield from news(seen, now)
            if now.outcome:
                return
            seen = now

    def wait(self, timeout: float | None = None) -> Outcome | None:
        """Block until the job has ended and return how; None if it has not within `timeout` seconds."""
        with self._changed:
            self._changed_much.wait_for(lambda: self._now.outcome, timeout)
        return self._now.outcome

    def add_done_callback(self, callback: Callable[[], None]) -> None:
        """Call it once the job has ended, from the engine's thread, or now if it has. It must not wait or raise."""
        with self._changed:
            if self._now.outcome is None:
                self._done_callbacks.append(callback)
                return
        callback()

    # The rest is for the engine.

    def tell(self, event: Event) -> None:
        """Make an event known. After the end nothing more is told."""
        with self._changed:
            now = self._now
            if now.outcome:
                return
            if isinstance(event, Waiting):
                if (event.position, event.seconds) == (now.position, now.wait):
                    return
                self._now = replace(now, position=event.position, wait=event.seconds)
            elif isinstance(event, Progress):
                self._now = replace(now, state="running", position=None, progress=event)
            elif isinstance(event, Picture):
                self._now = replace(now, pictures=(*now.pictures, event))
            elif isinstance(event, PartialResult):
                self._now = replace(now, parts=(*now.parts, event.value))
            else:
                self._now = replace(now, state=STATES[type(event)], position=None, outcome=event)
                self._ended = self._clock()
            self._changed.notify_all()
            if not self._now.only_progress_since(now):
                self._changed_much.notify_all()
            done = self._now.outcome is not None
        while done and self._done_callbacks:
            self._done_callbacks.pop()()

    def stopped_info(self) -> dict[str, Any]:
        """The info of a job that was stopped before it did anything."""
        return {"stopped": True}

    def request_stop(self) -> None:
        """Ask the job to end; its next network call raises."""
        self._stop = True

    def request_skip(self) -> None:
        """Ask the job to leave out the pictures that are being drawn now, and to go on with the next."""
        self.skips += 1

    def watch(self) -> None:
        """One more watcher."""
        with self._changed:
            self._watchers += 1
            self._left = None

    def leave(self) -> None:
        """One watcher less; without any, the job of a page lives on for a while and an API job stops."""
        with self._changed:
            self._watchers = max(0, self._watchers - 1)
            if not self._watchers:
                self._left = self._clock()
                self._stop = self._stop or not self.owner

    def should_stop(self, patience: float) -> bool:
        """Whether it was stopped, or has had no watcher for `patience` seconds."""
        left = self._left
        return self._stop or (left is not None and self._clock() - left >= patience)


class DrawJob(Job):
    """A job that draws a resolved request.

    previews  whether its Progress carries pictures
    share     the pictures that it draws; None for all
    """

    def __init__(
        self,
        drawing: Drawing,
        owner: str = "",
        previews: bool = True,
        clock: Callable[[], float] = time.monotonic,
        environment: RunEnvironment = DEFAULT_ENVIRONMENT,
        share: Share | None = None,
    ):
        super().__init__(drawing.request.model, owner, clock, environment)
        self.drawing, self.previews, self.share = drawing, previews, share

    @property
    def request(self) -> Request:
        """What is drawn."""
        return self.drawing.request

    @property
    def held(self) -> int:
        """Bytes of pictures that it holds while it waits, about."""
        source = self.drawing.source
        return 4 * source.picture.width * source.picture.height if source else 0

    @property
    def title(self) -> str:
        """What it draws: mode, size and sampler."""
        request = self.request
        return f"{request.mode}, {request.count} of {request.width}x{request.height}, {request.sampler}"

    @property
    def plan(self) -> Plan:
        """The plan of its run."""
        return self.drawing.plan

    def tell(self, event: Event) -> None:
        """Make an event known."""
        super().tell(event)
        if isinstance(event, Outcome):
            # A job outlives its end for a while; its input picture need not.
            self.drawing = replace(self.drawing, source=None)

    def stopped_info(self) -> dict[str, Any]:
        """The info of a job that was stopped before it drew anything."""
        return self.drawing.info()


class TaskJob(Job):
    """A job that computes a task."""

    def __init__(self, task: Task, owner: str = "", clock: Callable[[], float] = time.monotonic):
        super().__init__(task.model, owner, clock, getattr(task, "environment", DEFAULT_ENVIRONMENT))
        self.task = task

    @property
    def held(self) -> int:
        """Bytes of pictures that it holds while it waits, about."""
        return getattr(self.task, "held", 0)
