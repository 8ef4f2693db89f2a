"""Workers on the machines of a Ray cluster: the same worker as in a process, as an actor with a GPU or some cores.

Pictures and everything else that lies beside the program stay on the machine where it runs, the head: workers read and
write them through it (`JobContext.on_head`). Imported only with --ray, for ray is an optional package.
"""

from __future__ import annotations

import logging
import os
import pickle
import shutil
import tempfile
import time
from collections import deque
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayError

from webui.environment import StartError

from .events import Progress
from .remote_messages import Condition, End, Message, Told
from .weight_copies import WeightFiles, files_in
from .worker_host import WorkerHost, WorkerSetup
from .worker_process import LogSender

if TYPE_CHECKING:
    from webui.settings import Settings

ROOT = Path(__file__).parents[2]
PROGRAM = ("samplers", "weights", "webui")  # folders that a worker needs beside the plugins
# Nothing is fetched at run time, there neither; see launch.py.
OFFLINE = ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK")
OWN_PLUGINS = "plugin-folders"  # folder of the user's own plugins on the machines of the cluster
LONGEST = 10.0  # seconds that a question for messages waits for one
GATHERED = 0.25  # seconds for which progress is gathered: each answer costs some milliseconds of both machines
FAREWELL = 0.5  # seconds between the last message of a worker and its end
COPIES = Path("~/.cache/sigmalab/weights")  # on the machines of the cluster
GROUPS = {"orders": 1, "messages": 1}  # threads of an actor: one hears, one tells

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """Where a worker may run: its device there, and what Ray is to reserve for it."""

    device: str
    options: dict[str, Any] = field(default_factory=dict)


def join_cluster(settings: Settings) -> list[Place]:
    """Connect this process with the cluster of the settings; the places of its workers. Raises StartError."""
    with tempfile.TemporaryDirectory(prefix="sigmalab-code-") as folder:
        code = Path(folder)
        _gather(settings, code)
        try:
            ray.init(
                address=settings.ray,
                runtime_env={"working_dir": str(code), "env_vars": {name: "1" for name in OFFLINE}},
                ignore_reinit_error=True,
                include_dashboard=False,
                log_to_driver=False,
                configure_logging=False,
            )
        except (OSError, RuntimeError, ValueError, RayError) as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise StartError(
                f"--ray {settings.ray}: {first}\nStart a cluster first: ray start --head on this machine, with the "
                "ray of .venv/bin"
            ) from None
    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    places = places_of(resources, len(settings.devices))
    if not places:
        raise StartError(f"--ray {settings.ray}: no machine of the cluster has a GPU or a core for workers")
    return places


def places_of(machines: list[dict[str, float]], wanted: int = 0) -> list[Place]:
    """The places of workers on machines, given by what Ray knows of them: a GPU each, or a share of the cores.

    wanted  how many workers; 0 is one a GPU, or one a machine where no machine has one
    """
    gpus = int(sum(each.get("GPU", 0) for each in machines))
    if gpus:
        return [Place("cuda", dict(num_gpus=1, num_cpus=1)) for _ in range(min(gpus, wanted or gpus))]
    cores = [int(each["CPU"]) for each in machines if each.get("CPU", 0) >= 1]
    count = min(sum(cores), wanted or len(cores))
    if not count:
        return []
    share = max(1, min(cores) // -(-count // len(cores)))
    return [Place("cpu", dict(num_cpus=share, scheduling_strategy="SPREAD")) for _ in range(count)]


def _gather(settings: Settings, code: Path) -> None:
    """Copy what a worker needs of the program into a folder, which Ray takes to its machines."""

    def others(folder: str, names: list[str]) -> list[str]:
        # The weights themselves are no part of the code.
        of_weights = Path(folder).is_relative_to(ROOT / "weights")
        places = [Path(folder, name) for name in names]
        code = {each.name for each in places if each.suffix == ".py" or (each / "__init__.py").is_file()}
        return [name for name in names if name == "__pycache__" or (of_weights and name not in code)]

    for source in (*(ROOT / name for name in PROGRAM), settings.root / "plugins"):
        shutil.copytree(source, code / source.name, ignore=others)
    for number, folder in enumerate(settings.plugin_folders):
        # A plugin is known by the name of its folder.
        shutil.copytree(folder, code / OWN_PLUGINS / str(number) / folder.name, ignore=others)


class RayChannel:
    """The program's end of an actor, which it starts. See `webui.engine.worker_link.Channel`."""

    def __init__(self, setup: WorkerSetup, place: Place):
        known = WeightFiles(files_in(setup.settings.weights), COPIES)
        made = ray.remote(concurrency_groups=GROUPS)(WorkerActor).options(**place.options)
        self._actor = made.remote(replace(setup, weights=known))
        self._heard = deque[bytes]()
        self._why = "The cluster did not say why."

    def send(self, message: Message) -> None:
        """Send a message. Raises OSError if the actor has ended."""
        data = pickle.dumps(message)
        try:
            self._actor.receive.remote(data)
        except RayError as error:
            raise OSError(str(error)) from None

    def receive(self) -> Message:
        """The next message; waits for it. Raises EOFError once the actor has ended."""
        while not self._heard:
            try:
                self._heard.extend(ray.get(self._actor.messages.remote()))
            except RayError as error:
                told = [line.strip() for line in str(error).splitlines() if line.strip()]
                self._why = told[-1] if told else type(error).__name__
                raise EOFError(self._why) from None
        message: Message = pickle.loads(self._heard.popleft())
        return message

    def close(self, timeout: float) -> None:
        """End the actor; nothing is lost with it, for pictures are written on the head."""
        self.kill()

    def kill(self) -> None:
        """End the actor now, whatever it does."""
        ray.kill(self._actor)

    def why_ended(self) -> str:
        """How the actor ended, in a sentence."""
        return self._why


class WorkerActor:
    """The actor: a `WorkerHost` on a machine of the cluster, where it is started in the folder of the code."""

    def __init__(self, setup: WorkerSetup):
        self._told = SimpleQueue[tuple[bytes, bool]]()
        root = Path.cwd()
        folders = [
            root / OWN_PLUGINS / str(number) / folder.name
            for number, folder in enumerate(setup.settings.plugin_folders)
        ]
        settings = replace(
            setup.settings,
            root=root,
            plugin_folders=tuple(folders),
            cache=setup.settings.cache and COPIES.expanduser().with_name("cache"),
        )
        logging.getLogger().addHandler(LogSender(self._tell))
        logging.getLogger().setLevel(logging.INFO)
        self._host = WorkerHost(replace(setup, settings=settings), self._tell, self._give_up)

    def _give_up(self) -> None:
        # What was told last has to reach the program.
        time.sleep(FAREWELL)
        os._exit(3)

    def _tell(self, message: Message) -> None:
        can_wait = isinstance(message, Condition) or (isinstance(message, Told) and isinstance(message.event, Progress))
        self._told.put((pickle.dumps(message), can_wait))

    @ray.method(concurrency_group="orders")
    def receive(self, data: bytes) -> None:
        """Do what the program says; returns at once."""
        message = pickle.loads(data)
        if isinstance(message, End):
            os._exit(0)
        self._host.receive(message)

    @ray.method(concurrency_group="messages")
    def messages(self) -> list[bytes]:
        """What is to be told: all that there is as soon as something cannot wait; nothing after a while."""
        told, end = list[bytes](), time.monotonic() + LONGEST
        try:
            while True:
                data, can_wait = self._told.get(timeout=max(0.0, end - time.monotonic()))
                told.append(data)
                end = min(end, time.monotonic() + GATHERED) if can_wait else 0.0
        except Empty:
            return told
