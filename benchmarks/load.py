"""Many clients, killed workers and several devices: what one queue with worker processes withstands, and what it gains.

    python -m benchmarks.load clients     200 clients, one picture each: all served, none crossed, memory, answers
    python -m benchmarks.load kills       100 times kill -9 of a worker at a random moment
    python -m benchmarks.load hung        a sampler that never calls the network and holds Python's lock
    python -m benchmarks.load grid        a grid of 40 cells on one worker of one thread, and on two, in turn
    python -m benchmarks.load thread      a thread and a process on one device, in turn: engine, API, start, memory

Each prints a line of a table. `--workers` and `--count` change the numbers. Everything is drawn by the embedded model.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import psutil

from benchmarks.page import api_client, through_engine
from samplers.registry import discover
from webui.app import launch_options
from webui.core.picture_metadata import read_picture
from webui.core.request import Request
from webui.engine.engine import Engine
from webui.engine.events import Failed, Finished
from webui.page import build_page
from webui.settings import Settings, free_port
from webui.tabs.lab.axes import read_axis
from webui.tabs.lab.compare import Compare
from webui.tabs.lab.grid import make_grid

ROOT = Path(__file__).parent.parent
PATIENCE = 1800.0
FEW_PLUGINS = ("euler.py", "schedules.py", "ddim.py")
HANGS = '''"""Holds Python's lock."""

import ctypes

from samplers import Step, hookimpl, sampler


@sampler("Hangs", requires="a library")
def hangs(denoise, x, sigmas, noise):
    ctypes.PyDLL(None).sleep(3600)
    yield Step(x, 0.0, denoise(x, sigmas[0]))


@hookimpl
def register_samplers():
    return [hangs]
