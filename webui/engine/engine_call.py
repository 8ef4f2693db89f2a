"""The job of `Engine.ask`: something small that is computed on an opened model, and the answer to come."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any

from webui.core.request import RequestError

from .events import Event, Failed, Finished, StoppedEarly
from .jobs import Job


class EngineCall(Job):
    """A small computation on an opened model, between two jobs, whose answer somebody waits for.

    compute  compute(opened model) is the answer
    answer   cancelling it stops the job while it waits
    """

    urgent = True

    def __init__(self, model: str, compute: Callable[[Any], Any], clock: Callable[[], float] = time.monotonic):
        super().__init__(model, clock=clock)
        self.compute = compute
        self.answer: Future[Any] = Future()

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
