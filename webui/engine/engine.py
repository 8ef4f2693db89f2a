"""The engine: one thread owns the model and the device, and takes jobs strictly one after another."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from samplers.registry import Registry
from samplers.sampler import Stopped
from weights.catalog import Catalog, Found
from weights.opening import open_model

from ..limits import LOCAL, PUBLIC, Limits
from ..pictures import fit_picture, open_picture
from ..request import Request, RequestError, plan_of, settle
from .conditions import USUAL, Conditions, threads
from .drawing import Drawing, info_of
from .failures import explain, free_memory, out_of_memory
from .jobs import Failed, Finished, Job, Outcome, Progress, StoppedEarly, Waiting
from .tasks import Desk, Task

if TYPE_CHECKING:
    from ..settings import Settings

MAX_WAITING = 16  # jobs in the queue, the running one not counted
PATIENCE = 60.0  # seconds that a job outlives its last watcher, and that a finished one can still be found
MAX_ERRANDS = 16  # errands in the queue
MAX_FINISHED = 32  # finished jobs remembered at most
IDLE_TICK = 5.0  # seconds between looks at abandoned jobs while nothing runs

log = logging.getLogger(__name__)


class Engine:
    """Takes settled requests in, lets pictures out.

    registry     the plugins
    settings     model, device, outputs, weights and public are read
    open_model   open_model(found, device) -> Model, called in the engine's thread
    find_models  find_models(folder) -> {name: Found}; by default what is in the folder, remembered until it changes
    check_model  check_model(found) raises ModelError for a model that cannot be opened, while another is still in use
    clock        seconds, for tests
    patience     seconds that a job outlives its last watcher
    """

    def __init__(
        self,
        registry: Registry,
        settings: Settings,
        open_model: Callable[[Found, str], Any] = open_model,
        find_models: Callable[[Path], dict[str, Found]] | None = None,
        clock: Callable[[], float] = time.monotonic,
        patience: float = PATIENCE,
        check_model: Callable[[Found], None] = lambda found: None,
    ):
        self.registry, self.settings, self.patience = registry, settings, patience
        self._open_model, self._check_model = open_model, check_model
        catalog = Catalog()
        self._find_models = find_models or catalog.find_models
        self._problems = catalog.problems if find_models is None else lambda folder: {}
        self._clock = clock
        self._lock = threading.Condition()
        self._waiting: list[Job] = []
        self._running: Job | None = None
        self._finished: list[Job] = []
        self._errands: deque[tuple[str, Callable[[Any], Any], Future]] = deque()
        self._warm_wanted = self._closing = False
        self._status = "starting"
        self._model: Any = None
        self._model_found: tuple[Found, str] | None = None
        self._thread = threading.Thread(target=self._work, name="sigmalab-engine", daemon=True)

    @property
    def status(self) -> str:
        """What the engine is doing, in a few words: "loading emoji ...", "emoji on cpu, ready", or why a load failed."""
        return self._status

    @property
    def limits(self) -> Limits:
        """What one request may cost here."""
        return PUBLIC if self.settings.public else LOCAL

    def models(self) -> dict[str, Found]:
        """The models that can be chosen, by name, as the folder is now; the default one first."""
        found = self._find_models(self.settings.weights)
        first = self.settings.model or "emoji"
        return {name: found[name] for name in sorted(found, key=lambda name: (name != first, name))}

    def refused(self) -> dict[str, str]:
        """What lies among the models and cannot be used, by name, with the reason."""
        return self._problems(self.settings.weights)

    def count_tokens(self, text: str, model: str) -> tuple[int, int] | None:
        """Tokens of a prompt and of its chunks, see `Model.count_tokens`; None unless the model is the one in use."""
        used = self._model
        return used.count_tokens(text) if used is not None and used.name == model else None

    def settle(self, request: Request) -> Request:
        """The request with every default filled in, checked against this engine's limits. Raises RequestError."""
        return settle(request, self.registry, self._known_models(request), self.settings.model or "", self.limits)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self, timeout: float = 10.0) -> None:
        """Stop the running job, drop the waiting ones and end the thread."""
        with self._lock:
            self._closing = True
            dropped, self._waiting = self._waiting, []
            errands, self._errands = self._errands, deque()
            if self._running:
                self._running.request_stop()
            self._lock.notify_all()
        for job in dropped:
            job.tell(StoppedEarly(info_of(job)))
        for _, _, answer in errands:
            answer.cancel()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def warm_up(self) -> None:
        """Begin to load the default model, behind the page; a job that comes first goes first."""
        with self._lock:
            self._warm_wanted = True
            self._lock.notify_all()

    def submit(
        self, request: Request, owner: str = "", previews: bool = True, conditions: Conditions = USUAL
    ) -> Job:
        """Queue a request and return its job, which the caller now watches: `abandon` it when it stops looking.

        owner     the browser's token; "" for API jobs, which stop as soon as they are abandoned
        previews  whether Progress carries pictures
        conditions  how to draw it, for a replay
        Raises RequestError for a wrong request, an unusable input picture, and a full queue.
        """
        with self._lock:
            self._check_room()
        models = self._known_models(request)
        settled = settle(request, self.registry, models, self.settings.model or "", self.limits)
        found, source = models[settled.model], None
        if settled.mode == "img2img":
            # Opened here, not in the thread: the caller hears of a bad picture at once, and the upload may go.
            source = fit_picture(open_picture(settled.image), settled.width, settled.height, settled.fit)
        plan = plan_of(settled, self.registry, found)
        if conditions.sigmas:
            plan = replace(plan, sigmas=conditions.sigmas)
        return self._queue(Job(settled, plan, owner, source, previews, self._clock, conditions))

    def submit_task(self, task: Task, owner: str = "") -> Job:
        """Queue work that is not a request; it waits, runs alone, is watched and stopped like one.

        Raises RequestError for a model that is not there, and a full queue.
        """
        if task.model:
            self._check_known(task.model)
        conditions = getattr(task, "conditions", USUAL)
        return self._queue(Job(None, None, owner, clock=self._clock, conditions=conditions, task=task))

    def origin_of(self, model: str) -> tuple[str, str] | None:
        """Digest and device of a model, as its pictures carry them, if it is the one that is open now."""
        opened, found = self._model, self._model_found
        if opened is None or found is None or found[0].name != model:
            return None
        return opened.digest, str(opened.device)

    def ask(self, model: str, work: Callable[[Any], Any]) -> Future:
        """Have a small piece of work done on a model in the engine's thread, between two jobs: the answer to come.

        model  the name of one of `models`, which is opened if another one is open
        work   work(opened model), a second's worth at most: whoever waits for a picture waits for it, too
        The answer raises RequestError with words for the user where the model or the work fails; cancel it when nobody
        waits for it any more. Raises RequestError for an unknown model and when too much is being asked.
        """
        self._check_known(model)
        answer: Future = Future()
        with self._lock:
            if self._closing:
                raise RequestError("Sigmalab is shutting down.")
            if len(self._errands) >= MAX_ERRANDS:
                raise RequestError("Too many are asking at once. Try again in a moment.")
            self._errands.append((model, work, answer))
            self._lock.notify_all()
        return answer

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

    def _known_models(self, request: Request) -> dict[str, Found]:
        models = self.models()
        reason = self.refused().get(request.model) if request.model not in models else None
        if reason:
            raise RequestError(f"Model {request.model!r} cannot be used: {reason}.")
        return models

    def _check_known(self, model: str) -> None:
        if model not in (models := self.models()):
            raise RequestError(f"Unknown model {model!r}; known are {', '.join(models)}.")

    def _queue(self, job: Job) -> Job:
        with self._lock:
            self._check_room()
            self._waiting.append(job)
            self._renumber()
            self._lock.notify_all()
        return job

    def _check_room(self) -> None:
        if self._closing:
            raise RequestError("Sigmalab is shutting down.")
        if len(self._waiting) >= MAX_WAITING:
            raise RequestError(f"The queue is full: {MAX_WAITING} jobs are waiting. Try again in a moment.")

    def _renumber(self) -> None:
        """Tell waiting jobs how many are ahead; the lock is held."""
        for position, job in enumerate(self._waiting, start=bool(self._running)):
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
            self._finished.append(job)
            if job is self._running:
                self._running = None

    def _work(self) -> None:
        """The thread: one job after another, until `close`."""
        while True:
            with self._lock:
                if self._closing:
                    break
                errand = self._errands.popleft() if self._errands else None
                job = self._running = self._waiting.pop(0) if self._waiting and not errand else None
                warm = job is None and errand is None and self._warm_wanted
                self._warm_wanted = self._warm_wanted and not warm
                if job:
                    self._renumber()
                elif not warm and not errand:
                    self._lock.wait(IDLE_TICK)
            # Nothing that a job or a model raises may end this thread, SystemExit from a plugin included.
            try:
                if job:
                    self._end(job, self._run(job))
                elif errand:
                    self._run_errand(*errand)
                    # The frame of this loop lives as long as the thread, and the answer may hold pictures.
                    errand = None
                elif warm:
                    self._warm()
                self._sweep()
            except BaseException:
                log.exception("the engine met an error of its own")
                if job:
                    self._end(job, Failed("Sigmalab met an error of its own; the log says more."))
        self._model = None

    def _run_errand(self, name: str, work: Callable[[Any], Any], answer: Future) -> None:
        """Do what was asked, unless nobody waits for it any more."""
        if not answer.set_running_or_notify_cancel():
            return
        try:
            found = self._find_models(self.settings.weights).get(name)
            if found is None:
                raise RequestError(f"Model {name!r} is no longer there.")
            with torch.no_grad():
                result = work(self._opened(found, self.settings.device))
        except BaseException as error:
            message, full = explain(error, public=self.settings.public), out_of_memory(error)
            log.warning("an errand failed", exc_info=not isinstance(error, RequestError))
        else:
            answer.set_result(result)
            return
        if full:
            free_memory()
        answer.set_exception(RequestError(message))

    def _warm(self) -> None:
        models = self.models()
        name = self.settings.model or next(iter(models), "")
        if name not in models:
            self._status = (
                f"no model {name!r} in {self.settings.weights.name}/" if name else "no model found in weights/"
            )
            return
        try:
            self._opened(models[name], self.settings.device)
        except Exception as error:
            log.warning("the model could not be opened", exc_info=error)

    def _run(self, job: Job) -> Outcome:
        """Do a job; whatever happens becomes its outcome."""
        try:
            if self._should_stop(job):
                return StoppedEarly(info_of(job))
            model = self._ready(job)
            with threads(job.conditions.threads):
                info = self._do(job, model)
            return StoppedEarly(info) if info["stopped"] else Finished(info)
        except Stopped:
            return StoppedEarly(info_of(job))
        except BaseException as error:
            log.warning("job %s failed", job.id, exc_info=True)
            message, full = explain(error, job.request, self.settings.public), out_of_memory(error)
        if full:
            # Only here is the exception gone, and with it the tensors that its traceback held.
            free_memory()
        return Failed(message)

    def _ready(self, job: Job) -> Any:
        """The opened model of a job; None for a task without one."""
        if not job.model:
            return None
        found = self._find_models(self.settings.weights).get(job.model)
        if found is None:
            raise RequestError(f"Model {job.model!r} is no longer there.")
        device = job.conditions.device or self.settings.device
        if self._model is None or self._model_found != (found, device):
            job.tell(Progress(text=f"loading {found.name}"))
        model = self._opened(found, device)
        if job.conditions.digest not in (None, model.digest):
            wanted = f"the picture was made with another (hash {job.conditions.digest})"
            raise RequestError(f"Model {found.name} here has hash {model.digest}, and {wanted}.")
        return model

    def _do(self, job: Job, model: Any) -> dict[str, Any]:
        """Do a job on its model and return its info."""
        before, stopped = self._status, lambda: self._should_stop(job)
        outputs, public = job.conditions.outputs or self.settings.outputs, self.settings.public
        if model is not None:
            self._status = f"{model.name} on {model.device}, drawing"
        try:
            if job.task:
                return job.task.run(Desk(model, self.registry, outputs, stopped, self._clock, public, job.tell))
            one = self.settings.one_at_a_time
            return Drawing(job, model, self.registry, outputs, stopped, self._clock, public, one).draw()
        finally:
            self._status = before

    def _should_stop(self, job: Job) -> bool:
        """Asked around every network call, which is also when others who gave up waiting are let go."""
        self._sweep()
        return self._closing or job.should_stop(self.patience)

    def _opened(self, found: Found, device: str) -> Any:
        """The model, opened if it is not the one that is; the other one's memory is free before."""
        if self._model is not None and self._model_found == (found, device):
            return self._model
        if self._model is not None:
            # What is wrong with this one must not cost the one in use.
            self._check_model(found)
            self._model = self._model_found = None
            free_memory()
        self._status = f"loading {found.name} ..."
        try:
            self._model = self._open_model(found, device)
        except BaseException as error:
            self._status = explain(error, public=self.settings.public)
            raise
        self._model_found = found, device
        self._status = f"{found.name} on {self._model.device}, ready"
        return self._model
