"""A job: one request, or one task, on its way through the engine, and what it tells whoever watches it.

A job keeps the latest state and all pictures, never a queue: a watcher that reads slowly, or nobody at all, costs
no memory, and a second watcher (a reloaded page) sees the same as the first.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from samplers.run import Plan
from webui.core.request import Request

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

STATES = {Finished: "done", Failed: "failed", StoppedEarly: "stopped"}


class Job:
    """One resolved request, or one task. Only the engine changes it; anyone may read it, from any thread.

    request   None for a task
    plan      the sampler, its options and the sigmas that will run; None for a task
    source    the fitted input picture of img2img (PIL image), else None
    previews  whether Progress carries pictures
    conditions  what a replay restores
    task      work that is not a request
    urgent    whether it goes before those that are not
    """

    urgent = False

    def __init__(
        self,
        request: Request | None,
        plan: Plan | None,
        owner: str = "",
        source: Any = None,
        previews: bool = True,
        clock: Callable[[], float] = time.monotonic,
        conditions: RunEnvironment = DEFAULT_ENVIRONMENT,
        task: Task | None = None,
    ):
        self.id, self.conditions = uuid.uuid4().hex, conditions
        self.request, self.plan, self.owner, self.source, self.previews = request, plan, owner, source, previews
        self.task = task
        self._clock = clock
        self._changed = threading.Condition()
        self._now = Snapshot("waiting", None, None, (), None)
        self._stop = False
        self._watchers = 1
        self._left: float | None = None
        self.ended: float | None = None

    @property
    def model(self) -> str:
        """Name of the model that it needs; empty if none."""
        return self.task.model if self.task else self.request.model

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

    def snapshot(self) -> Snapshot:
        """Everything known now; give it to `events` to hear only what is newer."""
        return self._now

    def events(self, after: Snapshot | None = None, tick: float | None = None) -> Iterator[Event | None]:
        """What happens to the job, up to and including its end; any number of watchers may listen.

        after  leave out what this snapshot already shows; by default every picture and the latest state come first
        tick   seconds after which None is yielded if nothing happened, so that a caller has a place to be cancelled
        Of Waiting and Progress only the latest is kept for a slow listener; pictures and the end always come.
        """
        seen = after or Snapshot("", None, None, (), None)
        while True:
            with self._changed:
                if self._now is seen:
                    self._changed.wait(tick)
                now = self._now
            if now is seen:
                yield None
                continue
            yield from news(seen, now)
            if now.outcome:
                return
            seen = now

    def wait(self, timeout: float | None = None) -> Outcome | None:
        """Block until the job has ended and return how; None if it has not within `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._now.outcome, timeout)
        return self._now.outcome

    # The rest is for the engine.

    def tell(self, event: Event) -> None:
        """Make an event known. After the end nothing more is told."""
        with self._changed:
            now = self._now
            if now.outcome:
                return
            if isinstance(event, Waiting):
                if event.position == now.position:
                    return
                self._now = replace(now, position=event.position)
            elif isinstance(event, Progress):
                self._now = replace(now, state="running", position=None, progress=event)
            elif isinstance(event, Picture):
                self._now = replace(now, pictures=(*now.pictures, event))
            elif isinstance(event, PartialResult):
                self._now = replace(now, parts=(*now.parts, event.value))
            else:
                self._now = replace(now, state=STATES[type(event)], position=None, outcome=event)
                self.ended, self.source = self._clock(), None
            self._changed.notify_all()

    def request_stop(self) -> None:
        """Ask the job to end; its next network call raises."""
        self._stop = True

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
