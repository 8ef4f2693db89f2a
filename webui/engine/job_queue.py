"""The queue: which jobs wait, run and have ended. It is the single truth; any number of workers may take from it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from statistics import fmean
from typing import Protocol

from webui.core.request import RequestError

from . import queue_room
from .events import Outcome, StoppedEarly, Waiting
from .job_parts import Part
from .jobs import Job

RECENT = 20  # jobs whose time counts for the estimate of the next ones
TOLD_AGAIN = 2.0  # seconds until waiting jobs are told anew how long they wait, or a tenth for each if that is more
MAX_FINISHED = 32  # finished jobs remembered at most
IDLE_TICK = 5.0  # seconds between a worker's looks at abandoned jobs while it has nothing to do
MAX_PASSED = 3  # jobs that go before one because a worker has their model open


class Taker(Protocol):
    """One of several workers, for `JobQueue.take_for`."""

    @property
    def opened(self) -> str:
        """Name of the model that is open there; "" for none."""
        ...


class JobQueue:
    """Waiting jobs in order, urgent ones first; running ones; and finished ones, until they are forgotten.

    Accounts take turns, and browser tabs where there are no accounts: the second job of one comes after the first of
    all that wait. Jobs of one come in the order of their arrival; calls of the API without accounts are one.

    clock     seconds
    patience  seconds that a job outlives its last watcher, and that a finished one can still be found
    on_ended  called with each job that has ended, except urgent ones and those dropped at the end; it must neither wait
              nor raise
    """

    def __init__(self, clock: Callable[[], float], patience: float, on_ended: Callable[[Job], None] = lambda job: None):
        self._clock, self.patience, self._on_ended = clock, patience, on_ended
        self._turn, self._turns = 0, dict[str, int]()
        self._durations: deque[float] = deque(maxlen=RECENT)
        self._changed = threading.Condition()
        self._waiting: list[Job] = []
        self._running: list[Job] = []
        self._finished: list[Job] = []
        self._closed, self._told = False, clock()
        self._takers: list[Taker] = []
        self._idle: list[Taker] = []
        self.wait_elsewhere = False

    @property
    def waiting(self) -> tuple[Job, ...]:
        """The jobs that wait, the next one first."""
        return tuple(self._waiting)

    @property
    def running(self) -> tuple[Job, ...]:
        """The jobs that workers have taken and not finished."""
        return tuple(self._running)

    @property
    def finished(self) -> tuple[Job, ...]:
        """The jobs that ended less than `patience` seconds ago and have an owner, the newest last."""
        return tuple(self._finished)

    @property
    def now(self) -> float:
        """The time by the clock of the jobs."""
        return self._clock()

    @property
    def closed(self) -> bool:
        """Whether the program is ending."""
        return self._closed

    @property
    def others_wait(self) -> bool:
        """Whether jobs wait that somebody would see end; `wait_elsewhere` says so of the queue that sent a job here."""
        return self.wait_elsewhere or any(not job.urgent for job in self._waiting)

    def is_wanted(self) -> bool:
        """Whether a worker has something to do that does not wait: a job, or the end of the program."""
        return self._closed or bool(self._waiting)

    def check_room(self, urgent: bool = False, account: str = "", most: int | None = None, held: int = 0) -> None:
        """Raises QueueFull if another job would be too much, see `queue_room`; RequestError while the program ends."""
        with self._changed:
            if self._closed:
                raise RequestError("Sigmalab is shutting down.")
            queue_room.check_room(self._waiting, urgent, account, most, held, self._seconds_ahead(1))

    def seconds_until_room(self) -> float | None:
        """About how long a full queue takes until it has room; None while it has room."""
        with self._changed:
            full = queue_room.is_full(self._waiting)
            return max(1.0, self._seconds_ahead(1) or 10.0) if full else None

    def put(self, job: Job, most: int | None = None) -> None:
        """Add a job; `most` see `check_room`. Raises RequestError if there is no room."""
        with self._changed:
            self.check_room(job.urgent, job.account, most, job.held)
            if not job.urgent:
                job.turn = self._turns[job.whose] = max(self._turn, self._turns.get(job.whose, 0)) + 1
            place = sum(each.urgent or (not job.urgent and each.turn <= job.turn) for each in self._waiting)
            self._waiting.insert(place, job)
            self._tell_positions()
            self._changed.notify_all()

    def take(self, timeout: float, wanted_elsewhere: Callable[[], bool] = lambda: False) -> Job | None:
        """The next job, for a worker that will `finish` it; None after `timeout` seconds or when the queue is closed.

        wanted_elsewhere  do not wait any longer once this is true, see `wake`
        """
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed or wanted_elsewhere(), timeout)
            if self._closed or not self._waiting:
                return None
            return self._begin(self._waiting[0])

    def join(self, taker: Taker) -> None:
        """One more worker that takes its jobs by `take_for`, and shares the time of those that wait."""
        with self._changed:
            self._takers.append(taker)

    def take_for(
        self, taker: Taker, timeout: float, wanted_elsewhere: Callable[[], bool] = lambda: False
    ) -> tuple[Job, Part] | None:
        """As `take`, for one of several workers: the next job that has a `run`, and a part of it to do.

        While no job waits, it helps with a running one that has parts left.

        A job goes to a free worker that has its model open; where that one is busy, the worker may take one of its own
        model first, which happens to a job at most MAX_PASSED times.
        """
        with self._changed:
            self._idle.append(taker)
            try:
                self._changed.wait_for(
                    lambda: self._closed or wanted_elsewhere() or self._next_for(taker) is not None, timeout
                )
            finally:
                self._idle.remove(taker)
            job = None if self._closed or wanted_elsewhere() else self._next_for(taker)
            if job is None or job.run is None:
                return None
            if job not in self._running:
                for each in self._waiting[: self._waiting.index(job)]:
                    each.passed += 1
                self._begin(job)
            part = job.run.claim(taker)
            return None if part is None else (job, part)

    def _begin(self, job: Job) -> Job:
        """Take a waiting job; the lock is held."""
        self._waiting.remove(job)
        job.started = self._clock()
        self._running.append(job)
        if not job.urgent:
            self._turn = max(self._turn, job.turn)
            # Whoever has not waited since has no turn to remember.
            self._turns = {name: turn for name, turn in self._turns.items() if turn > self._turn}
        self._tell_positions()
        return job

    def _next_for(self, taker: Taker) -> Job | None:
        """What a worker is to do now; the lock is held."""
        shared = [job for job in self._running if job.run is not None and job.run.has_pending]
        if left := next((job for job in shared if job.run is not None and job.run.is_left_alone), None):
            return left
        skipped = None
        for job in self._waiting:
            if job.model in ("", taker.opened):
                return job
            if any(each.opened == job.model for each in self._idle):
                continue  # which takes it
            busy = any(each.opened == job.model for each in self._takers)
            if not busy or not taker.opened or job.passed >= MAX_PASSED:
                return skipped or job
            skipped = skipped or job
        return skipped or next(iter(shared), None)

    def wake(self) -> None:
        """Let waiting workers look whether they are wanted elsewhere."""
        with self._changed:
            self._changed.notify_all()

    def finish(self, job: Job, outcome: Outcome) -> None:
        """End a job, running or not; one that has ended stays as it ended."""
        if job.outcome is not None:
            return
        job.tell(outcome)
        if not job.urgent:
            self._on_ended(job)
        with self._changed:
            if job.started is not None and not job.urgent:
                self._durations.append(self._clock() - job.started)
            # Nobody can ask for one that has no owner.
            if job.owner:
                self._finished.append(job)
            if job in self._running:
                self._running.remove(job)
            # A job outlives its end for a while; what its parts hold need not.
            job.run = None

    def find(self, owner: str) -> Job | None:
        """The newest job of this owner that waits, runs or can still be found."""
        self.sweep()
        with self._changed:
            jobs = [*self._finished, *self._running, *self._waiting]
            return next((job for job in reversed(jobs) if owner and job.owner == owner), None)

    def jobs_of(self, owner: str) -> tuple[Job, ...]:
        """The jobs of this owner that run or wait, in their order."""
        with self._changed:
            jobs = (*self._running, *self._waiting)
            # One that has just ended may still be among the running ones.
            return tuple(job for job in jobs if owner and job.owner == owner and job.outcome is None)

    def move(self, job: Job, earlier: bool) -> None:
        """Let a waiting job change places with the one of its owner before or behind it, if there is one."""
        with self._changed:
            own = [each for each in self._waiting if each.owner == job.owner and not each.urgent]
            place = own.index(job) + (-1 if earlier else 1) if job in own else -1
            if not 0 <= place < len(own):
                return
            first, second = self._waiting.index(job), self._waiting.index(own[place])
            self._waiting[first], self._waiting[second] = own[place], job
            job.turn, own[place].turn = own[place].turn, job.turn
            self._tell_positions()

    def should_stop(self, job: Job) -> bool:
        """Whether a running job has to end. Asked around every network call, which is also when others are swept."""
        self.sweep()
        return self._closed or job.should_stop(self.patience)

    def sweep(self) -> None:
        """End waiting jobs that were stopped or abandoned, tell the others how long they wait; forget finished ones."""
        with self._changed:
            ending = [job for job in self._waiting if job.should_stop(self.patience)]
            left = [job for job in self._running if job.run is not None and job.run.is_left_alone]
            alone = [job for job in left if job.should_stop(self.patience)]
            self._waiting = [job for job in self._waiting if job not in ending]
            if ending or self._clock() - self._told >= max(TOLD_AGAIN, len(self._waiting) / 10):
                self._tell_positions(anew=True)
        for job in ending:
            self.finish(job, StoppedEarly(job.stopped_info()))
        for job in alone:
            job.request_stop()
            if job.run is not None and job.run.is_left_alone:
                self.finish(job, job.run.outcome())
        with self._changed:
            now = self._clock()
            recent = [job for job in self._finished if now - job.ended < self.patience]
            self._finished = recent[-MAX_FINISHED:]

    def close(self) -> None:
        """Drop the waiting jobs and ask the running ones to end; workers get no more."""
        with self._changed:
            self._closed = True
            dropped, self._waiting = self._waiting, []
            for job in self._running:
                job.request_stop()
            self._changed.notify_all()
        for job in dropped:
            job.tell(StoppedEarly(job.stopped_info()))

    def _tell_positions(self, anew: bool = False) -> None:
        """Tell waiting jobs how many are ahead, urgent ones not counted; the lock is held.

        anew  also tell those whose place is the same how long they wait
        """
        ahead, self._told = sum(not job.urgent for job in self._running), self._clock()
        for position, job in enumerate((each for each in self._waiting if not each.urgent), start=ahead):
            if anew or position != job.snapshot().position:
                job.tell(Waiting(position, self._seconds_ahead(position)))

    def _seconds_ahead(self, position: int) -> float | None:
        """About how long so many jobs take, the running ones included; None before any was measured."""
        if not self._durations:
            return None
        mean, now = fmean(self._durations), self._clock()
        running = [now - job.started for job in self._running if not job.urgent and job.started is not None]
        return max(0.0, position * mean - sum(min(mean, spent) for spent in running)) / max(1, len(self._takers))
