"""What a worker of another process or machine does: an `Engine` on one device that takes orders and tells events."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeVar

import torch

from weights.model import Model
from weights.model_info import ModelInfo

from .drawing import Drawing
from .engine import Engine
from .engine_call import EngineCall
from .errors import explain
from .events import Event, Failed, Outcome, Progress
from .job_context import here
from .jobs import DrawJob, Job, TaskJob
from .plugin_reloading import find_plugins
from .remote_messages import (
    Answer,
    Ask,
    Call,
    CallOnHead,
    Condition,
    Describe,
    Do,
    Message,
    Order,
    OthersWait,
    PluginOutdated,
    Returned,
    SavedFile,
    Skip,
    Stop,
    Told,
    WarmUp,
    decode,
)
from .weight_copies import WeightCopies, WeightFiles

if TYPE_CHECKING:
    from webui.settings import Settings

SIGN_OF_LIFE = 0.5  # seconds between two Conditions

T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkerSetup:
    """What a worker needs to begin; plain data and functions of modules, so that it can pass to another process.

    settings  `device` is that of the worker, see `--devices`
    threads   of the CPU; None is what torch takes
    weights   those of the head, for a worker on another machine than the pictures; None on the same
    The functions are those of `Engine`.
    """

    settings: Settings
    open_model: Callable[..., Model]
    find_models: Callable[[Path], dict[str, ModelInfo]] | None
    check_model: Callable[[ModelInfo], None]
    threads: int | None = None
    weights: WeightFiles | None = None


class WorkerHost:
    """Does orders on an engine of its own.

    send     send(message) to the program; from any thread
    give_up  ends this process, after a sampler that could not be ended and after an error that its GPU does not survive
    """

    def __init__(self, setup: WorkerSetup, send: Callable[[Message], None], give_up: Callable[[], None]):
        settings = replace(setup.settings, devices=(), ray="")
        self._send, self._give_up = send, give_up
        self._numbers, self._returns = count(1), dict[int, SimpleQueue[Returned]]()
        self._closed = False
        self._copies: WeightCopies | None = None
        if setup.weights:
            self._copies = copies = WeightCopies(settings.weights, setup.weights, self._on_head)
            setup = copies.setup_of(setup)
            settings = replace(settings, weights=copies.folder)
        self._engine = Engine(
            find_plugins(settings),
            settings,
            setup.open_model,
            setup.find_models,
            check_model=setup.check_model,
            on_saved=lambda path: send(SavedFile(path)),
            on_head=self._on_head if setup.weights else here,
        )
        self._jobs: dict[int, Job] = {}
        self._models: dict[int, ModelInfo] = {}
        self._engine.start()
        threading.Thread(target=self._tell_condition, name="sigmalab-condition", daemon=True).start()

    def receive(self, message: Message) -> None:
        """Do what the program says; returns at once."""
        if isinstance(message, Do):
            self._begin(message)
        elif isinstance(message, Describe):
            self._models[message.number] = message.info
        elif isinstance(message, Stop):
            if job := self._jobs.get(message.number):
                self._engine.stop(job)
        elif isinstance(message, Skip):
            if job := self._jobs.get(message.number):
                job.request_skip()
        elif isinstance(message, OthersWait):
            self._engine.queue.wait_elsewhere = message.waiting
        elif isinstance(message, WarmUp):
            self._engine.warm_up()
        elif isinstance(message, Ask):
            self._answer(message)
        elif isinstance(message, Returned):
            if answer := self._returns.get(message.number):
                answer.put(message)

    def close(self) -> None:
        """Stop what runs, and end."""
        # Nobody answers any more.
        self._closed = True
        for number, answer in list(self._returns.items()):
            answer.put(Returned(number, error=ConnectionError("the program has ended")))
        self._engine.close()

    def _begin(self, message: Do) -> None:
        try:
            try:
                order = decode(message.order, self._engine.registry, self._models)
            except PluginOutdated:
                # The program has loaded a plugin anew.
                self._engine.reload_plugins()
                order = decode(message.order, self._engine.registry, self._models)
            job = _job_of(order)
        except Exception as error:
            log.exception("an order cannot be read")
            self._send(Told(message.number, Failed(explain(error, public=self._engine.settings.public))))
            return
        self._jobs[message.number] = job
        threading.Thread(target=self._follow, args=(message.number, job), name="sigmalab-events", daemon=True).start()

    def _on_head(self, call: Callable[[], T]) -> T:
        """See `JobContext.on_head`; not from the thread that calls `receive`."""
        number = next(self._numbers)
        answer = self._returns[number] = SimpleQueue()
        if self._closed:
            raise ConnectionError("the program has ended")
        self._send(CallOnHead(number, call))
        returned = answer.get()
        del self._returns[number]
        if returned.error is not None:
            raise returned.error
        value: T = returned.value
        return value

    def _follow(self, number: int, job: Job) -> None:
        """Put a job into the queue and tell its events."""
        if self._copies:
            try:
                self._copies.copy_extras(lambda text: self._send(Told(number, Progress(text=text))))
            except Exception as error:
                log.exception("weights cannot be copied")
                job.tell(Failed(explain(error, public=self._engine.settings.public)))
        if job.outcome is None:
            self._engine.queue.put(job)
        preview = None
        for event in job.events():
            if event is None:
                continue
            if isinstance(event, Outcome):
                del self._jobs[number]
                self._tell_end(number, job, event)
            elif isinstance(event, Progress) and event.preview is not None and event.preview is preview:
                self._send(Told(number, replace(event, preview=None), same_preview=True))
            else:
                preview = event.preview if isinstance(event, Progress) else preview
                self._send(Told(number, event))

    def _tell_end(self, number: int, job: Job, outcome: Event) -> None:
        if isinstance(outcome, Failed) and gpu_is_lost():
            # Nothing works on the GPU any more in this process; the program begins the order anew in another.
            log.error("job %s: the GPU cannot be used any more: %s", job.id, outcome.message)
            self._give_up()
        self._send(Told(number, outcome))
        if self._engine.stuck:
            self._give_up()
        self._send(self._condition)

    def _answer(self, message: Ask) -> None:
        try:
            value = getattr(self._engine, message.method)(*message.arguments)
        except Exception:
            log.warning("%s cannot be answered", message.method, exc_info=True)
            value = None
        self._send(Answer(message.number, value))

    @property
    def _condition(self) -> Condition:
        model = self._engine.opened_model
        return Condition(self._engine.status, model.name if model is not None else "")

    def _tell_condition(self) -> None:
        while not self._engine.queue.closed:
            self._send(self._condition)
            time.sleep(SIGN_OF_LIFE)


def _job_of(order: Order) -> Job:
    job: Job
    if isinstance(order.work, Drawing):
        job = DrawJob(order.work, "", order.previews, environment=order.environment, share=order.share)
    elif isinstance(order.work, Call):
        job = EngineCall(order.work.model, order.work.compute)
    else:
        job = TaskJob(order.work)
    job.account = order.account
    return job


def gpu_is_lost() -> bool:
    """Whether an error has made CUDA unusable in this process, which it stays."""
    if not torch.cuda.is_initialized():
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False
