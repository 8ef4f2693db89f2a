"""The engine: one thread owns the model and the device, and takes jobs strictly one after another."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samplers.registry import Registry
from webui.core.images import open_input
from webui.core.limits import LOCAL, PUBLIC, Limits
from webui.core.request import Request, RequestError
from webui.core.resolved_request import ResolvedRequest, resolve
from weights.catalog import ModelInfo
from weights.identity import ModelIdentity
from weights.opening import open_model

from .drawing import info_of
from .engine_call import EngineCall
from .events import Failed, Outcome, StoppedEarly, Waiting
from .job_context import JobContext, Task
from .jobs import Job
from .opened_models import Models
from .run_environment import DEFAULT_ENVIRONMENT, RunEnvironment
from .worker import carry_out

if TYPE_CHECKING:
    from webui.settings import Settings

MAX_WAITING = 16  # jobs in the queue, the running one and errands not counted
MAX_ERRANDS = 16  # errands in the queue
PATIENCE = 60.0  # seconds that a job outlives its last watcher, and that a finished one can still be found
MAX_FINISHED = 32  # finished jobs remembered at most
IDLE_TICK = 5.0  # seconds between looks at abandoned jobs while nothing runs

log = logging.getLogger(__name__)


class Engine:
    """Takes resolved requests in, lets pictures out.

    registry     the plugins
    settings     model, device, outputs, weights and public are read
    open_model   open_model(found, device) -> Model, called in the engine's thread
    find_models  find_models(folder) -> {name: ModelInfo}; by default what is in the folder, remembered until it changes
    check_model  check_model(found) raises ModelError for a model that cannot be opened, while another is still in use
    clock        seconds, for tests
    patience     seconds that a job outlives its last watcher
    on_saved     called in the engine's thread with each picture that was written; it must neither wait nor raise
    """

    def __init__(
        self,
        registry: Registry,
        settings: Settings,
        open_model: Callable[[ModelInfo, str], Any] = open_model,
        find_models: Callable[[Path], dict[str, ModelInfo]] | None = None,
        clock: Callable[[], float] = time.monotonic,
        patience: float = PATIENCE,
        check_model: Callable[[ModelInfo], None] = lambda found: None,
        on_saved: Callable[[Path], None] = lambda path: None,
    ):
        self.registry, self.settings, self.patience = registry, settings, patience
        self._models = Models(settings, open_model, find_models, check_model)
        self._clock, self._on_saved = clock, on_saved
        self._lock = threading.Condition()
        self._waiting: list[Job] = []
        self._running: Job | None = None
        self._finished: list[Job] = []
        self._warm_wanted = self._closing = False
        self._thread = threading.Thread(target=self._work, name="sigmalab-engine", daemon=True)

    @property
    def status(self) -> str:
        """What the engine is doing, in a few words: "loading emoji ...", "emoji on cpu, ready", or why a load failed."""
        return self._models.status

    @property
    def limits(self) -> Limits:
        """What one request may cost here."""
        return PUBLIC if self.settings.public else LOCAL

    def models(self) -> dict[str, ModelInfo]:
        """The models that can be chosen, by name, as the folder is now; the default one first."""
        return self._models.all()

    def refused(self) -> dict[str, str]:
        """What lies among the models and cannot be used, by name, with the reason."""
        return self._models.refused()

    def count_tokens(self, text: str, model: str) -> tuple[int, int] | None:
        """Tokens of a prompt and of its chunks, see `Model.count_tokens`; None unless the model is the one in use."""
        used = self._models.named(model)
        return None if used is None else used.count_tokens(text)

    def identity_of(self, model: str) -> ModelIdentity | None:
        """What a model draws with, if it is the one that is open now."""
        used = self._models.named(model)
        return None if used is None else used.identity

    def resolve(self, request: Request) -> ResolvedRequest:
        """The request with its model and plan, checked against this engine's limits. Raises RequestError."""
        models = self._models.choices(request.model)
        return resolve(request, self.registry, models, self.settings.model or "", self.limits)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self, timeout: float = 10.0) -> None:
        """Stop the running job, drop the waiting ones and end the thread."""
        with self._lock:
            self._closing = True
            dropped, self._waiting = self._waiting, []
            if self._running:
                self._running.request_stop()
            self._lock.notify_all()
        for job in dropped:
            job.tell(StoppedEarly(info_of(job)))
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def warm_up(self) -> None:
        """Begin to load the default model, behind the page; a job that comes first goes first."""
        with self._lock:
            self._warm_wanted = True
            self._lock.notify_all()

    def submit(
        self, request: Request, owner: str = "", previews: bool = True, conditions: RunEnvironment = DEFAULT_ENVIRONMENT
    ) -> Job:
        """Queue a request and return its job, which the caller now watches: `abandon` it when it stops looking.

        owner     the browser's token; "" for API jobs, which stop as soon as they are abandoned
        previews  whether Progress carries pictures
        conditions  how to draw it
        Raises RequestError for a wrong request, an unusable input picture, and a full queue.
        """
        with self._lock:
            self._check_room()
        return self.submit_resolved(self.resolve(request), owner, previews, conditions)

    def submit_resolved(
        self,
        resolved: ResolvedRequest,
        owner: str = "",
        previews: bool = True,
        conditions: RunEnvironment = DEFAULT_ENVIRONMENT,
    ) -> Job:
        """`submit` for what `resolve` returned; the plan runs as it is. Raises RequestError."""
        # The input picture is opened here, not in the thread: the caller hears of a bad one at once, and the upload
        # may go.
        source = open_input(resolved.request)
        return self._queue(Job(resolved.request, resolved.plan, owner, source, previews, self._clock, conditions))

    def submit_task(self, task: Task, owner: str = "") -> Job:
        """Queue work that is not a request; it waits, runs alone, is watched and stopped like one.

        Raises RequestError for a model that is not there, and a full queue.
        """
        if task.model:
            self._models.check(task.model)
        conditions = getattr(task, "conditions", DEFAULT_ENVIRONMENT)
        return self._queue(Job(None, None, owner, clock=self._clock, conditions=conditions, task=task))

    def ask(self, model: str, work: Callable[[Any], Any]) -> Future:
        """Have a small piece of work done on a model in the engine's thread, between two jobs: the answer to come.

        model  the name of one of `models`, which is opened if another one is open
        work   work(opened model), a second's worth at most: whoever waits for a picture waits for it, too
        The answer raises RequestError with words for the user where the model or the work fails; cancel it when nobody
        waits for it any more. Raises RequestError for an unknown model and when too much is being asked.
        """
        self._models.check(model)
        errand = EngineCall(model, work, self._clock)
        self._queue(errand)
        return errand.answer

    def find(self, owner: str) -> Job | None:
        """The newest job of this token that runs, waits, or ended less than a minute ago."""
        self._sweep()
        with self._lock:
            jobs = [*self._finished, *filter(None, [self._running]), *self._waiting]
            return next((job for job in reversed(jobs) if owner and job.owner == owner), None)

    def stop(self, job: Job) -> None:
        """End a job now: a waiting one at once, a running one within one network call."""
        job.request_stop()
        self._sweep()

    def abandon(self, job: Job) -> None:
        """One watcher less. Without any, the job stops after a minute; an API job at once."""
        job.leave()
        self._sweep()

    def adopt(self, job: Job) -> None:
        """One watcher more; undone by `abandon`."""
        job.watch()

    def _queue(self, job: Job) -> Job:
        with self._lock:
            self._check_room(job.urgent)
            urgent = sum(each.urgent for each in self._waiting)
            self._waiting.insert(urgent if job.urgent else len(self._waiting), job)
            self._renumber()
            self._lock.notify_all()
        return job

    def _check_room(self, urgent: bool = False) -> None:
        if self._closing:
            raise RequestError("Sigmalab is shutting down.")
        waiting = sum(each.urgent == urgent for each in self._waiting)
        if urgent and waiting >= MAX_ERRANDS:
            raise RequestError("Too many are asking at once. Try again in a moment.")
        if not urgent and waiting >= MAX_WAITING:
            raise RequestError(f"The queue is full: {MAX_WAITING} jobs are waiting. Try again in a moment.")

    def _renumber(self) -> None:
        """Tell waiting jobs how many are ahead, errands not counted; the lock is held."""
        ahead = self._running is not None and not self._running.urgent
        for position, job in enumerate((each for each in self._waiting if not each.urgent), start=ahead):
            job.tell(Waiting(position))

    def _sweep(self) -> None:
        """End waiting jobs that were stopped or left alone, forget old finished ones."""
        with self._lock:
            ending = [job for job in self._waiting if job.should_stop(self.patience)]
            self._waiting = [job for job in self._waiting if job not in ending]
            if ending:
                self._renumber()
        for job in ending:
            self._end(job, StoppedEarly(info_of(job)))
        with self._lock:
            now = self._clock()
            recent = [job for job in self._finished if now - job.ended < self.patience]
            self._finished = recent[-MAX_FINISHED:]

    def _end(self, job: Job, outcome: Outcome) -> None:
        job.tell(outcome)
        with self._lock:
            # Nobody can ask for one that has no owner.
            if job.owner:
                self._finished.append(job)
            if job is self._running:
                self._running = None

    def _work(self) -> None:
        """The thread: one job after another, until `close`."""
        while True:
            with self._lock:
                if self._closing:
                    break
                job = self._running = self._waiting.pop(0) if self._waiting else None
                warm = job is None and self._warm_wanted
                self._warm_wanted = self._warm_wanted and not warm
                if job:
                    self._renumber()
                elif not warm:
                    self._lock.wait(IDLE_TICK)
            # Nothing that a job or a model raises may end this thread, SystemExit from a plugin included.
            try:
                if job:
                    self._end(job, self._run(job))
                elif warm:
                    self._models.warm_up()
                self._sweep()
            except BaseException:
                log.exception("the engine met an error of its own")
                if job:
                    self._end(job, Failed("Sigmalab met an error of its own; the log says more."))
        self._models.close()

    def _run(self, job: Job) -> Outcome:
        outputs, public = job.conditions.outputs or self.settings.outputs, self.settings.public
        stopped = partial(self._should_stop, job)
        desk = JobContext(None, self.registry, outputs, stopped, self._clock, public, job.tell, self._on_saved)
        return carry_out(job, desk, self._models, self.settings)

    def _should_stop(self, job: Job) -> bool:
        """Asked around every network call, which is also when others who gave up waiting are let go."""
        self._sweep()
        return self._closing or job.should_stop(self.patience)
