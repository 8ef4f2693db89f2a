"""Many clients, killed workers and several devices: what one queue with worker processes withstands, and what it gains.

    python -m benchmarks.load clients     200 clients, one picture each: all served, none crossed, memory, answers
    python -m benchmarks.load kills       100 times kill -9 of a worker at a random moment
    python -m benchmarks.load hung        a sampler that never calls the network and holds Python's lock
    python -m benchmarks.load grid        a grid of 40 cells on one worker of one thread, and on two, in turn
    python -m benchmarks.load thread      a thread and a process on one device, in turn: engine, API, start, memory

Each prints a line of a table. `--workers` and `--count` change the numbers, `--ray ADDRESS` takes workers of a cluster,
and `thread` knows none. Everything is drawn by the embedded model.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from benchmarks.page import api_client, through_engine
from benchmarks.worker_engines import (
    PATIENCE,
    engine_with_workers,
    look_at_page,
    own_memory,
    served_page,
    until,
    wait_until_ready,
)
from webui.core.picture_metadata import read_picture
from webui.core.request import Request
from webui.engine.engine import Engine
from webui.engine.events import Failed, Finished
from webui.tabs.lab.axes import read_axis
from webui.tabs.lab.compare import Compare
from webui.tabs.lab.grid import make_grid

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


@dataclass(frozen=True)
class Run:
    """What is asked for: so many workers, and clients, kills, cells or pictures; `ray` is the address of a cluster."""

    folder: Path
    workers: int
    count: int
    ray: str
    minutes: float
    rounds: int


def main() -> None:
    """Measure one part and print what came of it."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("part", choices=PARTS)
    flags.add_argument("--workers", type=int, default=2)
    flags.add_argument("--count", type=int, help="clients, kills, cells or pictures")
    flags.add_argument("--ray", default="")
    flags.add_argument("--minutes", type=float, default=60.0, help="kill no more after so long (60)")
    flags.add_argument("--rounds", type=int, default=3, help="of the grid on one worker and on several, in turn (3)")
    given = flags.parse_args()
    measure, count = PARTS[given.part]
    with tempfile.TemporaryDirectory(prefix="sigmalab-load-") as folder:
        run = Run(Path(folder), given.workers, given.count or count, given.ray, given.minutes, given.rounds)
        print(measure(run), flush=True)


def clients(run: Run) -> str:
    """So many clients of the API at once, while somebody looks at the page twice a second; both in other processes."""
    count, workers = run.count, run.workers
    context = multiprocessing.get_context("spawn")
    with engine_with_workers(run.folder, workers, run.ray) as engine, served_page(engine) as url:
        wait_until_ready(engine)
        over, answers = context.Event(), context.SimpleQueue()
        watcher = context.Process(target=look_at_page, args=(url, over, answers))
        watcher.start()
        before, processor = own_memory(), time.process_time()
        with ProcessPoolExecutor(1, context) as pool:
            wrong, seconds = pool.submit(_all_clients, url, count).result()
        processor = time.process_time() - processor
        over.set()
        times = sorted(answers.get())
        watcher.join()
        said = f"; {wrong[0]}" if wrong else ""
        return (
            f"| {count} clients, {workers} workers | {count - len(wrong)} served with their own seed and prompt{said} "
            f"in {seconds:.0f} s, {processor:.0f} of the head's processor; page at the 95th percentile "
            f"{times[int(0.95 * len(times))]:.2f} s; memory {own_memory() - before:+.0f} MB |"
        )


def _all_clients(url: str, count: int) -> tuple[list[str], float]:
    """What is wrong with the answers of so many clients at once, and the seconds that they took."""
    api, anything = f"{url}/gradio_api", httpx.Limits(max_connections=None)
    with httpx.Client(timeout=PATIENCE, limits=anything) as client, ThreadPoolExecutor(count) as pool:
        parameters = client.get(f"{api}/info").json()["named_endpoints"]["/txt2img"]["parameters"]
        began = time.monotonic()
        wrong = list(filter(None, pool.map(lambda n: _one_client(client, api, parameters, n), range(count))))
        return wrong, time.monotonic() - began


def _one_client(client: httpx.Client, api: str, parameters: list[dict[str, Any]], number: int) -> str:
    """Ask for a picture and read it; what is wrong, "" for nothing."""
    names = [each["parameter_name"] for each in parameters]
    values = {each["parameter_name"]: each.get("parameter_default") for each in parameters}
    prompt, seed = f"red apple {number}", 1000 + number
    values |= dict(prompt=prompt, seed=seed, steps=4, sampler="Euler")
    asked = client.post(f"{api}/call/txt2img", json={"data": [values[name] for name in names]})
    if asked.status_code != 200:
        return f"client {number}: status {asked.status_code}"
    told = client.get(f"{api}/call/txt2img/{asked.json()['event_id']}").text
    if "event: complete" not in told:
        return f"client {number}: {told[-200:]}"
    ((files, _),) = json.loads(told.split("event: complete\ndata: ")[1].split("\n")[0])
    picture = Path(tempfile.gettempdir()) / f"sigmalab-load-{os.getpid()}-{number}.png"
    picture.write_bytes(client.get(files[0]["url"]).content)
    record = read_picture(picture).record
    picture.unlink()
    if record is None or (record.request["prompt"], record.request["seed"]) != (prompt, seed):
        return f"client {number}: got another's picture"
    return ""


