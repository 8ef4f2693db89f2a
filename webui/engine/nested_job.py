"""A run inside a task of the Lab."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .events import Event
from .jobs import Job


class NestedJob(Job):
    """A run inside a task: drawn as any job is, and heard by the task alone."""

    def __init__(self, hear: Callable[[Event], None], *job: Any, **more: Any):
        super().__init__(*job, **more)
        self._hear = hear

    def tell(self, event: Event) -> None:
        """Make it known to the task, too."""
        super().tell(event)
        self._hear(event)
