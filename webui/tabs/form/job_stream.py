"""What a page hears of a job while it follows it, as often as a browser wants."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from functools import partial
from itertools import count

from webui.engine.events import Snapshot
from webui.engine.jobs import Job
from webui.gradio_ext.gradio_events import Updates
from webui.gradio_ext.signed_in import current_cookie
from webui.tabs.form.page_context import Page

LOOK = 0.2  # seconds between looks at a job that runs: what an eye can use and a slow line can take
GLANCE = 0.03  # seconds between glances for what is seen of it first, which is told at once
PREVIEWS = "sigmalab-previews"  # the cookie by which a browser asks for fewer; settings.js sets it
SELDOM = 1.0  # seconds between looks then
REPEAT = 6  # the look whose state is sent even if it is not new
IDLE_LOOKS = 5  # looks without news after which an empty update is sent


async def snapshots(page: Page, job: Job, wait: float | None = None) -> AsyncGenerator[Snapshot | None]:
    """The states of a job until it has ended, at most one in `wait` seconds (by default LOOK); its end at once.

    None comes when there was nothing new for a while: only between two updates does Gradio notice that a browser has
    gone. The state after the first second comes twice, since a tab that is being opened can miss an update.

    Counts as one watcher of the job, from before the first look on. Closing it, which Gradio does when the browser has
    gone, leaves the job to the engine's patience.
    """
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    job.add_done_callback(partial(_wake, loop, ended))
    seen, sent = None, 0
    page.watching[job.owner] += 1
    try:
        for look in count(1):
            now = job.snapshot()
            if now is not seen or look == REPEAT or look - sent == IDLE_LOOKS:
                yield now if now is not seen or look == REPEAT else None
                seen, sent = now, look
            if now.outcome:
                return
            await _pause(job, ended, LOOK if wait is None else wait, glance=not _to_see(now))
    finally:
        page.watching[job.owner] -= 1
        page.engine.abandon(job)


async def _pause(job: Job, ended: asyncio.Event, seconds: float, glance: bool) -> None:
    """Wait so long, or until the job has ended or, with `glance`, until there is something to see of it."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while (left := end - loop.time()) > 0 and not ended.is_set():
        with suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), min(left, GLANCE) if glance else left)
        if glance and _to_see(job.snapshot()):
            return


def _to_see(now: Snapshot) -> bool:
    return bool(now.progress and now.progress.preview)


def asked_previews() -> str:
    """How often the browser whose event is running wants previews: "slow", "none", or "" for the usual."""
    asked = current_cookie(PREVIEWS)
    return asked if asked in ("slow", "none") else ""


def without_preview(now: Snapshot) -> Snapshot:
    """A state of a job without what is seen of it meanwhile."""
    return replace(now, progress=replace(now.progress, preview=None)) if now.progress else now


def _wake(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    # The server may have ended before the engine has.
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(event.set)


async def submit(page: Page, start: Callable[[], Job]) -> Job:
    """Submit without holding up the server; a page that leaves in the middle of it leaves no watched job behind."""
    submitting = asyncio.ensure_future(asyncio.to_thread(start))

    def abandon(done: asyncio.Future[Job]) -> None:
        if not done.exception():
            page.engine.abandon(done.result())

    try:
        return await asyncio.shield(submitting)
    except asyncio.CancelledError:
        submitting.add_done_callback(abandon)
        raise


async def joined(streams: Sequence[AsyncGenerator[Updates]]) -> AsyncGenerator[Updates]:
    """What several streams yield, as it comes; closing it closes them."""
    waiting = asyncio.Queue[Updates | Exception | None](1)

    async def pass_on(stream: AsyncGenerator[Updates]) -> None:
        try:
            async with aclosing(stream) as updates:
                async for each in updates:
                    await waiting.put(each)
            await waiting.put(None)
        except Exception as error:
            await waiting.put(error)

    tasks = [asyncio.create_task(pass_on(stream)) for stream in streams]
    try:
        left = len(tasks)
        while left:
            each = await waiting.get()
            if each is None:
                left -= 1
            elif isinstance(each, Exception):
                raise each
            else:
                yield each
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
