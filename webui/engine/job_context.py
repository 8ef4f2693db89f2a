"""The interface of a task, work for the engine's thread that is not a request for pictures: the tools of the Lab."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from samplers.registry import Registry

from .events import Event


@dataclass(frozen=True, eq=False)
class JobContext:
    """What a task or a `Drawing` can use while it runs in the engine's thread.

    model        the opened model that the task named, None if it named none
    outputs      folder of the pictures
    should_stop  to be called around every network call; once true, the task has to end
    clock        seconds
    public       leave paths of this machine out of messages, and keep no visitor's input picture
    tell         sends an event of the job to whoever watches it
    on_saved     to be called with each picture that was written
    """

    model: Any
    registry: Registry
    outputs: Path
    should_stop: Callable[[], bool]
    clock: Callable[[], float]
    public: bool
    tell: Callable[[Event], None]
    on_saved: Callable[[Path], None] = lambda path: None


class Task(Protocol):
    """What `Engine.submit_task` takes: it runs alone, with the model that it names.

    model       name of a model in weights/; empty for work without one
    conditions  of webui.engine.run_environment, where the engine has to be set up for it; may be left out
    """

    @property
    def model(self) -> str: ...

    def run(self, context: JobContext, /) -> dict[str, Any]:
        """Do the work and return the info of the job; "stopped" in it says whether it was stopped before its end.

        It may also raise `samplers.sampler.Stopped`. Each finished part is an event `PartialResult`, which a stop keeps.
        """
        ...
