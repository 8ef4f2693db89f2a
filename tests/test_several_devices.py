"""Several workers behind one queue: what they draw, who gets which job, and what happens when one of them ends."""

import os
import time
from functools import partial

import pytest
import toy_workers
from conftest import until
from PIL import Image
from toy_workers import HUNG, NearChannel, near_engine, toy_engine, toy_settings

from webui.core.request import Request
from webui.engine import remote_worker, watchdog, worker_process
from webui.engine.events import Failed, Finished, StoppedEarly
from webui.engine.job_parts import SharedRun
from webui.engine.job_queue import JobQueue
from webui.engine.jobs import Job, TaskJob
from webui.engine.remote_messages import Describe, Do
from webui.engine.worker_process import show_one_gpu
from webui.engine.workers import joint_status, names_of
from webui.tabs.lab.axes import read_axis
from webui.tabs.lab.compare import Compare
from webui.tabs.lab.grid import make_grid


@pytest.fixture
def engine(tmp_path):
    engine = near_engine(toy_settings(tmp_path))
    engine.start()
    yield engine
    engine.close()


def submit(engine, prompt="a", owner="me", **more):
    return engine.submit(Request(**{"prompt": prompt, "sampler": "Euler", "steps": 4, "seed": 7, **more}), owner)


def at_work(job):
    until(lambda: job.snapshot().progress is not None and job.snapshot().progress.calls)


def worker_of(engine, job):
    """The worker that took a running job."""
    until(lambda: job.run.lead is not None)
    return job.run.lead


def kill(worker):
    worker.channel.kill()


def pixels(job):
    return [Image.open(picture.path).tobytes() for picture in job.pictures]


def facts(info):
    return {key: value for key, value in info.items() if key != "seconds"}


def test_a_batch_is_drawn_by_all_and_equals_that_of_one(engine, tmp_path):
    (tmp_path / "alone").mkdir()
    alone = toy_engine(toy_settings(tmp_path / "alone"))
    alone.start()
    one, many = submit(alone, count=7), submit(engine, count=7)
    assert facts(one.wait(20).info) == facts(many.wait(20).info)
    alone.close()
    assert [picture.index for picture in many.pictures] == list(range(7))
    assert pixels(one) == pixels(many)


def test_both_workers_are_at_a_batch_and_its_progress_is_one_story(engine):
    job = submit(engine, "slow", count=8, steps=20)
    told = [event for event in job.events() if type(event).__name__ == "Progress"]
    assert any("pictures 1-2 of 8" in each.text and "pictures 3-4 of 8" in each.text for each in told)
    assert told[-1].total_calls == 80
    assert [each.calls for each in told] == sorted(each.calls for each in told)


def test_the_cells_of_a_grid_are_shared(engine):
    axis = read_axis("steps", "2, 3, 4, 5", engine.registry)
    task = Compare(make_grid(engine, Request(prompt="slow", sampler="Euler", seed=1), [axis]))
    job = engine.submit_task(task, "me")
    info = job.wait(20).info
    assert sorted(part.index for part in job.snapshot().parts) == [0, 1, 2, 3]
    assert (info["cells"], info["made"], info["calls"]) == (4, 4, 14)


def test_a_grid_describes_its_model_once_and_has_the_folder_read_once(tmp_path, monkeypatch):
    sent, reads = [], []
    send, find = NearChannel.send, toy_workers.find_toys
    monkeypatch.setattr(NearChannel, "send", lambda self, message: (sent.append(message), send(self, message)))
    monkeypatch.setattr(toy_workers, "find_toys", lambda folder: (reads.append(folder), find(folder))[1])
    engine = near_engine(toy_settings(tmp_path), count=1)
    axis = read_axis("steps", "2, 3, 4", engine.registry)
    task = Compare(make_grid(engine, Request(prompt="a", sampler="Euler", seed=1), [axis]))
    job = engine.submit_task(task, "me")
    reads.clear()
    engine.start()
    assert type(job.wait(20)) is Finished
    engine.close()
    assert len(reads) == 1
    assert [type(each) for each in sent if isinstance(each, Describe | Do)] == [Describe, Do, Do, Do]


