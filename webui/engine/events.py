"""The events of a job, and its snapshot."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Waiting:
    """The job has not begun; `position` jobs are ahead of it, the running one included.

    seconds  until it begins, estimated from the jobs before; None where nothing is known
    """

    position: int
    seconds: float | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Progress:
    """How far a running job is.

    image_index   0-based index of the first image being drawn
    step, steps   finished steps of these images; `steps` is None when the sampler makes its own grid
    calls         network calls so far, all batches together; `total_calls` is None when only the run tells
    seconds       since the job began; `remaining` is an estimate, None while there is none
    sigma         noise level of the last call; None before it
    preview       JPEG of the denoised estimate, a grid for a batch; the same object until there is a newer one
    text          the same in a few words, "loading emoji" or "picture 2 of 4, step 3 of 20"
    """

    image_index: int = 0
    step: int = 0
    steps: int | None = None
    calls: int = 0
    total_calls: int | None = None
    seconds: float = 0.0
    remaining: float | None = None
    sigma: float | None = None
    preview: bytes | None = None
    text: str = ""


@dataclass(frozen=True)
class Picture:
    """A finished picture, on disk with its metadata; `index` is its place in the request.

    seed  None for one that was only enlarged
    """

    path: Path
    seed: int | None
    index: int


@dataclass(frozen=True, eq=False)
class PartialResult:
    """A finished part of a task of the Lab: a cell of a grid, a step of a run, a point of a curve."""

    value: Any


@dataclass(frozen=True)
class Finished:
    """The job is done; `info` is what the API returns."""

    info: dict[str, Any]


@dataclass(frozen=True)
class Failed:
    """The job ended with an error; `message` is for the user. Pictures announced before it stay."""

    message: str


@dataclass(frozen=True)
class StoppedEarly:
    """The job was stopped; `info` is about the pictures finished until then, with stopped=True."""

    info: dict[str, Any]


Outcome = Finished | Failed | StoppedEarly
Event = Waiting | Progress | Picture | PartialResult | Outcome


@dataclass(frozen=True)
class Snapshot:
    """The state of a job: all that a reloaded page needs. `position` is None once the job has begun.

    wait   seconds until it begins, as estimated when this was known; None where nothing is known

    parts  the values of every `PartialResult` that was told, in order
    """

    state: str
    position: int | None
    progress: Progress | None
    pictures: tuple[Picture, ...]
    outcome: Outcome | None
    parts: tuple[Any, ...] = ()
    wait: float | None = None

    @property
    def info(self) -> dict[str, Any] | None:
        """The info of a job that ended well or was stopped."""
        return getattr(self.outcome, "info", None)

    def only_progress_since(self, seen: Snapshot) -> bool:
        """Whether nothing but progress, or another place in the queue, came after that snapshot."""
        return (
            self.outcome is None
            and self.state == seen.state
            and len(self.pictures) == len(seen.pictures)
            and len(self.parts) == len(seen.parts)
        )


def news(seen: Snapshot, now: Snapshot) -> Iterator[Event]:
    """The events that lead from one snapshot of a job to a later one."""
    if now.position is not None and (now.position, now.wait) != (seen.position, seen.wait):
        yield Waiting(now.position, now.wait)
    # Progress goes first: a picture that it announced as being drawn may be finished by now.
    if now.progress is not None and now.progress is not seen.progress:
        yield now.progress
    yield from now.pictures[len(seen.pictures) :]
    yield from map(PartialResult, now.parts[len(seen.parts) :])
    if now.outcome:
        yield now.outcome
