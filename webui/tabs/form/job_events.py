"""Start, stop and follow jobs from a page. The engine's thread does the work; the page only looks at its state."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency

from webui.core.request import RequestError
from webui.engine.events import Finished, Snapshot
from webui.engine.jobs import DrawJob, Job
from webui.gradio_ext.gradio_events import LONG, QUIET, Updates, gather
from webui.gradio_ext.signed_in import current_session
from webui.tabs.form.page_context import Page

from .card_view import result_hint
from .form import Form, to_request
from .result_panel import SMALL, ResultPanel, add_to_strip, show, show_problem

LOOK = 0.2  # seconds between looks at a job that runs: what an eye can use and a slow line can take
REPEAT = 6  # the look whose state is sent even if it is not new
IDLE_LOOKS = 5  # looks without news after which an empty update is sent

View = Callable[[Snapshot], Awaitable[Updates]]


async def snapshots(page: Page, job: Job) -> AsyncGenerator[Snapshot | None]:
    """The states of a job until it has ended, at most one in LOOK seconds; its end at once.

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
            with suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), LOOK)
    finally:
        page.watching[job.owner] -= 1
        page.engine.abandon(job)


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


def stop_job(page: Page, token: str, mode: str) -> Any:
    """Stop a tab's job; the update of its Stop button."""
    # Only ever the job of this token; there is no way to name another one.
    job = page.job(token, mode)
    if job is not None and job.outcome is None:
        page.engine.stop(job)
    return gr.update(interactive=False)


@dataclass(frozen=True, eq=False)
class JobButtons:
    """The buttons that start and stop a job, and what the first one says before and while a job runs."""

    start: gr.Button
    stop: gr.Button
    label: str
    busy: str

    def idle(self) -> Updates:
        """Where there is no job, or where it has ended."""
        return {self.start: gr.update(interactive=True, value=self.label), self.stop: gr.update(interactive=False)}

    def working(self, job: Job) -> Updates:
        """For a job that has not ended."""
        return {
            self.start: gr.update(interactive=False, value=self.busy),
            self.stop: gr.update(interactive=not job.stopping),
        }


def build_job_buttons(mode: str, label: str, busy: str, start: str = "start", main: bool = True) -> JobButtons:
    """Build the row of a start and a stop button, see `JobButtons`.

    start  names the first one in its id
    main   whether the job is what the tab or tool is about: Ctrl Enter starts it, and a phone has it at the thumb
    """
    with gr.Row(elem_classes=["run", *["main-run"] * main]):
        return JobButtons(
            gr.Button(
                label, variant="primary", elem_id=f"{mode}-{start}", elem_classes="generate", min_width=120, scale=3
            ),
            gr.Button("Stop", elem_id=f"{mode}-stop", elem_classes="stop", interactive=False, min_width=80, scale=1),
            label,
            busy,
        )


@dataclass(frozen=True, eq=False)
class JobEvents:
    """The events that start and follow the jobs of one tab or tool.

    mode     what they belong to beside the browser tab: each mode has one job at a time
    view     view(job) -> the function that turns each state of it into updates
    problem  the updates for a request that is refused
    outputs  everything that is updated, the buttons included
    """

    page: Page
    mode: str
    buttons: JobButtons
    view: Callable[[Job], View]
    problem: Callable[[str], Updates]
    outputs: Sequence[Component]

    def connect(self, listen: Callable[..., Any], inputs: Sequence[Component], make: Callable[..., Job]) -> Dependency:
        """Start a job when `listen` (a button's `click`) hears something; the event ends with the job.

        make  make(owner, *values of inputs) -> the submitted job, called in a thread; it may raise RequestError
        """

        async def start(token: str, *given: Any) -> AsyncGenerator[Updates]:
            token = token or current_session()
            running = self.page.job(token, self.mode)
            if running is not None and running.outcome is None:
                gr.Info("A job is still running here. Stop it first, or wait for it.")
                yield gr.skip()
                return
            try:
                job = await submit(self.page, partial(make, self.page.owner(token, self.mode), *given))
            except RequestError as error:
                yield self.problem(str(error)) | self.buttons.idle()
                return
            async with aclosing(self._follow(job)) as updates:
                async for each in updates:
                    yield each

        return gather(listen, start, [self.page.token, *inputs], self.outputs, concurrency_limit=None, **LONG)

    def connect_stop(self) -> None:
        """Stop the job with the Stop button."""
        stop = self.buttons.stop
        stop.click(lambda token: stop_job(self.page, token, self.mode), self.page.token, stop, **QUIET)

    async def resume(self, token: str) -> AsyncGenerator[Updates]:
        """Go on following the tab's job when a page has been opened."""
        job = self.page.job(token, self.mode)
        if job is None:
            yield gr.skip()
            return
        self.page.engine.adopt(job)
        async with aclosing(self._follow(job)) as updates:
            async for each in updates:
                yield each

    async def _follow(self, job: Job) -> AsyncGenerator[Updates]:
        view, seen, pressed = self.view(job), None, None
        # Closed here and not by the garbage collector: the job has to know at once that nobody looks any more.
        async with aclosing(snapshots(self.page, job)) as states:
            async for now in states:
                if now is None:
                    yield gr.skip()
                    continue
                state = (now.outcome is None, job.stopping)
                buttons = self.buttons.idle() if now.outcome else self.buttons.working(job)
                # Gradio builds a component anew for each update, and a browser draws it anew.
                yield await view(now) | (buttons if state != pressed or now is seen else {})
                seen, pressed = now, state


def connect_run(page: Page, form: Form, result: ResultPanel, buttons: JobButtons) -> JobEvents:
    """Wire Generate and Stop."""
    mode, seed = form.mode, form.fields["seed"]

    def view(job: Job) -> View:
        assert isinstance(job, DrawJob)  # nothing else is submitted in a form's mode
        before, request = None, job.request
        small = max(request.width, request.height) <= SMALL

        def hint() -> str:
            words = tuple(page.engine.extra.embeddings_in(request.prompt))
            return result_hint(mode, page.engine.models().get(request.model), request.prompt, words)

        async def updates(now: Snapshot) -> Updates:
            nonlocal before
            used = {seed: request.seed} if before is None else {}
            hinted = isinstance(now.outcome, Finished) and not request.has_input
            shown = await show(result, now, before, small, await asyncio.to_thread(hint) if hinted else "")
            before = now
            return shown | used

        return updates

    def make(owner: str, *given: Any) -> Job:
        return page.engine.submit(to_request(mode, form.values(given)), owner)

    outputs = [*result.outputs, buttons.start, buttons.stop, seed]
    events = JobEvents(page, mode, buttons, view, partial(show_problem, result), outputs)
    ended = events.connect(buttons.start.click, form.inputs, make)
    ended.then(partial(add_to_strip, result), [result.made, result.visit], [result.visit, result.strip], **QUIET)
    events.connect_stop()
    return events
