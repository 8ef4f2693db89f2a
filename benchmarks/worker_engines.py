"""Engines with worker processes on the embedded model, their page, and what is measured around them."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Event
from pathlib import Path

import httpx
import psutil

from samplers.registry import discover
from webui.app import serve_page
from webui.engine.engine import Engine
from webui.page import build_page
from webui.settings import Settings, free_port

ROOT = Path(__file__).parent.parent
PATIENCE = 1800.0
FEW_PLUGINS = ("euler.py", "schedules.py", "ddim.py")


@contextmanager
def engine_with_workers(folder: Path, workers: int, ray: str = "") -> Iterator[Engine]:
    """An engine on the embedded model with so many worker processes; 0 is a thread."""
    (folder / "plugins").mkdir(parents=True, exist_ok=True)
    for name in FEW_PLUGINS:
        shutil.copy(ROOT / "plugins" / name, folder / "plugins")
    settings = Settings(
        root=folder,
        outputs=folder / "outputs",
        weights=ROOT / "weights",
        port=free_port("127.0.0.1", 7950 + workers),  # of two engines neither has opened its port yet
        device="cpu",
        devices=("cpu",) * workers,
        ray=ray,
        model="emoji",
        plugin_packages=False,
    )
    engine = Engine(discover(folder / "plugins", packages=False), settings)
    engine.start()
    try:
        yield engine
    finally:
        engine.close()


@contextmanager
def served_page(engine: Engine) -> Iterator[str]:
    os.environ.setdefault("GRADIO_TEMP_DIR", str(engine.settings.root / "served"))
    page = build_page(engine)
    try:
        yield serve_page(page, engine).rstrip("/")
    finally:
        page.close(verbose=False)


def wait_until_ready(engine: Engine) -> None:
    """Wait until every worker has the model open."""
    engine.warm_up()
    until(lambda: all("ready" in worker.status for worker in engine.workers))


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that a worker does."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("it did not happen")
        time.sleep(0.05)


def look_at_page(url: str, over: Event, answers: SimpleQueue[list[float]]) -> None:
    """Ask for the page twice a second until it is over, in a process of its own; answer with the seconds of each."""
    times = []
    with httpx.Client(timeout=PATIENCE) as client:
        while not over.wait(0.5):
            began = time.monotonic()
            client.get(url).raise_for_status()
            times.append(time.monotonic() - began)
    answers.put(times)


def own_memory() -> float:
    """MB of this process and its children that they share with nobody."""
    this = psutil.Process()
    return sum(each.memory_full_info().uss for each in (this, *this.children(recursive=True))) / 1e6
