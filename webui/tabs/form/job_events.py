"""Following a job from a page. The engine's thread does the work; here it is only looked at, a few times a second."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from functools import partial
from typing import Any

import gradio as gr

from webui.core.request import RequestError
from webui.engine.events import Snapshot
from webui.engine.jobs import Job
from webui.gradio_ext.gradio_events import LONG, QUIET, RAW
from webui.tabs.form.page_context import Page

from .form import Form, to_request
from .result_panel import SMALL, ResultPanel, show, show_problem

TICK = 0.2  # seconds between looks: what an eye can use and a slow line can take
AGAIN = 6  # the look that tells even what is not new


async def snapshots(page: Page, job: Job) -> AsyncGenerator[Snapshot | None, None]:
    """What is new about a job, None where nothing is, until it has ended.

    The state after the first second comes twice: a tab that is just being opened can miss an update, and a job in a long
    network call has no other for a while.

    Counts as one watcher of the job, from before the first look on; closing it, which Gradio does when the browser
    goes away, leaves the job alone with the engine's patience.
    """
    seen, looks = None, 0
    page.watching[job.owner] += 1
    try:
        while True:
            now = job.snapshot()
            looks += 1
            yield now if now is not seen or looks == AGAIN else None
            seen = now
            if now.outcome:
                return
            await asyncio.sleep(TICK)
    finally:
        page.watching[job.owner] -= 1
        page.engine.abandon(job)


async def submit(page: Page, start: Callable[[], Job]) -> Job:
    """Submit without holding up the server; a page that leaves in the middle of it leaves no watched job behind."""
    submitting = asyncio.ensure_future(asyncio.to_thread(start))
    try:
        return await asyncio.shield(submitting)
    except asyncio.CancelledError:
        submitting.add_done_callback(lambda done: done.exception() or page.engine.abandon(done.result()))
        raise


def resumer(page: Page, mode: str, follow: Callable[[Job], AsyncIterator[Any]], nothing: Any) -> Any:
    """The event that goes on following a tab's job when a page has been opened; `nothing` where there is none."""

    async def resume(token: str) -> AsyncIterator[Any]:
        job = page.job(token, mode)
        if job is None:
            yield nothing
            return
        page.engine.adopt(job)
        async for updates in follow(job):
            yield updates

    return resume


def stop_job(page: Page, token: str, mode: str) -> Any:
    """Stop a tab's job; the update of its Stop button."""
    # Only ever the job of this token; there is no way to name another one.
    job = page.job(token, mode)
    if job is not None and job.outcome is None:
        page.engine.stop(job)
    return gr.update(interactive=False)


def connect_run(page: Page, form: Form, result: ResultPanel, generate: gr.Button, stop: gr.Button) -> tuple[Any, list]:
    """Wire Generate and Stop; returns (resume, outputs), the event to run when a page has been opened."""
    mode = form.mode
    seed = form.fields["seed"]
    outputs = [*result.outputs, generate, stop, seed]
    nothing = [gr.skip()] * len(outputs)

    async def run(request: gr.Request, token: str, *given: Any) -> AsyncIterator[list[Any]]:
        token = token or request.session_hash or ""
        running = page.job(token, mode)
        if running is not None and running.outcome is None:
            gr.Info("This tab is still at work. Stop it first, or wait for it.")
            yield nothing
            return
        try:
            wanted = to_request(mode, form.values(given))
            job = await submit(page, partial(page.engine.submit, wanted, page.owner(token, mode)))
        except RequestError as error:
            yield [*show_problem(str(error)), *idle(value="Generate"), gr.skip()]
            return
        async for updates in follow(job):
            yield updates

    async def follow(job: Job) -> AsyncIterator[list[Any]]:
        before, small = None, max(job.request.width, job.request.height) <= SMALL
        news = snapshots(page, job)
        try:
            async for now in news:
                if now is None:
                    yield nothing
                    continue
                buttons = idle(value="Generate") if now.outcome else working(job, value="Generating")
                yield [*await show(now, before, small), *buttons, job.request.seed if before is None else gr.skip()]
                before = now
        finally:
            # Not left to the garbage collector: the job has to know at once that nobody looks any more.
            await news.aclose()

    generate.click(run, [page.token, *form.inputs], outputs, concurrency_limit=None, **LONG, **RAW)
    stop.click(lambda token: stop_job(page, token, mode), page.token, stop, **QUIET)
    return resumer(page, mode, follow, nothing), outputs


def working(job: Job, **start: Any) -> list[Any]:
    """Updates of a start and a Stop button for a job that has not ended; `start` is what else changes of the first."""
    return [gr.update(interactive=False, **start), gr.update(interactive=not job.stopping)]


def idle(**start: Any) -> list[Any]:
    """The same where there is no job, or where it has ended."""
    return [gr.update(interactive=True, **start), gr.update(interactive=False)]
