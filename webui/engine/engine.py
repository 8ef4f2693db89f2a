"""The engine: the queue, its worker and the models behind one interface for the page and the API."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from samplers.registry import Registry
from webui.core.accounts import EVERYBODY, Account
from webui.core.inpainting import open_input
from webui.core.limits import LOCAL, PUBLIC, Limits
from webui.core.request import Request, RequestError
from webui.core.resolved_request import ResolvedRequest, resolve
from webui.core.styles import Style, kept_styles
from webui.core.upscale_request import UpscaleRequest, resolve_upscale
from weights.extra_networks import ExtraNetworks
from weights.identity import ModelIdentity
from weights.model import Model
from weights.model_info import ModelInfo
from weights.opening import open_model

from .backend_chooser import BackendChooser
from .drawing import Drawing
from .engine_call import EngineCall
from .job_context import OnHead, Task, here
from .job_parts import SharedRun
from .job_queue import JobQueue
from .jobs import DrawJob, Job, TaskJob
from .opened_models import AvailableModels, ModelHolder
from .plugin_reloading import find_plugins
from .run_environment import DEFAULT_ENVIRONMENT, RunEnvironment
from .upscaling import open_upscaling
from .worker import Worker
from .workers import DeviceWorker, joint_status, remote_workers

if TYPE_CHECKING:
    from webui.settings import Settings

AnyJob = TypeVar("AnyJob", bound=Job)

PATIENCE = 60.0  # seconds that a job outlives its last watcher, and that a finished one can still be found


def _no_check(info: ModelInfo) -> None:
    pass


class Engine:
    """Takes requests and tasks, and makes jobs of them.

    registry     the plugins
    settings     model, device, outputs, weights and public are read
    open_model   open_model(info, device) -> Model, called in the worker's thread; with dtype=... and offload=... where
                 others than the usual ones are asked for
    find_models  find_models(folder) -> {name: ModelInfo}; by default what is in the folder, remembered until it changes
    check_model  check_model(info) raises ModelError for a model that cannot be opened, while another is still in use
    clock        seconds, for tests
    patience     seconds that a job outlives its last watcher
    account_of   the account of whoever asks in this thread; by default there are no accounts
    on_ended     called with each job that has ended; it must neither wait nor raise
    on_saved     called in the worker's thread with each picture that was written; it must neither wait nor raise
    on_head      see `JobContext`
    """

    def __init__(
        self,
        registry: Registry,
        settings: Settings,
        open_model: Callable[..., Model] = open_model,
        find_models: Callable[[Path], dict[str, ModelInfo]] | None = None,
        clock: Callable[[], float] = time.monotonic,
        patience: float = PATIENCE,
        check_model: Callable[[ModelInfo], None] = _no_check,
        on_saved: Callable[[Path], None] = lambda path: None,
        account_of: Callable[[], Account] = lambda: EVERYBODY,
        on_ended: Callable[[Job], None] = lambda job: None,
        on_head: OnHead = here,
    ):
        self.registry, self.settings = registry, settings
        self.reloads = 0
        self._reloading = threading.Lock()
        self._clock, self._account_of = clock, account_of
        self._available = AvailableModels(settings, find_models)
        self.queue = JobQueue(clock, patience, on_ended)
        self.workers: list[DeviceWorker]
        if settings.has_processes:
            functions = open_model, find_models, check_model
            self.workers = [*remote_workers(self.queue, lambda: self.registry, settings, *functions, on_saved)]
        else:
            chooser = BackendChooser(settings, self.queue.wake)
            holder = ModelHolder(settings, self._available, open_model, check_model, chooser)
            self.workers = [Worker(self.queue, holder, lambda: self.registry, settings, clock, on_saved, on_head)]

    def reload_plugins(self) -> None:
        """Load the plugins that have changed anew, in this thread; `reloads` counts those that changed something.

        What was resolved before is drawn with what it was resolved with.
        """
        with self._reloading:
            found = find_plugins(self.settings, self.registry)
            if found.loaded != self.registry.loaded:
                self.registry, self.reloads = found, self.reloads + 1

    @property
    def status(self) -> str:
        """Status in a few words: "loading emoji ...", "emoji on cpu, ready", or why a load failed."""
        return joint_status([(worker.name, worker.status) for worker in self.workers])

    @property
    def worker(self) -> DeviceWorker:
        """The first worker; the only one unless there are several devices."""
        return self.workers[0]

    @property
    def stuck(self) -> frozenset[str]:
        """The samplers that still compute in a thread which could not be ended."""
        return frozenset().union(*(worker.stuck for worker in self.workers))

    @property
    def limits(self) -> Limits:
        """What one request may cost, for whoever asks."""
        public = replace(PUBLIC, choices=self.settings.wildcards)
        return self._account_of().limits or (public if self.settings.public else LOCAL)

    @property
    def account(self) -> Account:
        """The account of whoever asks."""
        return self._account_of()

    @property
    def outputs(self) -> Path:
        """The folder of the pictures of whoever asks."""
        return self.settings.outputs_of(self._account_of().name)

    def models(self) -> dict[str, ModelInfo]:
        """The models that can be chosen, by name, as the folder is now; the default one first."""
        return self._available.all()

    def refused(self) -> dict[str, str]:
        """What lies among the models and cannot be used, by name, with the reason."""
        return self._available.refused()

    def styles(self) -> dict[str, Style]:
        """The prompt styles of whoever asks, by name."""
        return kept_styles(self.outputs)

    def count_tokens(self, text: str, model: str) -> tuple[int, int] | None:
        """Tokens of a prompt and of its chunks, see `Model.count_tokens`; None unless the model is the one in use."""
        counts = (worker.count_tokens(text, model) for worker in self.workers)
        return next((count for count in counts if count is not None), None)

    def identity_of(self, request: Request) -> ModelIdentity | None:
        """What a resolved request is drawn with, LoRAs, textual inversions and upscalers included, if its model is the
        one that is open now.

        Raises ModelError for a LoRA and RequestError for an upscaler that is not there.
        """
        identities = (worker.identity_of(request) for worker in self.workers)
        return next((identity for identity in identities if identity is not None), None)

    @property
    def extra(self) -> ExtraNetworks:
        """The LoRAs that prompts may name, as the folder is now."""
        return self._available.extra

    def resolve(self, request: Request) -> ResolvedRequest:
        """The request with its model and plan, checked against this engine's limits. Raises RequestError."""
        models = self._available.choices(request.model)
        styles = self.styles() if request.styles else {}
        return resolve(request, self.registry, models, self.settings.model or "", self.limits, self.extra, styles)

    @property
    def opened_model(self) -> Model | None:
        """The model that is open now in this process, None before the first and where other processes draw."""
        return self.worker.opened_model

    def start(self) -> None:
        """Start the workers."""
        for worker in self.workers:
            worker.start()

    def close(self, timeout: float = 10.0) -> None:
        """Stop the running jobs, drop the waiting ones and end the workers."""
        self.queue.close()
        until = time.monotonic() + timeout
        for worker in self.workers:
            worker.join(max(0.1, until - time.monotonic()))

    def warm_up(self) -> None:
        """Begin to load the default model, behind the page; a job that comes first goes first."""
        for worker in self.workers:
            worker.warm_up()

    def submit(
        self,
        request: Request,
        owner: str = "",
        previews: bool = True,
        environment: RunEnvironment = DEFAULT_ENVIRONMENT,
    ) -> DrawJob:
        """Queue a request and return its job, which the caller now watches: `abandon` it when it stops looking.

        owner        the browser's token; "" for API jobs, which stop as soon as they are abandoned
        previews     whether Progress carries pictures
        environment  how to draw it
        Raises RequestError for a wrong request, an unusable input picture, and a full queue.
        """
        account = self._account_of()
        self.queue.check_room(account=account.name, most=account.waiting)
        return self.submit_resolved(self.resolve(request), owner, previews, environment)

    def submit_resolved(
        self,
        resolved: ResolvedRequest,
        owner: str = "",
        previews: bool = True,
        environment: RunEnvironment = DEFAULT_ENVIRONMENT,
    ) -> DrawJob:
        """`submit` for what `resolve` returned; the plan runs as it is. Raises RequestError."""
        if (name := resolved.request.sampler) in self.stuck:
            raise RequestError(
                f"The sampler {name} still computes in an earlier run that cannot be ended. Choose another."
            )
        # The input picture is opened here, not in the thread: the caller hears of a bad one at once, and the upload
        # may go.
        drawing = Drawing(resolved, open_input(resolved.request, self.limits))
        return self._put(DrawJob(drawing, owner, previews, self._clock, environment))

    def submit_task(self, task: Task, owner: str = "") -> TaskJob:
        """Queue work that is not a request; it waits, runs alone, is watched and stopped like one.

        Raises RequestError for a model that is not there, and a full queue.
        """
        if task.model:
            self._available.check(task.model)
        return self._put(TaskJob(task, owner, self._clock))

    def upscalers(self) -> list[str]:
        """The names of what enlarges pictures or latents, as the folder is now; the default first."""
        return self._available.upscalers()

    def submit_upscale(
        self, request: UpscaleRequest, owner: str = "", environment: RunEnvironment = DEFAULT_ENVIRONMENT
    ) -> TaskJob:
        """`submit` for a picture that is enlarged and not drawn. Raises RequestError."""
        account = self._account_of()
        self.queue.check_room(account=account.name, most=account.waiting)
        resolved = resolve_upscale(request, self.upscalers())
        return self.submit_task(open_upscaling(resolved, self.limits, self.extra, environment), owner)

    def ask(self, model: str, compute: Callable[[Any], Any]) -> Future[Any]:
        """Compute something small on a model in the worker's thread, between two jobs: the answer to come.

        model    the name of one of `models`, which is opened if another one is open
        compute  compute(opened model), a second's worth at most: whoever waits for a picture waits for it, too. It is a
                 function of a module, or a partial of one: it may run in another process
        The answer raises RequestError with words for the user where the model or the work fails; cancel it when nobody
        waits for it any more. Raises RequestError for an unknown model and when too much is being asked.
        """
        self._available.check(model)
        call = EngineCall(model, compute, self._clock)
        self._divide(call)
        self.queue.put(call)
        return call.answer

    def find(self, owner: str) -> Job | None:
        """The newest job of this token that runs, waits, or ended less than a minute ago; of one's account only."""
        job = self.queue.find(owner)
        return job if job is not None and job.account == self._account_of().name else None

    def _put(self, job: AnyJob) -> AnyJob:
        account = self._account_of()
        job.account = account.name
        self._divide(job)
        self.queue.put(job, account.waiting)
        return job

    def _divide(self, job: Job) -> None:
        """Prepare a job for workers of other processes."""
        if self.settings.has_processes:
            job.run = SharedRun(job, self._clock, 1 if self.settings.one_at_a_time else None)

    def stop(self, job: Job) -> None:
        """End a job now: a waiting one at once, a running one within one network call."""
        job.request_stop()
        self.queue.sweep()

    def abandon(self, job: Job) -> None:
        """One watcher less. Without any, the job stops after a minute; an API job at once."""
        job.leave()
        self.queue.sweep()

    def adopt(self, job: Job) -> None:
        """One watcher more; undone by `abandon`."""
        job.watch()
