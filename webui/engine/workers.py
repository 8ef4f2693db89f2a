"""The workers of an engine: a thread for one device, a process a device for several."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from samplers.registry import Registry
from webui.core.request import Request
from webui.environment import StartError
from weights.identity import ModelIdentity
from weights.model import Model
from weights.model_info import ModelInfo

from .job_queue import JobQueue

if TYPE_CHECKING:
    from webui.settings import Settings

    from .remote_worker import RemoteWorker
    from .worker_host import WorkerSetup
    from .worker_link import Channel


class DeviceWorker(Protocol):
    """What takes jobs from the queue and does them on one device."""

    @property
    def name(self) -> str:
        """Its name among several: "cpu 1"."""
        ...

    @property
    def status(self) -> str:
        """What it does, in a few words: "emoji on cpu, ready"."""
        ...

    @property
    def stuck(self) -> frozenset[str]:
        """The samplers that still compute there and could not be ended."""
        ...

    @property
    def opened_model(self) -> Model | None:
        """The open model if it is in this process; None before the first."""
        ...

    @property
    def alive(self) -> bool:
        """Whether its thread runs."""
        ...

    def start(self) -> None:
        """Begin to take jobs."""
        ...

    def join(self, timeout: float) -> None:
        """Wait for its end, which comes once the queue is closed."""
        ...

    def warm_up(self) -> None:
        """Load the default model as soon as no job waits."""
        ...

    def count_tokens(self, text: str, model: str) -> tuple[int, int] | None:
        """See `Engine.count_tokens`; None unless the model is open there."""
        ...

    def identity_of(self, request: Request) -> ModelIdentity | None:
        """See `Engine.identity_of`; None unless the model is open there."""
        ...


@dataclass(frozen=True)
class WorkerPlace:
    """Where a worker of another process runs.

    device   of the worker
    channel  starts it and connects with it
    threads  of the CPU that it computes with; None for as many as torch takes
    """

    device: str
    channel: Callable[[WorkerSetup], Channel]
    threads: int | None = None


def remote_workers(
    queue: JobQueue,
    registry: Callable[[], Registry],
    settings: Settings,
    open_model: Callable[..., Model],
    find_models: Callable[[Path], dict[str, ModelInfo]] | None,
    check_model: Callable[[ModelInfo], None],
    on_saved: Callable[[Path], None],
) -> list[RemoteWorker]:
    """A worker for each place that the settings name: a process a device, or an actor of a Ray cluster a GPU.

    See `Engine` for the arguments. Raises StartError if a cluster cannot be reached.
    """
    places = _cluster_places(settings) if settings.ray else _process_places(settings.devices)
    # Not needed by an engine with one thread; they import the engine itself.
    from .remote_worker import RemoteWorker
    from .worker_host import WorkerSetup

    workers = []
    for name, place in zip(names_of([each.device for each in places]), places, strict=True):
        own = replace(settings, device=place.device, ray="")
        setup = WorkerSetup(own, open_model, find_models, check_model, place.threads)
        workers.append(RemoteWorker(queue, name, registry, partial(place.channel, setup), on_saved))
    return workers


def _process_places(devices: Sequence[str]) -> list[WorkerPlace]:
    """A process for each device. Those on the CPU share its threads, so that they do not stand in each other's way."""
    import torch

    from .worker_process import ProcessChannel

    sharing = sum(device in ("cpu", "auto") for device in devices)
    threads = max(1, torch.get_num_threads() // sharing) if sharing > 1 else None
    return [WorkerPlace(device, partial(ProcessChannel, device=device), threads) for device in devices]


def _cluster_places(settings: Settings) -> list[WorkerPlace]:
    """An actor for each place of the cluster `settings.ray`. Raises StartError if it cannot be reached."""
    # Ray reads both while it is imported. It would report to its makers, and whoever may connect runs code on all
    # machines, so it is to ask for a token; versions before 2.52 know none.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    # Ray is an optional package.
    try:
        from .ray_cluster import RayChannel, join_cluster
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise StartError(
            "--ray needs the package ray, on all machines in the same version: python -m pip install -r "
            "requirements-ray.txt, with the Python of .venv"
        ) from None
    return [WorkerPlace(each.device, partial(RayChannel, place=each)) for each in join_cluster(settings)]


def names_of(devices: Sequence[str]) -> list[str]:
    """A name for each device; those of the same are counted: "cpu 1", "cpu 2"."""
    counts, seen = Counter(devices), Counter[str]()
    names = []
    for device in devices:
        seen[device] += 1
        names.append(f"{device} {seen[device]}" if counts[device] > 1 else device)
    return names


def joint_status(statuses: Sequence[tuple[str, str]]) -> str:
    """The status of several workers, (name, status) each, in a line."""
    first = statuses[0][1]
    if len(statuses) == 1:
        return first
    if all(status == first for _, status in statuses):
        return f"{len(statuses)} workers: {first}"
    return " · ".join(f"{name}: {status}" for name, status in statuses)
