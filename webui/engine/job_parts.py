"""A job in parts that several workers do: who does which, and one story of all of them for the job's watchers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol, runtime_checkable

from .drawing import Share, batch_size_of, batches
from .engine_call import EngineCall
from .events import Event, Failed, Finished, Outcome, PartialResult, Picture, Progress, StoppedEarly
from .jobs import DrawJob, Job, TaskJob
from .remote_messages import Call, Order

ATTEMPTS = 2  # how often a part is begun until its worker's end is the fault of the job


@runtime_checkable
class DivisibleTask(Protocol):
    """A `Task` whose parts several workers can do at once."""

    def parts(self) -> Sequence[Any]:
        """Tasks that together do all of it."""
        ...

    def merged(self, infos: Sequence[dict[str, Any]], seconds: float, stopped: bool) -> dict[str, Any]:
        """The info of the whole from those of the parts that were begun, in their order."""
        ...


@dataclass(eq=False)
class Part:
    """A part of a job, and how far it is.

    attempts  how often a worker began it
    results   how many partial results were told, by all attempts
    seen      and how many by this one
    """

    order: Order
    attempts: int = 0
    progress: Progress | None = None
    pictures: dict[int, Picture] = field(default_factory=dict)
    results: int = 0
    seen: int = 0
    outcome: Outcome | None = None

    def next_order(self) -> Order:
        """What is to be done now: pictures that an earlier attempt saved are not saved again."""
        share = self.order.share
        return replace(self.order, share=replace(share, finished=frozenset(self.pictures))) if share else self.order


class SharedRun:
    """The parts of a job on workers of other processes. Any thread may call.

    batch_size  how many pictures are drawn together, None for what suits the model
    lead        the worker that took the job from the queue and stays with it; others help while nothing waits
    """

    def __init__(self, job: Job, clock: Callable[[], float], batch_size: int | None = None):
        self._job, self._clock = job, clock
        self._lock = threading.RLock()
        self._parts = [Part(order) for order in _orders(job, batch_size)]
        self._pending, self._active = list(self._parts), list[Part]()
        self._over = False
        self._next_picture = 0
        self.lead: Any = None

    @property
    def has_pending(self) -> bool:
        """Whether a part waits for a worker; none does once the job is to end."""
        return bool(self._pending) and not (self._over or self._job.stopping or self._job.outcome is not None)

    @property
    def is_left_alone(self) -> bool:
        """Whether no worker is at it."""
        return not self._active

    @property
    def over(self) -> bool:
        """Whether a part has failed or was stopped, so that the others are to end."""
        return self._over

    def claim(self, worker: Any) -> Part | None:
        """The next part for a worker, which will `end` it or `give_back`; None if there is none."""
        with self._lock:
            if not self.has_pending:
                return None
            if self.lead is None:
                self.lead = worker
            part = self._pending.pop(0)
            part.attempts, part.seen = part.attempts + 1, 0
            self._active.append(part)
            return part

    def give_back(self, part: Part, worker: Any, why: str) -> Outcome | None:
        """The worker of a part has ended before the part did: it is done anew once. As `end`."""
        with self._lock:
            if self.lead is worker:
                self.lead = None
            if self._job.stopping:
                return self.end(part, StoppedEarly(self._job.stopped_info()))
            if part.attempts >= ATTEMPTS:
                message = f"{self._job.title}: the worker ended {part.attempts} times while it did this. {why}"
                return self.end(part, Failed(message))
            self._active.remove(part)
            self._pending.insert(0, part)
            part.progress = None
            self._job.tell(Progress(text="beginning again: the worker had ended"))
            return None

    def end(self, part: Part, outcome: Outcome) -> Outcome | None:
        """A part has ended; the outcome of the job if that was the last one."""
        with self._lock:
            part.outcome = outcome
            self._active.remove(part)
            self._over = self._over or self._job.stopping or not isinstance(outcome, Finished)
            return self.outcome() if not self.has_pending and not self._active else None

    def tell(self, part: Part, event: Event, same_preview: bool = False) -> None:
        """Make an event of a part known as one of the job."""
        with self._lock:
            if isinstance(event, Progress):
                if same_preview and part.progress is not None:
                    event = replace(event, preview=part.progress.preview)
                part.progress = event
                self._job.tell(event if len(self._parts) == 1 else self._progress())
            elif isinstance(event, Picture):
                if event.index not in part.pictures:
                    part.pictures[event.index] = event
                    self._tell_pictures()
            elif isinstance(event, PartialResult):
                part.seen += 1
                if part.seen > part.results:
                    part.results = part.seen
                    self._job.tell(event)

    def outcome(self) -> Outcome:
        """How the job ended, from how its parts did."""
        with self._lock:
            self._tell_pictures(all_of_them=True)
            outcomes = [part.outcome for part in self._parts if part.outcome is not None]
            if failed := next((each for each in outcomes if isinstance(each, Failed)), None):
                return failed
            ended = [each for each in outcomes if isinstance(each, Finished | StoppedEarly)]
            stopped = len(ended) < len(self._parts) or any(isinstance(each, StoppedEarly) for each in ended)
            return (StoppedEarly if stopped else Finished)(self._info([each.info for each in ended], stopped))

    def _info(self, infos: Sequence[dict[str, Any]], stopped: bool) -> dict[str, Any]:
        job = self._job
        seconds = round(self._clock() - (job.started or self._clock()), 3)
        saved = [one for info in infos for one in info.pop("saved", ())]
        if not infos:
            return job.stopped_info()
        if len(self._parts) == 1:
            return infos[0]
        if isinstance(job, TaskJob) and isinstance(job.task, DivisibleTask):
            return job.task.merged(infos, seconds, stopped)
        assert isinstance(job, DrawJob)
        info = job.drawing.info(saved, seconds, stopped)
        # As drawn: a worker may have put in what only it knows.
        info |= {key: infos[0][key] for key in job.request.used_settings() if key in info and key in infos[0]}
        notes = dict.fromkeys(sentence for each in (info, *infos) for sentence in each.get("notes", ()))
        return info | ({"notes": list(notes)} if notes else {})

    def _tell_pictures(self, all_of_them: bool = False) -> None:
        """Tell finished pictures in their order; those before which one is missing wait for it."""
        known = {index: picture for part in self._parts for index, picture in part.pictures.items()}
        for index in sorted(known):
            if index < self._next_picture:
                continue
            if index > self._next_picture and not all_of_them:
                return
            self._next_picture = index + 1
            self._job.tell(known[index])

    def _progress(self) -> Progress:
        """The progress of all parts in one."""
        active = sorted((part for part in self._active if part.progress), key=self._parts.index)
        progress = [part.progress for part in active if part.progress]
        told = [part.progress for part in self._parts if part.progress]
        totals = [each.total_calls for each in told if each.total_calls is not None]
        whole = sum(totals) * len(self._parts) // len(told) if len(totals) == len(told) else None
        return replace(
            progress[0],
            preview=next((each.preview for each in progress if each.preview), None),
            calls=sum(each.calls for each in told),
            total_calls=whole,
            seconds=self._clock() - (self._job.started or self._clock()),
            remaining=self._remaining(progress),
            text="; ".join(each.text for each in progress),
        )

    def _remaining(self, progress: Sequence[Progress]) -> float | None:
        """Seconds left: those of the parts at work, and of the others at the mean time of one, on as many workers."""
        left = [each.remaining for each in progress if each.remaining is not None]
        if len(left) < len(progress):
            return None
        took = [part.progress.seconds for part in self._parts if part.outcome and part.progress]
        took = took or [each.seconds + (each.remaining or 0.0) for each in progress]
        pending = len(self._pending) * sum(took) / len(took)
        return max(max(left), (sum(left) + pending) / len(progress))


def _orders(job: Job, batch_size: int | None) -> list[Order]:
    """The parts of a job: batches of a drawing, cells of a grid, else all of it."""
    order = partial(Order, environment=job.environment, account=job.account)
    if isinstance(job, DrawJob):
        size = batch_size_of(job.drawing.resolved, job.environment.batch or batch_size)
        groups = batches(job.request.count, size)
        return [order(job.drawing, previews=job.previews, share=Share((group,))) for group in groups]
    if isinstance(job, TaskJob):
        parts = job.task.parts() if isinstance(job.task, DivisibleTask) else [job.task]
        return [order(part) for part in parts]
    assert isinstance(job, EngineCall)
    return [order(Call(job.model, job.compute))]
