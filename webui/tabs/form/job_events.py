"""Start, stop and follow jobs from a page. The engine's thread does the work; the page only looks at its state."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency
from markupsafe import escape

from webui.core.request import RequestError
from webui.engine.events import Finished, Snapshot
from webui.engine.jobs import DrawJob, Job
from webui.gradio_ext.gradio_events import LONG, QUIET, Updates, gather
from webui.gradio_ext.signed_in import current_session
from webui.tabs.form.page_context import Page

from .card_view import result_hint
from .describe import SMALL
from .form import Form, to_request
from .job_stream import LOOK, SELDOM, asked_previews, joined, snapshots, submit, without_preview
from .own_queue import OwnQueue, check_own_room
from .result_panel import ResultPanel, add_to_strip, show, show_problem

View = Callable[[Snapshot], Awaitable[Updates]]


def stop_job(page: Page, token: str, mode: str) -> Any:
    """Stop a tab's job; the update of its Stop button. What waits behind it stays."""
    # Only ever the job of this token; there is no way to name another one.
    for job in page.jobs(token, mode)[:1]:
        page.engine.stop(job)
    return gr.update(interactive=False)


@dataclass(frozen=True, eq=False)
class JobButtons:
    """The buttons that start and stop a job, and what the first one says before and while a job runs.

    queues  whether the first one puts another job behind the one that runs
    """

    start: gr.Button
    stop: gr.Button
    label: str
    busy: str
    queues: bool = False

    def idle(self) -> Updates:
        """Where there is no job, or where it has ended."""
        return {self.start: gr.update(interactive=True, value=self.label), self.stop: gr.update(interactive=False)}

    def working(self, job: Job) -> Updates:
        """For a job that has not ended."""
        return {
            self.start: gr.update(interactive=self.queues, value=self.busy),
            self.stop: gr.update(interactive=not job.stopping),
        }


def build_job_buttons(
    mode: str, label: str, busy: str, start: str = "start", main: bool = True, queues: bool = False
) -> JobButtons:
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
            queues,
        )


