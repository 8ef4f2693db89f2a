"""Samplers that never call the network: they are named, interrupted, or left behind; the next job runs."""

import threading
import time
from pathlib import Path

import pytest
from conftest import ToyModel, toy, until

from samplers import Step
from samplers.registry import Entry, Registry
from samplers.sampler import sampler
from webui.core.request import Request, RequestError
from webui.engine import watchdog
from webui.engine.engine import Engine
from webui.engine.watchdog import at_most
from webui.settings import Settings

HELD = threading.Event()


@sampler("Loops")
def loops(denoise, x, sigmas, noise):
    denoised = denoise(x, sigmas[0])
    while True:
        try:
            sum(range(1000))
        except Exception:
            pass
    yield Step(x, 0.0, denoised)


@sampler("Waits in C")
def waits(denoise, x, sigmas, noise):
    HELD.wait(60)
    yield Step(denoise(x, sigmas[0]), 0.0, x)


@pytest.fixture
def engine(registry, tmp_path, monkeypatch):
    for name, seconds in dict(LOOK=0.05, TOLD=0.2, GRACE=0.3, LIMIT=0.6).items():
        monkeypatch.setattr(watchdog, name, seconds)
    more = {each.name: Entry(each, "test", "1") for each in (loops, waits)}
    plugins = Registry({**registry.samplers, **more}, registry.schedules)
    settings = Settings(root=tmp_path, outputs=tmp_path / "outputs", model="toy")
    engine = Engine(plugins, settings, lambda info, device: ToyModel(info), lambda path: {"toy": toy()})
    engine.start()
    yield engine
    HELD.set()
    engine.close()
    HELD.clear()


def submit(engine, sampler):
    return engine.submit(Request(prompt="a", sampler=sampler, steps=2), "me")


def test_a_silent_sampler_is_named_and_stop_ends_it(engine):
    job = submit(engine, "Loops")
    until(lambda: job.snapshot().progress and "Loops has not called the network" in job.snapshot().progress.text)
    time.sleep(1.5 * watchdog.LIMIT)
    assert job.outcome is None  # nobody waits, nobody stopped it
    engine.stop(job)
    assert type(job.wait(10)).__name__ == "StoppedEarly"


def test_others_that_wait_go_on(engine):
    job, other = submit(engine, "Loops"), submit(engine, "Euler")
    assert len(other.wait(20).info["seeds"]) == 1
    assert "sampler Loops has not called the network" in job.outcome.message


def test_a_thread_that_cannot_be_interrupted_is_left_behind(engine):
    job, other = submit(engine, "Waits in C"), submit(engine, "Euler")
    assert len(other.wait(20).info["seeds"]) == 1
    assert "Waits in C has not called the network" in job.outcome.message
    with pytest.raises(RequestError, match="still computes"):
        submit(engine, "Waits in C")
    HELD.set()
    until(lambda: not engine.worker.stuck)
    assert list(Path(engine.settings.outputs).rglob("*.png")) == [other.pictures[0].path]


def test_a_slow_network_call_is_no_silent_sampler(engine, monkeypatch):
    monkeypatch.setattr(ToyModel, "calls", [], raising=False)
    job = submit(engine, "Euler")
    job.wait(10)
    seconds = iter([1.5 * watchdog.LIMIT])
    engine.opened_model.on_call = lambda sigma: time.sleep(next(seconds, 0))
    slow, other = submit(engine, "Euler"), submit(engine, "Euler")
    assert type(slow.wait(20)).__name__ == type(other.wait(20)).__name__ == "Finished"


def test_a_block_of_plugin_code_is_ended():
    begun = time.monotonic()
    with pytest.raises(TimeoutError, match="0.2 seconds"):
        with at_most(0.2):
            while True:
                pass
    assert time.monotonic() - begun < 5
    with at_most(5):
        pass
