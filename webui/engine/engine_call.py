"""Small work for the engine's thread whose result somebody waits for: it goes between two jobs, before the next one."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

from webui.core.request import RequestError

from .events import Event, Failed, Finished, StoppedEarly
from .job_context import JobContext
from .jobs import Job


@dataclass(frozen=True, eq=False)
class CallTask:
    """The task (`tasks.Task`) of an errand: do(opened model), whose result is the "answer" in the info."""

    model: str
    do: Callable[[Any], Any]

    @torch.no_grad()
    def run(self, desk: JobContext) -> dict[str, Any]:
        """Do it."""
        return dict(stopped=False, answer=self.do(desk.model))


class EngineCall(Job):
    """A job that is not watched but awaited: cancelling its answer stops it while it waits."""

    urgent = True

    def __init__(self, model: str, do: Callable[[Any], Any], clock: Callable[[], float]):
        super().__init__(None, None, clock=clock, task=CallTask(model, do))
        self.answer: Future = Future()

    def should_stop(self, patience: float) -> bool:
        """Whether nobody waits for the answer any more."""
        return self.answer.cancelled() or super().should_stop(patience)

    def tell(self, event: Event) -> None:
        """Make it known, and the end to whoever waits."""
        super().tell(event)
        # They may give up in this very moment.
        with suppress(InvalidStateError):
            if isinstance(event, Finished):
                self.answer.set_result(event.info["answer"])
            elif isinstance(event, Failed):
                self.answer.set_exception(RequestError(event.message))
            elif isinstance(event, StoppedEarly):
                self.answer.cancel()