def kills(run: Run) -> str:
    """kill -9 of a worker that draws, at a random moment; every job and every picture has to be there in the end."""
    chance, lost, pictures, lengths = random.Random(1), 0, 0, list[float]()
    count, workers = run.count, run.workers
    with engine_with_workers(run.folder, workers, run.ray) as engine:
        wait_until_ready(engine)
        killed = 0
        end = time.monotonic() + 60 * run.minutes
        while killed < count and time.monotonic() < end:
            jobs = [
                engine.submit(Request(prompt="red apple", sampler="Euler", steps=8, count=2, seed=n), f"owner {n}")
                for n in range(2 * workers)
            ]
            time.sleep(chance.uniform(0.0, 1.5))
            if victim := getattr(chance.choice(engine.workers), "channel", None):
                victim.kill()
                killed += 1
            for job in jobs:
                outcome = job.wait(PATIENCE)
                lost += not isinstance(outcome, Finished) or [p.index for p in job.pictures] != [0, 1]
                pictures += len(job.pictures)
                lengths.append(job.ended - job.created)
            until(lambda: all(worker.status != "starting" for worker in engine.workers))
    files = len(list((run.folder / "outputs").rglob("*.png")))
    return (
        f"| {killed} kill -9, {workers} workers | {lost} jobs lost of {len(lengths)}; {pictures} pictures told, "
        f"{files} files; a job took {median(lengths):.1f} s, at most {max(lengths):.1f} s |"
    )


def hung(run: Run) -> str:
    """A sampler that holds Python's lock for an hour; others wait behind it."""
    (run.folder / "plugins").mkdir()
    (run.folder / "plugins" / "hangs.py").write_text(HANGS, "utf-8")
    with engine_with_workers(run.folder, 1, run.ray) as engine:
        wait_until_ready(engine)
        began = time.monotonic()
        bad = engine.submit(Request(prompt="red apple", sampler="Hangs"), "me")
        good = engine.submit(Request(prompt="red apple", sampler="Euler"), "you")
        outcome = good.wait(PATIENCE)
        said = bad.outcome.message if isinstance(bad.outcome, Failed) else str(bad.outcome)
        ran = "ran" if isinstance(outcome, Finished) else "failed"
        return f'| a sampler that hangs in C | "{said}" The next job {ran} after {time.monotonic() - began:.0f} s |'


def grid(run: Run) -> str:
    """The same grid on one worker of one thread and on several, in turn."""
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that are made from now on
    count, workers = run.count, run.workers
    times: dict[int, list[float]] = {1: [], workers: []}
    # On a cluster one worker takes all cores of a machine, so that no other finds a place beside it.
    for sides in ([1], [workers]) if run.ray else ([1, workers],):
        with ExitStack() as open_engines:
            engines = {
                number: open_engines.enter_context(engine_with_workers(run.folder / str(number), number, run.ray))
                for number in sides
            }
            for engine in engines.values():
                wait_until_ready(engine)
            for round_ in range(run.rounds):
                for number, engine in engines.items():
                    times[number].append(_seconds_of_grid(engine, count, 100 * round_))
    ratios = [a / b for a, b in zip(times[1], times[workers], strict=True)]
    one, many = median(times[1]), median(times[workers])
    return (
        f"| grid of {count} cells | one worker {one:.1f} s, {workers} workers {many:.1f} s: "
        f"{median(ratios):.2f} times ({min(ratios):.2f} to {max(ratios):.2f}) |"
    )


def _seconds_of_grid(engine: Engine, count: int, seed: int) -> float:
    base = Request(prompt="red apple", sampler="Euler", steps=20, seed=seed)
    axes = [
        read_axis("guidance", f"1.5..{1 + 0.5 * (count // 4)} +0.5", engine.registry),
        read_axis("seed", f"{seed}..{seed + 3}", engine.registry),
    ]
    began = time.monotonic()
    job = engine.submit_task(Compare(make_grid(engine, base, axes)), "me")
    assert isinstance(job.wait(PATIENCE), Finished), job.outcome
    return time.monotonic() - began


def thread(run: Run) -> str:
    """One picture on a thread and on a process, by the engine and by the API, in turn; start and memory of both."""
    lines = []
    with (
        engine_with_workers(run.folder / "thread", 0) as in_thread,
        engine_with_workers(run.folder / "process", 1) as in_process,
    ):
        for name, engine in {"thread": in_thread, "process": in_process}.items():
            began = time.monotonic()
            wait_until_ready(engine)
            lines.append(f"{name}: ready after {time.monotonic() - began:.1f} s")
        with served_page(in_thread) as first, served_page(in_process) as second:
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
                for _ in range(run.count):
                    for name, side in sides.items():
                        times[name].append(side())
    medians = {name: median(each) for name, each in times.items()}
    lines += [f"{name}: {value:.3f} s" for name, value in medians.items()]
    for kind in ("thread", "process"):
        lines.append(f"{kind}: API over engine {medians[f'{kind}, API'] / medians[f'{kind}, engine']:.2f}")
    return "\n".join(lines)


PARTS: dict[str, tuple[Callable[[Run], str], int]] = {
    "clients": (clients, 200),
    "kills": (kills, 100),
    "hung": (hung, 1),
    "grid": (grid, 40),
    "thread": (thread, 7),
}

if __name__ == "__main__":
    main()
