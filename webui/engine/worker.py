"""A worker owns one device: a thread that takes jobs from the queue, and the model that is open there."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from samplers.registry import Registry
from samplers.sampler import Stopped
from webui.core.request import Request, RequestError
from webui.core.text import as_sentence
from weights.backends.backend import BackendError, backend_error
from weights.identity import ModelIdentity
from weights.model import Model
from weights.model_info import ModelInfo
from weights.oom import out_of_memory

from .drawing import draw
from .engine_call import EngineCall
from .errors import explain, free_memory
from .events import Failed, Finished, Outcome, Progress, StoppedEarly
from .job_context import JobContext, OnHead, here
from .job_queue import IDLE_TICK, JobQueue
from .jobs import DrawJob, Job, TaskJob
from .opened_models import ModelHolder
from .run_environment import check_weights, identity_of, threads
from .watchdog import Interrupted, Watchdog, sampler_at_work

if TYPE_CHECKING:
    from webui.settings import Settings

log = logging.getLogger(__name__)


class Worker:
    """Takes jobs from a queue, one at a time, until the queue is closed. What a job does reaches others as its events.

    plugins  tells which plugins there are now; see `Engine` for the other arguments
    """

    def __init__(
        self,
        queue: JobQueue,
        holder: ModelHolder,
        plugins: Callable[[], Registry],
        settings: Settings,
        clock: Callable[[], float],
        on_saved: Callable[[Path], None],
        on_head: OnHead = here,
    ):
        self._queue, self._holder, self._plugins, self._settings = queue, holder, plugins, settings
        self._clock, self._on_saved, self._on_head = clock, on_saved, on_head
        self.upscalers = holder.upscalers()
        self._warm_up_wanted = False
        self._thread = self._new_thread()
        self._current: tuple[Job, int] | None = None
        self._asked = 0.0
        self._lost: dict[str, threading.Thread] = {}
        self._watchdog = Watchdog(queue, self._at_work, self._replace_thread)

    @property
    def name(self) -> str:
        """Its name among several: none, there is one alone."""
        return ""

    @property
    def alive(self) -> bool:
        """Whether its thread runs."""
        return self._thread.is_alive()

    @property
    def status(self) -> str:
        """What it does, in a few words: "loading emoji ...", "emoji on cpu, ready", or why a load failed."""
        return self._holder.status

    @property
    def opened_model(self) -> Model | None:
        """The model that is open now, None before the first."""
        return self._holder.opened

    def count_tokens(self, text: str, model: str) -> tuple[int, int] | None:
        """See `Engine.count_tokens`."""
        used = self._holder.named(model)
        return None if used is None else used.count_tokens(text)

    def identity_of(self, request: Request) -> ModelIdentity | None:
        """See `Engine.identity_of`."""
        used = self._holder.named(request.model)
        others = {name: self._holder.others.named(name) for name in request.other_models}
        if used is None or None in others.values():
            return None
        return identity_of(used, request, self.upscalers, others)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()
        self._watchdog.start()

    def join(self, timeout: float) -> None:
        """Wait for the thread to end, which it does once the queue is closed."""
        if self.alive and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def warm_up(self) -> None:
        """Load the default model as soon as no job waits."""
        self._warm_up_wanted = True
        self._queue.wake()

    def draw(self, job: Job) -> Outcome:
        """Do a job, whatever kind it is; whatever happens becomes its outcome."""
        environment, settings = job.environment, self._settings
        should_stop = partial(self._should_stop, job)
        try:
            if should_stop():
                return StoppedEarly(job.stopped_info())
            failed: BackendError | None = None
            context = JobContext(
                self._open_model(job),
                self._plugins(),
                environment.outputs or settings.outputs_of(job.account),
                should_stop,
                self._clock,
                settings.public,
                self.upscalers,
                self._holder.others,
                job.tell,
                self._on_saved,
                environment.batch or (1 if settings.one_at_a_time else None),
                lambda: job.skips,
                self._on_head,
            )
            with threads(environment.threads):
                try:
                    info = self._run(job, context)
                except Exception as error:
                    failed = backend_error(error)
                    # What has been shown and saved is not drawn again.
                    if failed is None or job.snapshot().pictures:
                        raise
                if failed is not None:
                    log.warning("%s, so torch draws the job %s", failed, job.id)
                    info = self._run(job, replace(context, model=context.model.by_torch))
                    info["notes"] = [*info.get("notes", ()), f"{as_sentence(str(failed))} Torch drew this."]
            return StoppedEarly(info) if info["stopped"] else Finished(info)
        except Stopped:
            return StoppedEarly(job.stopped_info())
        except Interrupted:
            return self._interrupted(job)
        except BaseException as error:
            log.warning("job %s failed", job.id, exc_info=not isinstance(error, RequestError))
            full = out_of_memory(error)
            resolved = job.drawing.resolved if isinstance(job, DrawJob) else None
            message = explain(error, resolved, settings.public)
        if full:
            # Only here is the exception gone, and with it the tensors that its traceback held.
            free_memory()
        return Failed(message)

    def _run(self, job: Job, context: JobContext) -> dict[str, Any]:
        if isinstance(job, EngineCall):
            with torch.no_grad():
                return dict(stopped=False, answer=job.compute(context.model))
        with nullcontext() if context.model is None else self._holder.drawing(context.model):
            if isinstance(job, DrawJob):
                return draw(job.drawing, context, job.previews, share=job.share)
            if isinstance(job, TaskJob):
                return job.task.run(context)
        raise TypeError(f"a worker cannot do {type(job).__name__}")

    def _open_model(self, job: Job) -> Model | None:
        """The opened model of a job; None for a task without one."""
        if not job.model:
            return None
        environment = job.environment
        device = environment.device or self._settings.device
        model = self._holder.open(
            job.model,
            device,
            lambda name: job.tell(Progress(text=f"loading {name}")),
            _known_model(job),
            environment.backend,
            environment.dtype,
        )
        check_weights(environment, model.identity, job.model)
        return model

    @property
    def stuck(self) -> frozenset[str]:
        """The samplers that still compute in a thread which could not be ended."""
        return frozenset(name for name, thread in self._lost.items() if thread.is_alive())

    def _new_thread(self) -> threading.Thread:
        return threading.Thread(target=self._work, name="sigmalab-engine", daemon=True)

    def _should_stop(self, job: Job) -> bool:
        current = self._current
        if current is not None and current[1] == threading.get_ident():
            self._asked = self._clock()
        # A thread that was replaced has a job that has ended.
        return job.outcome is not None or self._queue.should_stop(job)

    def _at_work(self) -> tuple[Job, int, float] | None:
        """See `Watchdog`."""
        current = self._current
        return (*current, self._asked) if current else None

    def _interrupted(self, job: Job) -> Outcome:
        if job.stopping:
            return StoppedEarly(job.stopped_info())
        progress = job.snapshot().progress
        said = progress.text if progress else "The sampler did not call the network"
        return Failed(f"{said}, so its run was ended. Report that to whoever wrote the plugin.")

    def _replace_thread(self, job: Job, message: str) -> None:
        """Give the queue to a new thread; the old one has lost its job."""
        name = sampler_at_work(self._thread.ident or 0) or job.title
        log.error("job %s: the sampler %s could not be ended; another thread goes on with the queue", job.id, name)
        self._lost[name] = self._thread
        self._thread, self._current = self._new_thread(), None
        self._queue.finish(job, StoppedEarly(job.stopped_info()) if job.stopping else Failed(message))
        self._thread.start()

    def _work(self) -> None:
        """The thread: one job after another, until the queue is closed or another thread has taken its place."""
        while not self._queue.closed and self._thread is threading.current_thread():
            job = self._queue.take(IDLE_TICK, lambda: self._warm_up_wanted or self._holder.can_improve)
            # Nothing that a job or a model raises may end this thread, SystemExit from a plugin included.
            try:
                if job is not None:
                    self._asked, self._current = self._clock(), (job, threading.get_ident())
                    self._queue.finish(job, self.draw(job))
                elif self._warm_up_wanted and not self._queue.closed:
                    self._warm_up_wanted = False
                    self._holder.warm_up()
                elif self._holder.can_improve and not self._queue.closed:
                    self._holder.improve(self._queue.is_wanted)
                self._queue.sweep()
            except BaseException:
                log.exception("the engine met an error of its own")
                if job is not None:
                    self._queue.finish(job, Failed("Sigmalab met an error of its own; the log says more."))
            finally:
                if self._thread is threading.current_thread():
                    self._current = None
        if self._thread is threading.current_thread():
            self._holder.close()


def _known_model(job: Job) -> ModelInfo | None:
    """What was known of a job's model when it was submitted; None where the folder has to be read."""
    if isinstance(job, DrawJob):
        return job.drawing.resolved.model_info
    return getattr(job.task, "model_info", None) if isinstance(job, TaskJob) else None
