"""The queue: which jobs wait, run and have ended. It is the single truth; any number of workers may take from it."""

from __future__ import annotations

import threading
from collections.abc import Callable

from webui.core.request import RequestError

from .events import Outcome, StoppedEarly, Waiting
from .jobs import Job

MAX_WAITING = 16  # jobs in the queue, running and urgent ones not counted
MAX_URGENT = 16  # urgent jobs in the queue
MAX_FINISHED = 32  # finished jobs remembered at most


class JobQueue:
    """Waiting jobs in order, urgent ones first; running ones; and finished ones, until they are forgotten.

    clock     seconds
    patience  seconds that a job outlives its last watcher, and that a finished one can still be found
    """

    def __init__(self, clock: Callable[[], float], patience: float):
        self._clock, self.patience = clock, patience
        self._changed = threading.Condition()
        self._waiting: list[Job] = []
        self._running: list[Job] = []
        self._finished: list[Job] = []
        self._closed = False

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
    def closed(self) -> bool:
        """Whether the program is ending."""
        return self._closed

    def check_room(self, urgent: bool = False) -> None:
        """Raises RequestError if another job would be too much."""
        with self._changed:
            if self._closed:
                raise RequestError("Sigmalab is shutting down.")
            waiting = sum(job.urgent == urgent for job in self._waiting)
        if urgent and waiting >= MAX_URGENT:
            raise RequestError("Too many are asking at once. Try again in a moment.")
        if not urgent and waiting >= MAX_WAITING:
            raise RequestError(f"The queue is full: {MAX_WAITING} jobs are waiting. Try again in a moment.")

    def put(self, job: Job) -> None:
        """Add a job. Raises RequestError if there is no room."""
        with self._changed:
            self.check_room(job.urgent)
            urgent = sum(each.urgent for each in self._waiting)
            self._waiting.insert(urgent if job.urgent else len(self._waiting), job)
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
            job = self._waiting.pop(0)
            self._running.append(job)
            self._tell_positions()
            return job

    def wake(self) -> None:
        """Let waiting workers look whether they are wanted elsewhere."""
        with self._changed:
            self._changed.notify_all()

    def finish(self, job: Job, outcome: Outcome) -> None:
        """End a job, running or not."""
        job.tell(outcome)
        with self._changed:
            # Nobody can ask for one that has no owner.
            if job.owner:
                self._finished.append(job)
            if job in self._running:
                self._running.remove(job)

    def find(self, owner: str) -> Job | None:
        """The newest job of this owner that waits, runs or can still be found."""
        self.sweep()
        with self._changed:
            jobs = [*self._finished, *self._running, *self._waiting]
            return next((job for job in reversed(jobs) if owner and job.owner == owner), None)

    def should_stop(self, job: Job) -> bool:
        """Whether a running job has to end. Asked around every network call, which is also when others are swept."""
        self.sweep()
        return self._closed or job.should_stop(self.patience)

    def sweep(self) -> None:
        """End waiting jobs that were stopped or abandoned; forget finished ones after a while."""
        with self._changed:
            ending = [job for job in self._waiting if job.should_stop(self.patience)]
            self._waiting = [job for job in self._waiting if job not in ending]
            if ending:
                self._tell_positions()
        for job in ending:
            self.finish(job, StoppedEarly(job.stopped_info()))
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

    def _tell_positions(self) -> None:
        """Tell waiting jobs how many are ahead, urgent ones not counted; the lock is held."""
        ahead = sum(not job.urgent for job in self._running)
        for position, job in enumerate((each for each in self._waiting if not each.urgent), start=ahead):
            job.tell(Waiting(position))
