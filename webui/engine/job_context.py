"""What a job has at hand while it runs on a worker, and the tasks of the Lab, which are jobs without a request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from samplers.registry import Registry
from samplers.sampler import Stopped

from .events import Event
from .other_networks import OtherModelHolder, UpscalerHolder

T = TypeVar("T")


class OnHead(Protocol):
    """Calls a function on the machine that has the pictures and the weights, and returns what it returns there.

    That is this machine, unless workers are on others: then the function has to be one of a module, or a partial of
    one, and what it takes and returns passes as bytes.
    """

    def __call__(self, call: Callable[[], T], /) -> T:
        """Raises what the function raises."""
        ...


def here(call: Callable[[], T]) -> T:
    """An `OnHead` of a process that has the files itself."""
    return call()


@dataclass(frozen=True, eq=False)
class JobContext:
    """What a job has at hand while it runs in the worker's thread.

    model        the opened model that the job named, None if it named none
    registry     the plugins as they were when the job began
    outputs      folder of the pictures
    should_stop  to be asked around every network call; once true, the job has to end
    clock        seconds
    public       leave paths of this machine out of messages, and keep no visitor's input picture
    upscalers    opens networks that enlarge pictures
    others       opens the models that draw beside it
    tell         makes an event of the job known to its watchers
    on_saved     to be called with each picture that was written
    batch_size   how many pictures of a request are drawn together; None is what suits the model
    skips        how often somebody has asked to leave out the pictures that are being drawn
    on_head      reads and writes files: pictures, uploads, what is kept beside pictures and models
    """

    model: Any
    registry: Registry
    outputs: Path
    should_stop: Callable[[], bool]
    clock: Callable[[], float]
    public: bool
    upscalers: UpscalerHolder
    others: OtherModelHolder
    tell: Callable[[Event], None]
    on_saved: Callable[[Path], None] = lambda path: None
    batch_size: int | None = None
    skips: Callable[[], int] = lambda: 0
    on_head: OnHead = here

    def raise_if_stopped(self) -> None:
        """Raises Stopped once the job has to end."""
        if self.should_stop():
            raise Stopped("the run was stopped")


class Task(Protocol):
    """What `Engine.submit_task` takes: it runs alone, with the model that it names.

    A task may also have an attribute `environment` of `webui.engine.run_environment`, if it needs another than the
    engine's own, `held`, the bytes of pictures that it holds while it waits, and `model_info`, what was known of its
    model when it was submitted: while that is open, the folder of weights is not read.
    """

    @property
    def model(self) -> str:
        """Name of a model in weights/; empty for work without one."""
        ...

    def run(self, context: JobContext, /) -> dict[str, Any]:
        """Do all of it and return the info of the job; "stopped" in it says that it was stopped on the way.

        It may also raise `samplers.sampler.Stopped`. It tells what it finishes as `PartialResult`, and none of that is
        lost.
        """
        ...
