"""What a visitor has waiting in a tab: a list below Generate, to put in another order and to cancel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.blocks import Block

from webui.core.request import RequestError
from webui.engine.jobs import DrawJob, Job
from webui.gradio_ext.gradio_events import QUIET
from webui.tabs.form.page_context import Page
from webui.templates import render

from .describe import ahead_text, pictures_text, steps_text

MOST_OWN = 32  # jobs of a tab that run or wait
SHOWN = 60  # characters of a prompt

# When the list changes its buttons become those of other jobs: the keyboard's focus goes back to the one that it was
# on, to another one of its job, or to Generate.
PRESSED = """
let key = null;
element.addEventListener("click", (event) => {
  const asked = event.target.closest("[data-order]");
  if (asked) trigger("click", { order: asked.dataset.order, job: asked.dataset.job });
});
element.addEventListener("focusin", ({ target }) => { key = { ...target.dataset }; });
element.addEventListener("focusout", ({ relatedTarget }) => { if (relatedTarget) key = null; });
new MutationObserver(() => {
  const now = document.activeElement;
  if (!key || (now !== document.body && !element.contains(now))) return;
  if (now.dataset.job === key.job && now.dataset.order === key.order && !now.disabled) return;
  const alike = [...element.querySelectorAll(`[data-job="${key.job}"]:not(:disabled)`)];
  const back = alike.find((each) => each.dataset.order === key.order) || alike[0];
  (back || element.closest(".compose").querySelector("button.generate")).focus({ preventScroll: true });
}).observe(element, { childList: true, attributes: true, subtree: true });
"""


class OrderData(gr.EventData):
    """What PRESSED says of a button: its `order`, and the id of its `job`."""

    def __init__(self, target: Block | None, data: Any):
        super().__init__(target, data)
        self.order, self.job = str(data["order"]), str(data["job"])


@dataclass(frozen=True, eq=False)
class OwnQueue:
    """The list of what waits in a mode of a tab."""

    page: Page
    mode: str
    box: gr.HTML

    def html(self, own: Sequence[Job]) -> str:
        """The list of these jobs of a tab, in their order, without what runs."""
        # Until a worker takes it, the first one is followed like one that runs.
        waiting = [job for job in own[1:] if job.started is None]
        return render("form", "own_queue", [(job.id, *described(job)) for job in waiting])

    def change(self, token: str, order: str, chosen: str) -> str:
        """Do what a button of the list says to a waiting job of the tab; anything else is ignored. The list after it.

        order   "up", "down" or "cancel"
        chosen  the id of the job
        """
        own = self.page.jobs(token, self.mode)
        job = next((job for job in own if job.id == chosen and job.started is None), None)
        if job is not None and order == "cancel":
            self.page.engine.stop(job)
        elif job is not None and order in ("up", "down"):
            self.page.engine.queue.move(job, order == "up")
        return self.html(self.page.jobs(token, self.mode))


def build_own_queue(page: Page, mode: str) -> OwnQueue:
    """Build and wire the list; it is empty while nothing waits."""
    queue = OwnQueue(page, mode, gr.HTML(elem_id=f"{mode}-queue", js_on_load=PRESSED))

    def change(token: str, event: OrderData) -> str:
        return queue.change(token, event.order, event.job)

    queue.box.click(change, page.token, queue.box, trigger_mode="multiple", **QUIET)
    return queue


def check_own_room(own: Sequence[Job]) -> None:
    """Raises RequestError where a tab has as many jobs as it may."""
    if len(own) >= MOST_OWN:
        raise RequestError(f"{len(own)} jobs of this tab run or wait: wait until one has ended, or cancel one.")


def described(job: Job) -> tuple[str, str]:
    """(prompt, what else and when) in a few words."""
    assert isinstance(job, DrawJob)  # nothing else waits in a form's mode
    request = job.request
    prompt = " ".join(request.prompt.split()) or "no prompt"
    short = prompt if len(prompt) <= SHOWN else f"{prompt[: SHOWN - 3]}..."
    # Without the time that it waits: the list would be drawn anew under the pointer every two seconds.
    return short, f"{pictures_text(request.count)}, {request.sampler}, {steps_text(request.steps)} · {ahead_text(job)}"