def test_a_worker_that_ends_costs_a_part_that_is_done_again(engine):
    job, other = submit(engine, "slow", count=4, steps=20), submit(engine, "slow", owner="you")
    at_work(job)
    kill(worker_of(engine, job))
    assert type(job.wait(30)) is Finished and type(other.wait(30)) is Finished
    assert [picture.index for picture in job.pictures] == [0, 1, 2, 3]
    assert job.snapshot().info["seeds"] == [7, 8, 9, 10]
    assert len({picture.path for picture in job.pictures}) == 4


def test_a_job_whose_worker_ends_twice_fails_by_name(tmp_path):
    engine = near_engine(toy_settings(tmp_path), count=1)
    engine.start()
    job, other = submit(engine, "slow", steps=100), submit(engine)
    for _ in range(2):
        at_work(job)
        link = engine.workers[0]._link
        kill(engine.workers[0])
        until(lambda link=link: engine.workers[0]._link is not link or job.outcome)
    outcome = job.wait(20)
    assert isinstance(outcome, Failed) and "64x64, Euler" in outcome.message and "2 times" in outcome.message
    assert type(other.wait(20)) is Finished
    engine.close()


def test_stop_ends_all_parts_within_a_call(engine):
    job = submit(engine, "slow", count=8, steps=150)
    at_work(job)
    until(lambda: not job.run.is_left_alone)
    engine.stop(job)
    began = time.monotonic()
    assert isinstance(job.wait(20), StoppedEarly)
    assert time.monotonic() - began < 5
    assert type(submit(engine).wait(20)) is Finished


def test_skip_leaves_out_what_is_being_drawn(engine):
    job = submit(engine, "slow", count=8, steps=40)
    until(
        lambda: (now := job.snapshot().progress) and all(f"pictures {both} of 8" in now.text for both in ("1-2", "3-4"))
    )
    job.request_skip()
    assert type(job.wait(20)) is Finished
    assert job.snapshot().info["seeds"] == [11, 12, 13, 14]


def _sides(model, width):
    return model.latents_shape(width, width)


def test_small_questions_are_answered_by_the_worker_that_has_the_model(engine):
    assert engine.ask("other", partial(_sides, width=64)).result(20) == (3, 8, 8)
    until(lambda: any(worker.opened == "other" for worker in engine.workers))
    assert engine.count_tokens("two words", "other") == (2, 75)
    assert engine.count_tokens("two words", "nothing") is None
    resolved = engine.resolve(Request(prompt="a", sampler="Euler", model="other")).request
    assert engine.identity_of(resolved).weights == "0123456789"


def test_what_cannot_pass_is_named(engine):
    with pytest.raises(Exception, match="cannot be done by a worker of another process"):
        engine.ask("toy", lambda model: model).result(20)


def test_the_names_of_pictures_reach_whoever_wants_them(tmp_path):
    saved = []
    engine = near_engine(toy_settings(tmp_path), on_saved=saved.append)
    engine.start()
    job = submit(engine, count=3)
    job.wait(20)
    engine.close()
    assert set(saved) == {picture.path for picture in job.pictures}


def test_a_plugin_that_changed_is_loaded_anew(engine):
    assert type(submit(engine).wait(20)) is Finished
    file = engine.settings.root / "plugins" / "euler.py"
    file.write_text(file.read_text("utf-8") + "\n# changed\n", "utf-8")
    engine.reload_plugins()
    assert engine.reloads == 1
    assert type(submit(engine).wait(20)) is Finished


class Seat:
    def __init__(self, opened=""):
        self.opened = opened


class Run:
    has_pending = is_left_alone = False

    def claim(self, worker):
        return worker


