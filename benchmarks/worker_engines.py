"""Engines with worker processes on the embedded model, their page, and what is measured around them."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

from samplers.registry import discover
from webui.app import launch_options
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
    page, port = build_page(engine), free_port("127.0.0.1", 7950)
    url = page.launch(**launch_options(engine.settings), server_name="127.0.0.1", server_port=port)[1]
    try:
        yield str(url).rstrip("/")
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


def look_at_page(url: str, over: threading.Event, answers: list[float]) -> None:
    """Ask for the page twice a second."""
    with httpx.Client(timeout=PATIENCE) as client:
        while not over.wait(0.5):
            began = time.monotonic()
            client.get(url).raise_for_status()
            answers.append(time.monotonic() - began)


def own_memory() -> float:
    """MB of this process and its children that they share with nobody."""
    this = psutil.Process()
    return sum(each.memory_full_info().uss for each in (this, *this.children(recursive=True))) / 1e6
