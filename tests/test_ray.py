"""A cluster of two workers on this machine: jobs, Stop, and a worker that vanishes. Needs the package ray."""

import importlib.util
import os
import pickle
import sys
import threading
import time
from pathlib import Path
from queue import SimpleQueue

import pytest
from conftest import ROOT, until
from toy_workers import toy_engine, toy_settings

from webui.core.request import Request
from webui.engine.events import Finished, Picture, Progress, StoppedEarly
from webui.engine.remote_messages import Told
from webui.engine.workers import remote_workers
from webui.environment import StartError

HAS_RAY = importlib.util.find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not HAS_RAY, reason="ray is not installed: pip install -r requirements-ray.txt")


@pytest.fixture(autouse=True, scope="module")
def asks_for_a_token():
    """Ray reads it while it is imported, which a test may do before an engine does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        yield


def test_without_ray_the_flag_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "webui.engine.ray_cluster", raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    settings = toy_settings(tmp_path, ray="auto")
    with pytest.raises(StartError, match="requirements-ray.txt"):
        remote_workers(None, None, settings, None, None, None, None)


@needs_ray
@pytest.mark.parametrize(
    "machines, wanted, devices, reserved",
    [
        ([{"CPU": 8.0, "GPU": 2.0}, {"CPU": 8.0, "GPU": 1.0}], 0, ["cuda"] * 3, 1),
        ([{"CPU": 8.0, "GPU": 2.0}], 1, ["cuda"], 1),
        ([{"CPU": 8.0}, {"CPU": 4.0}, {"memory": 1.0}], 0, ["cpu"] * 2, 4),
        ([{"CPU": 8.0}], 3, ["cpu"] * 3, 2),
        ([{"memory": 1.0}], 0, [], 0),
    ],
)
def test_a_worker_has_a_gpu_or_a_share_of_the_cores(machines, wanted, devices, reserved):
    from webui.engine.ray_cluster import places_of

    places = places_of(machines, wanted)
    assert [each.device for each in places] == devices
    assert {each.options["num_cpus"] for each in places} == ({reserved} if devices else set())


@needs_ray
def test_progress_waits_for_what_comes_after_it_and_nothing_else_waits(monkeypatch):
    from webui.engine import ray_cluster

    monkeypatch.setattr(ray_cluster, "GATHERED", 60.0)
    actor = ray_cluster.WorkerActor.__new__(ray_cluster.WorkerActor)
    actor._told = SimpleQueue()
    told = [Told(1, Progress(text="step 1")), Told(1, Picture(Path("a.png"), 7, 0)), Told(1, Progress(text="step 2"))]
    actor._tell(told[0])
    later = threading.Timer(0.2, lambda: [actor._tell(each) for each in told[1:]])
    later.start()
    heard = actor.messages()
    later.join()
    assert [pickle.loads(each) for each in heard][:2] == told[:2]


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """An engine on a cluster of this machine alone, with two workers of a core each."""
    import ray

    root = tmp_path_factory.mktemp("cluster")
    settings = toy_settings(root, devices=("cpu", "cpu"), ray="local")
    settings.weights.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        # The toy is a part of the tests, which are no part of the program that a worker gets.
        patch.setenv("PYTHONPATH", os.pathsep.join((str(ROOT), str(ROOT / "tests"))))
        engine = toy_engine(settings)
        engine.start()
        yield engine
        engine.close()
        ray.shutdown()


def submit(engine, prompt="a", **more):
    return engine.submit(Request(**{"prompt": prompt, "sampler": "Euler", "steps": 4, "seed": 7, **more}), "me")


@needs_ray
def test_both_workers_draw_and_the_head_writes(engine):
    job = submit(engine, "slow", count=8, steps=20)
    assert type(job.wait(120)) is Finished
    assert [picture.index for picture in job.pictures] == list(range(8))
    assert len({picture.path for picture in job.pictures}) == 8
    assert {worker.name for worker in engine.workers} == {"cpu 1", "cpu 2"}
    assert "ready" in engine.status


@needs_ray
def test_a_worker_that_vanishes_costs_a_part_and_is_replaced(engine):
    job = submit(engine, "slow", count=4, steps=40)
    until(lambda: job.snapshot().progress is not None and job.snapshot().progress.calls)
    until(lambda: job.run.lead is not None)
    worker = job.run.lead
    vanished = worker.channel
    vanished.kill()
    assert type(job.wait(120)) is Finished
    assert [picture.index for picture in job.pictures] == [0, 1, 2, 3]
    until(lambda: worker.channel not in (None, vanished))


@needs_ray
def test_stop_ends_a_job_within_a_call(engine):
    job = submit(engine, "slow", steps=150)
    until(lambda: job.snapshot().progress is not None and job.snapshot().progress.calls)
    engine.stop(job)
    began = time.monotonic()
    assert isinstance(job.wait(60), StoppedEarly)
    assert time.monotonic() - began < 5