def test_a_job_goes_to_the_worker_that_has_its_model_open():
    queue = JobQueue(time.monotonic, 60.0)
    a, b = Seat("A"), Seat("B")
    queue.join(a), queue.join(b)
    jobs = [Job(model, owner="me") for model in "BBBBBABA"]
    for job in jobs:
        job.run = Run()
        queue.put(job)

    def taken(seat):
        return jobs.index(queue.take_for(seat, 0)[0])

    assert [taken(b), taken(a)] == [0, 5]  # past four that a busy worker has open
    assert [taken(a), taken(b)] == [7, 1]
    assert [taken(a), taken(a)] == [2, 3]  # nothing of its own is left
    assert [taken(b), taken(b)] == [4, 6]
    assert queue.take_for(a, 0) is None


def test_a_job_is_not_passed_for_ever():
    queue = JobQueue(time.monotonic, 60.0)
    a, b = Seat("A"), Seat("B")
    queue.join(a), queue.join(b)
    first = Job("B", owner="me")
    for job in (first, *(Job("A", owner="me") for _ in range(9))):
        job.run = Run()
        queue.put(job)
    taken = [queue.take_for(a, 0)[0] for _ in range(5)]
    assert taken.index(first) == 3


class Pieces:
    model = ""

    def parts(self):
        return [self, self]

    def merged(self, infos, seconds, stopped):
        return {"stopped": stopped}

    def run(self, context):
        return {"stopped": False}


def test_a_job_that_is_to_stop_has_no_part_for_another_worker():
    queue = JobQueue(time.monotonic, 60.0)
    job = TaskJob(Pieces(), "me")
    job.run = SharedRun(job, time.monotonic)
    queue.put(job)
    queue.take_for(Seat(), 0)
    assert job.run.has_pending
    job.request_stop()
    # Else a free worker would ask for one again and again without a pause, while the first comes to its end.
    assert not job.run.has_pending


def test_names_and_status_of_several():
    assert names_of(("cpu", "cuda:1", "cpu")) == ["cpu 1", "cuda:1", "cpu 2"]
    same = [("cpu 1", "emoji on cpu, ready"), ("cpu 2", "emoji on cpu, ready")]
    assert joint_status(same) == "2 workers: emoji on cpu, ready"
    assert joint_status([same[0], ("cpu 2", "starting")]) == "cpu 1: emoji on cpu, ready · cpu 2: starting"


@pytest.mark.parametrize(
    "device, before, visible", [("cuda:1", "", "1"), ("cuda:1", "4,7", "7"), ("cuda", "4,7", "4,7"), ("cpu", "4", "4")]
)
def test_a_worker_sees_its_own_gpu_only(monkeypatch, device, before, visible):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", before)
    assert show_one_gpu(device) == device.split(":")[0]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == visible


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """An engine with two real worker processes."""
    root = tmp_path_factory.mktemp("processes")
    (root / "plugins").mkdir()
    (root / "plugins" / "hung.py").write_text(HUNG, "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker_process, "PRELOADED", ())  # a toy imports none of it
        engine = toy_engine(toy_settings(root, devices=("cpu", "cpu")))
        engine.start()
        yield engine
        engine.close()


def test_a_killed_process_costs_nothing_but_time(processes):
    job, other = submit(processes, "slow", steps=40), submit(processes, "slow", owner="you", steps=40)
    at_work(job)
    worker = worker_of(processes, job)
    killed = worker.channel.pid
    os.kill(killed, 9)
    assert type(job.wait(60)) is Finished and type(other.wait(60)) is Finished
    assert [picture.seed for picture in job.pictures] == [7]
    until(lambda: worker.channel is not None and worker.channel.pid != killed)


def test_a_sampler_that_holds_pythons_lock_is_ended_and_named(processes, monkeypatch):
    monkeypatch.setattr(watchdog, "LIMIT", 1.5)
    monkeypatch.setattr(remote_worker, "TICK", 0.02)
    hung = [submit(processes, sampler="Hangs", owner=owner) for owner in ("me", "you")]
    other = submit(processes, owner="they")
    assert type(other.wait(60)) is Finished
    message = next(job.outcome.message for job in hung if job.outcome)
    assert "The sampler Hangs has given no sign of life" in message
    for job in hung:
        job.wait(60)
