"""A toy engine that other processes can open too, and workers in this process that are reached as if elsewhere."""

from __future__ import annotations

import pickle
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from conftest import ROOT, ToyModel, toy

from samplers.registry import discover
from webui.engine.engine import Engine
from webui.engine.remote_worker import RemoteWorker
from webui.engine.weight_copies import WeightFiles
from webui.engine.worker_host import WorkerHost, WorkerSetup
from webui.settings import Settings

SLOW = 0.02  # seconds of a network call whose prompt says so
HUNG = '''"""Hangs in a library that holds Python's lock."""

import ctypes

from samplers import Step, hookimpl, sampler


@sampler("Hangs", requires="a library")
def hangs(denoise, x, sigmas, noise):
    ctypes.PyDLL(None).sleep(60)
    yield Step(x, 0.0, denoise(x, sigmas[0]))


@hookimpl
def register_samplers():
    return [hangs]
'''


class SlowToy(ToyModel):
    """A toy whose calls take a while where the prompt says "slow"."""

    def denoiser(self, prompt, negative_prompt="", guidance=1.0, **conditioning):
        self.on_call = lambda sigma: time.sleep(SLOW if "slow" in prompt else 0)
        return super().denoiser(prompt, negative_prompt, guidance, **conditioning)


def open_toy(info: Any, device: str) -> SlowToy:
    return SlowToy(info)


def find_toys(folder: Path) -> dict[str, Any]:
    return {name: toy(name, max_batch=2) for name in ("toy", "other")}


def toy_settings(root: Path, **more: Any) -> Settings:
    """Settings with two plugin files, so that a process starts fast."""
    (root / "plugins").mkdir(exist_ok=True)
    for name in ("euler.py", "schedules.py"):
        shutil.copy(ROOT / "plugins" / name, root / "plugins")
    return Settings(
        root=root, outputs=root / "outputs", weights=root / "weights", model="toy", plugin_packages=False, **more
    )


def toy_engine(settings: Settings, **more: Any) -> Engine:
    registry = discover(settings.root / "plugins", settings.plugin_folders, packages=False)
    return Engine(registry, settings, open_toy, find_toys, **more)


class NearChannel:
    """A channel to a `WorkerHost` of this process, through pickled messages as through a pipe."""

    def __init__(self, setup: WorkerSetup):
        self._to_program: SimpleQueue[bytes | None] = SimpleQueue()
        self._gone = threading.Event()
        self.host = WorkerHost(setup, self._tell, self.kill)

    def _tell(self, message):
        if not self._gone.is_set():
            self._to_program.put(pickle.dumps(message))

    def send(self, message):
        if self._gone.is_set():
            raise OSError("gone")
        self.host.receive(pickle.loads(pickle.dumps(message)))

    def receive(self):
        data = self._to_program.get()
        if data is None:
            raise EOFError
        return pickle.loads(data)

    def kill(self):
        self._gone.set()
        self._to_program.put(None)
        self.host.close()

    def close(self, timeout):
        self.kill()

    def why_ended(self):
        return "It was killed."


def near_engine(settings: Settings, count: int = 2, weights: WeightFiles | None = None, **more: Any) -> Engine:
    """An engine whose workers are reached as if each were a process, or on another machine if they get `weights`."""
    engine = toy_engine(replace(settings, devices=("cpu",) * count), **more)
    on_saved = more.get("on_saved", lambda path: None)
    setup = WorkerSetup(settings, open_toy, find_toys, lambda info: None, weights=weights)
    engine.workers = [
        RemoteWorker(engine.queue, f"cpu {n + 1}", lambda: engine.registry, lambda: NearChannel(setup), on_saved)
        for n in range(count)
    ]
    return engine