@dataclass(frozen=True, eq=False)
class JobEvents:
    """The events that start and follow the jobs of one tab or tool.

    mode     what they belong to beside the browser tab: each mode shows one job at a time
    view     view(job) -> the function that turns each state of it into updates
    problem  the updates for a request that is refused
    outputs  everything that is updated, the buttons included
    queue    the list of what waits, where a job may be put behind another
    once     outputs that a job leaves alone if it was put behind another: a visitor may have changed them since
    """

    page: Page
    mode: str
    buttons: JobButtons
    view: Callable[[Job], View]
    problem: Callable[[str], Updates]
    outputs: Sequence[Component]
    queue: OwnQueue | None = None
    once: Sequence[Component] = ()

    def connect(self, listen: Callable[..., Any], inputs: Sequence[Component], make: Callable[..., Job]) -> Dependency:
        """Start a job when `listen` (a button's `click`) hears something; the event ends with the job.

        make  make(owner, *values of inputs) -> the submitted job, called in a thread; it may raise RequestError
        """

        async def start(token: str, *given: Any) -> AsyncGenerator[Updates]:
            token = token or current_session()
            own = self.page.jobs(token, self.mode)
            if own and self.queue is None:
                gr.Info("A job is still running here. Stop it first, or wait for it.")
                yield gr.skip()
                return
            try:
                check_own_room(own)
                job = await submit(self.page, partial(make, self.page.owner(token, self.mode), *given))
            except RequestError as error:
                if own:
                    # The line below the picture is about what runs.
                    gr.Warning(escape(str(error)))
                yield gr.skip() if own else self.problem(str(error)) | self.buttons.idle()
                return
            if own and self.queue is not None:
                yield {self.queue.box: self.queue.html(self.page.jobs(token, self.mode))}
            async with aclosing(self._follow(job, behind=bool(own), previews=asked_previews())) as updates:
                async for each in updates:
                    yield each

        again: Any = "once" if self.queue is None else "multiple"
        inputs = [self.page.token, *inputs]
        return gather(listen, start, inputs, self.outputs, concurrency_limit=None, trigger_mode=again, **LONG)

    def connect_stop(self) -> None:
        """Stop the job with the Stop button."""
        stop = self.buttons.stop
        stop.click(lambda token: stop_job(self.page, token, self.mode), self.page.token, stop, **QUIET)

    async def resume(self, token: str) -> AsyncGenerator[Updates]:
        """Go on following the tab's jobs when a page has been opened."""
        jobs = self.page.jobs(token, self.mode) or tuple(filter(None, [self.page.job(token, self.mode)]))
        if not jobs:
            yield gr.skip()
            return
        for job in jobs:
            self.page.engine.adopt(job)
        previews = asked_previews()
        streams = [self._follow(job, behind=job is not jobs[0], previews=previews) for job in jobs]
        async with aclosing(joined(streams)) as updates:
            async for each in updates:
                yield each

    async def _follow(self, job: Job, behind: bool = False, previews: str = "") -> AsyncGenerator[Updates]:
        """Show a job from when it is the first of its owner on, and its end in any case.

        behind    whether it was put behind another one
        previews  "slow" or "none" for fewer of them
        """
        view, seen, shown = self.view(job), None, False
        pressed: list[tuple[str, bool]] | None = None
        listed: str | None = None

        def beside(own: Sequence[Job], again: bool) -> Updates:
            """The buttons and the list, where they are not as they were sent; the buttons in any case with `again`."""
            # Gradio builds a component anew for each update, and a browser draws it anew.
            nonlocal pressed, listed
            updates: Updates = {}
            if (state := [(each.id, each.stopping) for each in own[:1]]) != pressed or again:
                updates, pressed = self.buttons.working(own[0]) if own else self.buttons.idle(), state
            if self.queue and (waiting := self.queue.html(own)) != listed:
                updates, listed = updates | {self.queue.box: waiting}, waiting
            return updates

        # Closed here and not by the garbage collector: the job has to know at once that nobody looks any more.
        async with aclosing(snapshots(self.page, job, SELDOM if previews == "slow" else LOOK)) as states:
            async for now in states:
                own = self.page.engine.queue.jobs_of(job.owner)
                ended = now is not None and now.outcome is not None
                if not (shown or own[:1] == (job,) or (ended and job.started is not None)):
                    yield self.buttons.idle() if ended and not own else gr.skip()
                    continue
                if now is None and shown:
                    # What was sent of the buttons and the list may have overtaken what another event sent of them.
                    yield beside(own, again=False) or gr.skip()
                    continue
                now, shown = now or job.snapshot(), True
                updates = await view(without_preview(now) if previews == "none" else now)
                # Others may have ended meanwhile, whose word about the buttons came before this one.
                own = self.page.engine.queue.jobs_of(job.owner)
                updates = updates | beside(own, again=now is seen)
                yield {each: update for each, update in updates.items() if not (behind and each in self.once)}
                seen = now


def connect_run(page: Page, form: Form, result: ResultPanel, buttons: JobButtons, queue: OwnQueue) -> JobEvents:
    """Wire Generate, which puts a job behind those that run or wait, and Stop; `queue` lists them."""
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

    outputs = [*result.outputs, buttons.start, buttons.stop, seed, queue.box]
    events = JobEvents(page, mode, buttons, view, partial(show_problem, result), outputs, queue, [seed])
    ended = events.connect(buttons.start.click, form.inputs, make)

    def add(token: str, visit: list[tuple[str, int]]) -> Updates:
        return add_to_strip(result, page.ended_jobs(token, mode), visit)

    ended.then(add, [page.token, result.visit], [result.visit, result.strip], **QUIET)
    events.connect_stop()
    return events
