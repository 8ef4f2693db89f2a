"""The jobs of the APIs of other programs: made from fields, watched until they end, found again by their account."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest

from webui.core.request import read
from webui.core.upscale_request import UpscaleRequest
from webui.engine.drawing import batch_size_of
from webui.engine.engine import Engine
from webui.engine.events import Failed, Progress
from webui.engine.jobs import DrawJob, Job
from webui.engine.run_environment import RunEnvironment

from .script_api import RunFailed

AnyJob = TypeVar("AnyJob", bound=Job)
LOOK = 0.25  # seconds between looks at whether the caller is still there


class CallerGone(Exception):
    """The caller has hung up; nobody hears the answer."""


async def _never() -> bool:
    return False


class ApiJobs:
    """What the APIs have running and waiting in an engine."""

    def __init__(self, engine: Engine):
        self.engine = engine
        self._lock, self._jobs = threading.Lock(), list[Job]()

    def current(self) -> Job | None:
        """The running job of the caller's account, else the one that waits longest; None if it has none."""
        account = self.engine.account.name
        with self._lock:
            own = [job for job in self._jobs if job.account == account and job.outcome is None]
        return next((job for job in own if job.started is not None), own[0] if own else None)

    def waiting(self) -> int:
        """How many jobs of the caller's account have not ended."""
        account = self.engine.account.name
        with self._lock:
            return sum(job.account == account and job.outcome is None for job in self._jobs)

    async def draw(
        self, http: HttpRequest, make_fields: Callable[[Path], dict[str, Any]], together: int | None = None
    ) -> DrawJob:
        """Draw what `make_fields(folder for uploads)` asks for, and return the job once it has ended well or early.

        together  how many pictures are drawn at once at most; None leaves that to the engine
        The job stops when the caller hangs up. Raises RequestError, RunFailed and CallerGone.
        """

        def submit(folder: Path) -> DrawJob:
            request = read(make_fields(folder))
            if together is None:
                return self.engine.submit(request)
            usual = batch_size_of(self.engine.resolve(request), 1 if self.engine.settings.one_at_a_time else None)
            return self.engine.submit(request, environment=RunEnvironment(batch=min(together, usual)))

        return await self.run(submit, http.is_disconnected)

    async def upscale(self, http: HttpRequest, make_request: Callable[[Path], UpscaleRequest]) -> Job:
        """Enlarge what `make_request(folder for uploads)` asks for; as `draw`."""
        return await self.run(lambda folder: self.engine.submit_upscale(make_request(folder)), http.is_disconnected)

    async def run(
        self,
        submit: Callable[[Path], AnyJob],
        gone: Callable[[], Awaitable[bool]] = _never,
        report: Callable[[Progress], Any] | None = None,
    ) -> AnyJob:
        """Submit by `submit(folder for uploads)`, and return the job once it has ended well or early. See `follow`."""

        def in_folder() -> AnyJob:
            # The engine has opened what it needs of these files when it has taken the job.
            with tempfile.TemporaryDirectory(prefix="sigmalab-api-") as folder:
                return submit(Path(folder))

        job = await run_in_threadpool(in_folder)
        await self.follow(job, gone, report)
        return job

    async def follow(
        self, job: Job, gone: Callable[[], Awaitable[bool]] = _never, report: Callable[[Progress], Any] | None = None
    ) -> None:
        """Wait for a job of one's own, which stops when nobody waits any more. Raises RunFailed and CallerGone.

        gone    whether the caller has hung up
        report  an async function that hears of the job's progress
        """
        ended, loop, last = asyncio.Event(), asyncio.get_running_loop(), None

        def tell() -> None:
            loop.call_soon_threadsafe(ended.set)

        with self._lock:
            self._jobs.append(job)
        job.add_done_callback(tell)
        try:
            while not ended.is_set():
                if await gone():
                    raise CallerGone
                progress = job.snapshot().progress
                if report and progress is not None and progress is not last:
                    last = progress
                    await report(progress)
                try:
                    await asyncio.wait_for(ended.wait(), LOOK)
                except TimeoutError:
                    pass
        finally:
            with self._lock:
                self._jobs.remove(job)
            self.engine.abandon(job)
        if isinstance(job.outcome, Failed):
            raise RunFailed(job.outcome.message)
