"""What passes between the program and a worker in another process or on another machine: plain data, as bytes.

Samplers, schedules and guidances are functions of plugin files, which each process loads itself; they pass by name. A
model passes by a number: its description is long and is the same for every cell of a grid, so it is told once.
"""

from __future__ import annotations

import io
import logging
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samplers.registry import Entry, Registry
from samplers.sampler import Guidance, Sampler, Schedule
from weights.model_info import ModelInfo

from .drawing import Drawing, Share
from .events import Event
from .job_context import Task
from .run_environment import DEFAULT_ENVIRONMENT, RunEnvironment


@dataclass(frozen=True)
class Call:
    """A small computation on an opened model, see `Engine.ask`."""

    model: str
    compute: Callable[[Any], Any]


Work = Drawing | Task | Call


@dataclass(frozen=True, eq=False)
class Order:
    """A job, or a part of one, for a worker.

    share  the pictures that are to be drawn; None for work that is no drawing
    """

    work: Work
    environment: RunEnvironment = DEFAULT_ENVIRONMENT
    account: str = ""
    previews: bool = True
    share: Share | None = None


# To the worker.


@dataclass(frozen=True)
class Describe:
    """The model that orders name by this number from now on."""

    number: int
    info: ModelInfo


@dataclass(frozen=True)
class Do:
    """Do an `Order`, which is given as bytes so that one that cannot be read has a number all the same."""

    number: int
    order: bytes


@dataclass(frozen=True)
class Stop:
    """End the order of this number now."""

    number: int


@dataclass(frozen=True)
class Skip:
    """Leave out the pictures of the order of this number that are being drawn."""

    number: int


@dataclass(frozen=True)
class OthersWait:
    """Whether jobs wait for a worker: a sampler that never calls the network is ended for their sake."""

    waiting: bool


@dataclass(frozen=True)
class WarmUp:
    """Open the default model as soon as nothing is to be done."""


@dataclass(frozen=True)
class Ask:
    """Call a method of the worker's engine and tell the answer."""

    number: int
    method: str
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class Returned:
    """What a `CallOnHead` returned, or the exception that it raised."""

    number: int
    value: Any = None
    error: Exception | None = None


@dataclass(frozen=True)
class End:
    """Stop what runs, and end."""


# From the worker.


@dataclass(frozen=True)
class Told:
    """An event of an order. `same_preview`: Progress whose preview is that of the Progress before, left out here."""

    number: int
    event: Event
    same_preview: bool = False


@dataclass(frozen=True)
class Condition:
    """How the worker is: sent when it is ready, when something changes, and twice a second as a sign of life.

    status  of its engine
    opened  name of the model that is open, "" for none
    """

    status: str
    opened: str


@dataclass(frozen=True)
class SavedFile:
    """A picture was written."""

    path: Path


@dataclass(frozen=True)
class Answer:
    """What an `Ask` returned; None where it failed, too."""

    number: int
    value: Any


@dataclass(frozen=True)
class CallOnHead:
    """Call a function on the machine that has the files, and answer with `Returned`. See `JobContext.on_head`."""

    number: int
    call: Callable[[], Any]


@dataclass(frozen=True)
class Logged:
    """A record for the program's log."""

    record: logging.LogRecord


ToWorker = Describe | Do | Stop | Skip | OthersWait | WarmUp | Ask | Returned | End
Message = ToWorker | Told | Condition | SavedFile | Answer | CallOnHead | Logged

KINDS = {Sampler: "sampler", Schedule: "schedule", Guidance: "guidance"}
MODEL = "model"


class PluginOutdated(ValueError):
    """A plugin here is not the one that an order was planned with."""


def encode(value: Any, registry: Registry, number_of: Callable[[ModelInfo], int]) -> bytes:
    """A value as bytes, its models by numbers that the reader knows or will know before.

    Raises PluginOutdated, and what pickle raises for what cannot pass, as a local function.
    """
    buffer = io.BytesIO()
    _Pickler(buffer, registry, number_of).dump(value)
    return buffer.getvalue()


def decode(data: bytes, registry: Registry, models: Mapping[int, ModelInfo]) -> Any:
    """A value from bytes that a process of this program wrote; models by their numbers. Raises PluginOutdated."""
    return _Unpickler(io.BytesIO(data), registry, models).load()


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, registry: Registry, number_of: Callable[[ModelInfo], int]):
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self._registry, self._number_of = registry, number_of

    def persistent_id(self, value: Any) -> tuple[Any, ...] | None:
        if isinstance(value, ModelInfo):
            return MODEL, self._number_of(value)
        kind = KINDS.get(type(value))
        if kind is None:
            return None
        entry = _entry(self._registry, kind, value.name)
        if entry is None or entry.item is not value:
            raise PluginOutdated(f"the {kind} {value.name} was loaded anew since this was planned; start it again")
        return kind, entry.id, entry.digest


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, registry: Registry, models: Mapping[int, ModelInfo]):
        super().__init__(file)
        self._registry, self._models = registry, models

    def persistent_load(self, named: tuple[Any, ...]) -> Any:
        kind, *which = named
        if kind == MODEL:
            return self._models[which[0]]
        name, digest = which
        entry = _entry(self._registry, kind, name)
        if entry is None or entry.digest != digest:
            raise PluginOutdated(f"the {kind} {name} has changed on the disk; start Sigmalab anew")
        return entry.item


def _entry(registry: Registry, kind: str, name: str) -> Entry[Any] | None:
    try:
        entry: Entry[Any] = getattr(registry, kind)(name)
        return entry
    except ValueError:
        return None
