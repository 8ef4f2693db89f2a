"""A worker on another process or machine, as the queue sees it: it takes jobs, hands them over and relays events."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from samplers.registry import Registry
from webui.core.request import Request
from weights.identity import ModelIdentity
from weights.model import Model

from . import watchdog
from .events import Failed, Outcome, StoppedEarly
from .job_parts import Part, SharedRun
from .job_queue import IDLE_TICK, JobQueue
from .jobs import DrawJob, Job
from .remote_messages import (
    Answer,
    Ask,
    Condition,
    Do,
    End,
    Logged,
    Message,
    OthersWait,
    SavedFile,
    Skip,
    Stop,
    WarmUp,
    encode,
)
from .worker_link import Channel, WorkerLink

TICK = 0.05  # seconds between looks whether a running job is to stop
START_LIMIT = 300.0  # seconds until a worker that says nothing has not started
LONGEST_PAUSE = 60.0  # seconds between two starts of a worker that does not start, at most
PATIENCE = 2.0  # seconds that an answer may take

log = logging.getLogger(__name__)


class RemoteWorker:
    """Takes jobs from the queue and has them done elsewhere; a worker that ends is started anew.

    name      of its device, for the line at the top and for messages
    registry  the plugins as they are now
    connect   starts a worker and returns the channel to it. Raises OSError
    on_saved  see `Engine`
    """

    def __init__(
        self,
        queue: JobQueue,
        name: str,
        registry: Callable[[], Registry],
        connect: Callable[[], Channel],
        on_saved: Callable[[Path], None],
    ):
        self.name, self.opened = name, ""
        self._queue, self._registry, self._connect, self._on_saved = queue, registry, connect, on_saved
        self._status, self._starts = "starting", 0
        self._link: WorkerLink | None = None
        self._warm = False
        self._numbers = count(1)
        self._answers: dict[int, SimpleQueue[Any]] = {}
        self._thread = threading.Thread(target=self._work, name=f"sigmalab-worker-{name}", daemon=True)

    @property
    def status(self) -> str:
        """What it does, in a few words."""
        return self._status

    @property
    def stuck(self) -> frozenset[str]:
        """None: a sampler that cannot be ended ends with its process."""
        return frozenset()

    @property
    def opened_model(self) -> Model | None:
        """None: it is in another process."""
        return None

    @property
    def alive(self) -> bool:
        """Whether its thread runs."""
        return self._thread.is_alive()

    @property
    def channel(self) -> Channel | None:
        """The channel to the worker as it is now, None between two."""
        return self._link.channel if self._link else None

    def start(self) -> None:
        """Start the worker."""
        self._queue.join(self)
        self._thread.start()

    def join(self, timeout: float) -> None:
        """Wait for its end, which comes once the queue is closed."""
        if self.alive:
            self._thread.join(timeout)

    def warm_up(self) -> None:
        """Load the default model as soon as no job waits."""
        self._warm = True
        if self._link and self._link.ready.is_set():
            self._link.send(WarmUp())

    def count_tokens(self, text: str, model: str) -> tuple[int, int] | None:
        """See `Engine.count_tokens`."""
        counted: tuple[int, int] | None = self._ask("count_tokens", text, model) if self.opened == model else None
        return counted

    def identity_of(self, request: Request) -> ModelIdentity | None:
        """See `Engine.identity_of`."""
        known = self.opened == request.model
        identity: ModelIdentity | None = self._ask("identity_of", request) if known else None
        return identity

    def _ask(self, method: str, *arguments: Any) -> Any:
        """What a method of the worker's engine returns; None if it does not answer in time."""
        link, number = self._link, next(self._numbers)
        if link is None or link.ended.is_set():
            return None
        answer = self._answers[number] = SimpleQueue()
        link.send(Ask(number, method, arguments))
        try:
            return answer.get(timeout=PATIENCE)
        except Empty:
            return None
        finally:
            del self._answers[number]

    def _work(self) -> None:
        """The thread: one part of a job after another, until the queue is closed."""
        while not self._queue.closed:
            try:
                if self._link is None or self._link.ended.is_set():
                    self._begin_anew()
                elif taken := self._queue.take_for(self, IDLE_TICK, self._link.ended.is_set):
                    self._do(self._link, *taken)
                self._queue.sweep()
            except Exception:
                if self._queue.closed:
                    break
                log.exception("the worker on %s met an error of its own", self.name)
                time.sleep(1)
        if self._link:
            self._link.send(End())
            self._link.channel.close(5.0)

    def _begin_anew(self) -> None:
        """Start the worker and wait until it is ready; after one that did not start, wait before."""
        if self._link is not None:
            why = self._link.channel.why_ended()
            log.warning("the worker on %s has ended and is started anew. %s", self.name, why)
            self._status, self.opened, self._link = f"starting anew on {self.name}", "", None
        pause = 0.0 if self._starts < 2 else min(LONGEST_PAUSE, 2.0 ** (self._starts - 1))
        until = time.monotonic() + pause
        while time.monotonic() < until and not self._queue.closed:
            time.sleep(TICK)
        if self._queue.closed:
            return
        self._starts += 1
        self._link = link = WorkerLink(self._connect(), self._hear, self._queue.wake)
        began = time.monotonic()
        while not link.ready.wait(TICK):
            if self._queue.closed or time.monotonic() - began > START_LIMIT:
                link.channel.kill()
                return
        if link.ended.is_set():
            self._status = f"the worker on {self.name} does not start; the log says why"
            return
        self._starts = 0
        if self._warm:
            link.send(WarmUp())

    def _hear(self, message: Message) -> None:
        """What a worker says beside the events of orders."""
        if isinstance(message, Condition):
            self._status, self.opened = message.status, message.opened
        elif isinstance(message, SavedFile):
            self._on_saved(message.path)
        elif isinstance(message, Answer):
            if answer := self._answers.get(message.number):
                answer.put(message.value)
        elif isinstance(message, Logged):
            target = logging.getLogger(message.record.name)
            if target.isEnabledFor(message.record.levelno):
                target.handle(message.record)

    def _do(self, link: WorkerLink, job: Job, part: Part | None) -> None:
        """Do a part of a job; the worker that took the job from the queue goes on with the next one."""
        run = job.run
        while run is not None and part is not None:
            self.opened = job.model or self.opened
            try:
                outcome = self._outcome_of(link, job, run, part)
            except Exception as error:
                log.exception("job %s cannot be handed to the worker on %s", job.id, self.name)
                outcome = Failed(f"This cannot be done by a worker of another process: {error}")
            ended = run.end(part, outcome) if outcome else run.give_back(part, self, self._why(link))
            if ended is not None:
                self._queue.finish(job, ended)
            if outcome is None:
                self._queue.wake()
            goes_on = outcome is not None and run.lead is self and not link.ended.is_set()
            part = run.claim(self) if goes_on else None

    def _outcome_of(self, link: WorkerLink, job: Job, run: SharedRun, part: Part) -> Outcome | None:
        """Have a part done: how it ended; None if the worker ended before."""
        number = next(self._numbers)
        link.send(Do(number, encode(part.next_order(), self._registry(), link.number_of)))
        stopped, told_waiting, skips = False, None, job.skips
        while True:
            if not stopped and (run.over or self._queue.should_stop(job)):
                stopped = True
                link.send(Stop(number))
            if job.skips > skips:
                skips = job.skips
                link.send(Skip(number))
            if (waiting := self._queue.others_wait) is not told_waiting:
                told_waiting = waiting
                link.send(OthersWait(waiting))
            try:
                message = link.inbox.get(timeout=TICK)
            except Empty:
                if (ended := self._end_if_hung(link, job, stopped)) is not None:
                    return ended
                continue
            if message is None:
                return None
            if message.number != number:
                continue
            if isinstance(message.event, Outcome):
                return message.event
            run.tell(part, message.event, message.same_preview)

    def _end_if_hung(self, link: WorkerLink, job: Job, stopped: bool) -> Outcome | None:
        """End a worker that gives no sign of life, where somebody waits for that: a library holds Python's lock."""
        silent = link.silent
        if silent < (2 * watchdog.GRACE if stopped else watchdog.LIMIT) or not (stopped or self._queue.others_wait):
            return None
        what = f"The sampler {job.request.sampler}" if isinstance(job, DrawJob) else job.title
        message = f"{what} has given no sign of life for {silent:.0f} seconds, so its worker was ended."
        log.error("job %s: %s", job.id, message)
        link.channel.kill()
        link.ended.wait(5)
        return StoppedEarly(job.stopped_info()) if stopped else Failed(message)

    def _why(self, link: WorkerLink) -> str:
        return link.channel.why_ended() if link.ended.is_set() else ""
