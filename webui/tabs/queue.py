"""The tab Queue, for admins of a page with accounts: the jobs of all, and buttons that stop them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr
from gradio.blocks import Block

from webui.core.request import RequestError
from webui.engine.jobs import Job
from webui.gradio_ext.gradio_events import QUIET, Updates
from webui.tabs.form.controls import small_button
from webui.tabs.form.describe import line, problem, seconds_text
from webui.tabs.form.page_context import Page
from webui.templates import render

LOOK = 2.0  # seconds
COLUMNS = ("Account", "Job", "State", "Time")


def build_queue(page: Page, tab: gr.Tab) -> None:
    """Build and wire the tab's content. Every event asks whether its sender is an admin."""
    table = gr.HTML(elem_id="queue")
    with gr.Row():
        choice = gr.Dropdown([], label="Job", interactive=True, elem_id="queue-job")
        stop = small_button("Stop it", "queue-stop", min_width=90)
        stop_all = small_button("Stop all", "queue-stop-all", min_width=90)
    timer = gr.Timer(LOOK, active=False)
    outputs: list[Block] = [table, choice]

    def look() -> Updates:
        try:
            jobs = jobs_of_all(page)
        except RequestError as error:
            return {table: problem(str(error)), choice: gr.update(choices=[])}
        choices = [(f"{job.account}: {job.title}", job.id) for job in jobs]
        return {table: queue_html(jobs, page.engine.queue.now), choice: gr.update(choices=choices)}

    def end(chosen: Any) -> Updates:
        try:
            stop_jobs(page, chosen)
        except RequestError as error:
            return {table: problem(str(error))}
        return look()

    tab.select(look, None, outputs, **QUIET)
    tab.select(lambda: gr.Timer(active=True), None, timer, **QUIET)
    timer.tick(look, None, outputs, **QUIET)
    stop.click(end, choice, outputs, **QUIET, preprocess=False)
    stop_all.click(lambda: end(None), None, outputs, **QUIET)


def jobs_of_all(page: Page) -> list[Job]:
    """The running jobs and then the waiting ones. Raises RequestError for anybody but an admin."""
    if not page.engine.account.admin:
        raise RequestError("Only an admin sees the jobs of all.")
    queue = page.engine.queue
    return [job for job in (*queue.running, *queue.waiting) if not job.urgent]


def stop_jobs(page: Page, chosen: Any = None) -> None:
    """Stop the job with this id, or all jobs. Raises RequestError for anybody but an admin, and for no such job."""
    jobs = [job for job in jobs_of_all(page) if chosen is None or job.id == chosen]
    if not jobs and chosen is not None:
        raise RequestError("This job has ended, or none was chosen.")
    for job in jobs:
        page.engine.stop(job)


def queue_html(jobs: Sequence[Job], now: float) -> str:
    """The jobs as a table; without prompts, which are their owners' own."""
    if not jobs:
        return line("No job waits or runs.")
    rows = [
        (
            job.account or "everybody",
            job.title,
            "stopping" if job.stopping else "running" if job.started is not None else "waiting",
            seconds_text(now - job.started) if job.started is not None else f"{job.snapshot().position or 0} ahead",
        )
        for job in jobs
    ]
    return render("tables", "table", COLUMNS, rows)