'''


def main() -> None:
    """Measure one part and print what came of it."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("part", choices=PARTS)
    flags.add_argument("--workers", type=int, default=2)
    flags.add_argument("--count", type=int, help="clients, kills, cells or rounds")
    given = flags.parse_args()
    measure, count = PARTS[given.part]
    with tempfile.TemporaryDirectory(prefix="sigmalab-load-") as folder:
        print(measure(Path(folder), given.workers, given.count or count), flush=True)


def clients(folder: Path, workers: int, count: int) -> str:
    """So many clients of the API at once, while somebody looks at the page twice a second."""
    with _engine(folder, workers) as engine, _page(engine) as url:
        _warm(engine)
        api, before = f"{url}/gradio_api", _memory()
        with httpx.Client(timeout=PATIENCE) as client:
            parameters = client.get(f"{api}/info").json()["named_endpoints"]["/txt2img"]["parameters"]
        over, answers = threading.Event(), list[float]()
        watcher = threading.Thread(target=_look, args=(url, over, answers))
        watcher.start()
        began = time.monotonic()
        with ThreadPoolExecutor(count) as pool:
            wrong = list(filter(None, pool.map(lambda n: _one_client(api, parameters, n), range(count))))
        seconds = time.monotonic() - began
        over.set()
        watcher.join()
        slow = sorted(answers)[int(0.95 * len(answers))]
        said = f"; {wrong[0]}" if wrong else ""
        return (
            f"| {count} clients, {workers} workers | {count - len(wrong)} served with their own seed and prompt{said} "
            f"in {seconds:.0f} s; page at the 95th percentile {slow:.2f} s; memory {_memory() - before:+.0f} MB |"
        )


def _one_client(api: str, parameters: list[dict[str, Any]], number: int) -> str:
    """Ask for a picture and read it; what is wrong, "" for nothing."""
    names = [each["parameter_name"] for each in parameters]
    values = {each["parameter_name"]: each.get("parameter_default") for each in parameters}
    prompt, seed = f"red apple {number}", 1000 + number
    values |= dict(prompt=prompt, seed=seed, steps=4, sampler="Euler")
    with httpx.Client(timeout=PATIENCE) as client:
        asked = client.post(f"{api}/call/txt2img", json={"data": [values[name] for name in names]})
        if asked.status_code != 200:
            return f"client {number}: status {asked.status_code}"
        told = client.get(f"{api}/call/txt2img/{asked.json()['event_id']}").text
        if "event: complete" not in told:
            return f"client {number}: {told[-200:]}"
        files, _ = json.loads(told.split("event: complete\ndata: ")[1].split("\n")[0])
        picture = Path(tempfile.gettempdir()) / f"sigmalab-load-{os.getpid()}-{number}.png"
        picture.write_bytes(client.get(files[0]["url"]).content)
    record = read_picture(picture).record
    picture.unlink()
    if record is None or (record.request["prompt"], record.request["seed"]) != (prompt, seed):
        return f"client {number}: got another's picture"
    return ""


def kills(folder: Path, workers: int, count: int) -> str:
    """kill -9 of a worker that draws, at a random moment; every job and every picture has to be there in the end."""
    chance, lost, pictures, lengths = random.Random(1), 0, 0, list[float]()
    with _engine(folder, workers) as engine:
        _warm(engine)
        killed = 0
        while killed < count:
            jobs = [
                engine.submit(Request(prompt="red apple", sampler="Euler", steps=20, count=2, seed=n), f"owner {n}")
                for n in range(2 * workers)
            ]
            time.sleep(chance.uniform(0.0, 1.5))
            if victim := getattr(chance.choice(engine.workers), "channel", None):
                os.kill(victim.pid, 9)
                killed += 1
            for job in jobs:
                outcome = job.wait(PATIENCE)
                lost += not isinstance(outcome, Finished) or [p.index for p in job.pictures] != [0, 1]
                pictures += len(job.pictures)
                lengths.append(job.ended - job.created)
            until(lambda: all(worker.status != "starting" for worker in engine.workers))
    files = len(list((folder / "outputs").rglob("*.png")))
    return (
        f"| {count} kill -9, {workers} workers | {lost} jobs lost of {len(lengths)}; {pictures} pictures told, {files} "
        f"files; a job took {median(lengths):.1f} s, at most {max(lengths):.1f} s |"
    )


def hung(folder: Path, workers: int, count: int) -> str:
    """A sampler that holds Python's lock for an hour; others wait behind it."""
    (folder / "plugins").mkdir()
    (folder / "plugins" / "hangs.py").write_text(HANGS, "utf-8")
    with _engine(folder, 1) as engine:
        _warm(engine)
        began = time.monotonic()
        bad = engine.submit(Request(prompt="red apple", sampler="Hangs"), "me")
        good = engine.submit(Request(prompt="red apple", sampler="Euler"), "you")
        outcome = good.wait(PATIENCE)
        said = bad.outcome.message if isinstance(bad.outcome, Failed) else str(bad.outcome)
        ran = "ran" if isinstance(outcome, Finished) else "failed"
        return f'| a sampler that hangs in C | "{said}" The next job {ran} after {time.monotonic() - began:.0f} s |'


def grid(folder: Path, workers: int, count: int) -> str:
    """The same grid on one worker of one thread and on several, in turn."""
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that are made from now on
    times: dict[int, list[float]] = {1: [], workers: []}
    with _engine(folder / "one", 1) as alone, _engine(folder / "many", workers) as together:
        sides = {1: alone, workers: together}
        for engine in sides.values():
            _warm(engine)
        for round_ in range(3):
            for number, engine in sides.items():
                base = Request(prompt="red apple", sampler="Euler", steps=20, seed=100 * round_)
                axes = [
                    read_axis("guidance", f"1.5..{1 + 0.5 * (count // 4)} +0.5", engine.registry),
                    read_axis("seed", f"{100 * round_}..{100 * round_ + 3}", engine.registry),
                ]
                began = time.monotonic()
                job = engine.submit_task(Compare(make_grid(engine, base, axes)), "me")
                assert isinstance(job.wait(PATIENCE), Finished), job.outcome
                times[number].append(time.monotonic() - began)
    ratios = [a / b for a, b in zip(times[1], times[workers], strict=True)]
    one, many = median(times[1]), median(times[workers])
    return (
        f"| grid of {count} cells | one worker {one:.1f} s, {workers} workers {many:.1f} s: "
        f"{median(ratios):.2f} times ({min(ratios):.2f} to {max(ratios):.2f}) |"
    )


def thread(folder: Path, workers: int, count: int) -> str:
    """One picture on a thread and on a process, by the engine and by the API, in turn; start and memory of both."""
    lines = []
    with _engine(folder / "thread", 0) as in_thread, _engine(folder / "process", 1) as in_process:
        for name, engine in {"thread": in_thread, "process": in_process}.items():
            began = time.monotonic()
            _warm(engine)
            lines.append(f"{name}: ready after {time.monotonic() - began:.1f} s")
        with _page(in_thread) as first, _page(in_process) as second:
            with api_client(first) as thread_api, api_client(second) as process_api:
                sides = {
                    "thread, engine": lambda: through_engine(in_thread),
                    "thread, API": thread_api,
                    "process, engine": lambda: through_engine(in_process),
                    "process, API": process_api,
                }
                for side in sides.values():
                    side()
                times: dict[str, list[float]] = {name: [] for name in sides}
                for _ in range(count):
                    for name, side in sides.items():
                        times[name].append(side())
    medians = {name: median(each) for name, each in times.items()}
    lines += [f"{name}: {value:.3f} s" for name, value in medians.items()]
    for kind in ("thread", "process"):
        lines.append(f"{kind}: API over engine {medians[f'{kind}, API'] / medians[f'{kind}, engine']:.2f}")
    return "\n".join(lines)


@contextmanager
def _engine(folder: Path, workers: int) -> Iterator[Engine]:
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
def _page(engine: Engine) -> Iterator[str]:
    os.environ.setdefault("GRADIO_TEMP_DIR", str(engine.settings.root / "served"))
    page, port = build_page(engine), free_port("127.0.0.1", 7950)
    url = page.launch(**launch_options(engine.settings), server_name="127.0.0.1", server_port=port)[1]
    try:
        yield str(url).rstrip("/")
    finally:
        page.close(verbose=False)


def _warm(engine: Engine) -> None:
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


def _look(url: str, over: threading.Event, answers: list[float]) -> None:
    """Ask for the page twice a second."""
    with httpx.Client(timeout=PATIENCE) as client:
        while not over.wait(0.5):
            began = time.monotonic()
            client.get(url).raise_for_status()
            answers.append(time.monotonic() - began)


def _memory() -> float:
    """MB of this process and its children that they share with nobody."""
    this = psutil.Process()
    return sum(each.memory_full_info().uss for each in (this, *this.children(recursive=True))) / 1e6


PARTS: dict[str, tuple[Callable[[Path, int, int], str], int]] = {
    "clients": (clients, 200),
    "kills": (kills, 100),
    "hung": (hung, 1),
    "grid": (grid, 40),
    "thread": (thread, 7),
}

if __name__ == "__main__":
    main()
