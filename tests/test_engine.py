"""The engine: one job at a time, stopped within a call, nothing lost, nobody else's seen."""

import gc
import json
import threading
import time
import weakref
from io import BytesIO
from itertools import pairwise

import pytest
import torch
from conftest import ToyModel, toy, until
from PIL import Image

from samplers import Step, sampler
from samplers.registry import Entry, Registry
from webui.api.script_api import Api, ApiResult, RunFailed
from webui.core.picture_metadata import read_picture
from webui.core.request import Request, RequestError
from webui.engine.engine import Engine
from webui.engine.events import Failed, Finished, Picture, Progress, StoppedEarly, Waiting
from webui.engine.queue_room import MAX_WAITING
from webui.engine.run_environment import RunEnvironment
from webui.settings import Settings
from weights.model_info import ModelError

WAIT = 60  # seconds, on a machine that does much else


class Bench:
    """An engine on toy models: `submit(...)` takes a request's fields."""

    def __init__(self, registry, outputs, on_call=lambda sigma: None, max_batch=4, **more):
        self.on_call, self.opened = on_call, []
        self.found = {name: toy(name, max_batch) for name in ("toy", "other")}
        settings = Settings(root=outputs, outputs=outputs, model="toy", **more.pop("settings", {}))
        self.engine = Engine(registry, settings, more.pop("open_model", self.open), lambda folder: self.found, **more)
        self.engine.start()

    def open(self, found, device):
        model = ToyModel(found, lambda sigma: self.on_call(sigma))
        self.opened.append(weakref.ref(model))
        return model

    def submit(self, owner="", **fields):
        return self.engine.submit(Request(**fields), owner)

    def done(self, **fields):
        outcome = self.submit(**fields).wait(WAIT)
        assert isinstance(outcome, Finished), outcome
        return outcome.info


@pytest.fixture
def bench(registry, tmp_path):
    benches = []

    def make(on_call=lambda sigma: None, extra=(), **more):
        entries = {item.name: Entry(item, "test", "1") for item in extra}
        known = Registry({**registry.samplers, **entries}, registry.schedules, registry.broken)
        benches.append(Bench(known, tmp_path / "outputs", on_call, **more))
        return benches[-1]

    yield make
    for one in benches:
        one.on_call = lambda sigma: None
        one.engine.close()
        assert not one.engine.worker.alive


def pixels(path):
    return Image.open(path).tobytes()


def test_a_request_becomes_pictures(bench):
    job = bench().submit(prompt="a cat", count=3, seed=7, steps=4)
    info = job.wait(WAIT).info
    assert [p.index for p in job.pictures] == [0, 1, 2] and info["seeds"] == [7, 8, 9]
    assert info["sigmas"] == list(job.plan.sigmas) and info["sigmas"][-1] == 0 and info["nfe"] == 4
    assert info["stopped"] is False and info["model"] == "toy" and info["options"] == {"eta": 0.0}
    assert job.state == "done" and all(Image.open(p.path).size == (64, 64) for p in job.pictures)
    record = read_picture(job.pictures[1].path).record.data
    assert (
        record["image"] == {"index": 1, "seed": 8}
        and record["batch"] == [7, 8, 9]
        and record["sigmas"] == info["sigmas"]
    )


@pytest.mark.parametrize("name", ["DDPM", "DDIM", "Euler", "Flow"])
def test_an_image_of_a_batch_is_the_image_alone(bench, name):
    one = bench()
    together = one.submit(prompt="p", sampler=name, seed=2**32 - 2, count=5, steps=6)
    together.wait(WAIT)
    assert [p.seed for p in together.pictures] == [2**32 - 2, 2**32 - 1, 0, 1, 2]
    for picture in together.pictures:
        alone = one.submit(prompt="p", sampler=name, seed=picture.seed, steps=6)
        alone.wait(WAIT)
        assert pixels(alone.pictures[0].path) == pixels(picture.path)


def test_batches_are_of_the_models_size_and_own_grids_go_alone(bench):
    one = bench(max_batch=3)
    one.done(count=7, steps=1)
    model = one.opened[0]()
    assert [images for images, _ in model.calls] == [3, 3, 1]
    model.calls.clear()
    info = one.done(count=2, sampler="Flow")
    assert {images for images, _ in model.calls} == {1} and sum(info["nfe_each"]) == len(model.calls)
    assert info["sigmas"][-1] == 0 and len(info["sigmas"]) > 2


def test_a_random_seed_is_reported_and_repeats(bench):
    one = bench()
    first = one.submit(steps=2)
    seed = first.wait(WAIT).info["seeds"][0]
    again = one.submit(steps=2, seed=seed)
    again.wait(WAIT)
    assert pixels(first.pictures[0].path) == pixels(again.pictures[0].path) and first.request.seed == seed


def test_img2img_at_little_strength_keeps_the_picture(bench, tmp_path):
    Image.new("RGB", (90, 64), (200, 40, 40)).save(tmp_path / "red.png")
    one = bench()
    info = one.done(mode="img2img", image=tmp_path / "red.png", prompt="x" * 50, strength=0.1, steps=20, seed=1)
    assert info["nfe"] == 2 and len(info["sigmas"]) == 3 and info["strength"] == 0.1
    (path,) = (tmp_path / "outputs").glob("2*/*.png")
    red, green, blue = Image.open(path).resize((1, 1)).getpixel((0, 0))
    assert red > 180 and green < 80 and blue < 80
    record = read_picture(path).record.data
    assert len(record["input_digest"]) == 16 and "red.png" not in str(record)
    with pytest.raises(RequestError, match="cannot be read"):
        one.submit(mode="img2img", image=tmp_path / "none.png")


def test_two_jobs_never_overlap_even_after_a_stop(bench):
    inside, most, lock = 0, 0, threading.Lock()

    def slow(sigma):
        nonlocal inside, most
        with lock:
            inside, most = inside + 1, max(most, inside + 1)
        time.sleep(0.005)
        with lock:
            inside -= 1

    one = bench(slow)
    jobs = [one.submit(steps=10, owner=str(i)) for i in range(4)]
    until(lambda: jobs[0].state == "running")
    one.engine.stop(jobs[0])
    seen = []
    while not all(job.outcome for job in jobs):
        seen.append([job.state for job in jobs])
        time.sleep(0.001)
    assert most == 1
    assert all(states.count("running") <= 1 for states in seen)
    assert [job.state for job in jobs] == ["stopped", "done", "done", "done"]


def test_the_next_job_waits_until_the_stopped_one_has_ended(bench, gate):
    one = bench(gate)
    first, second = one.submit(steps=5), one.submit(steps=5)
    gate.arrived()
    one.engine.stop(first)
    time.sleep(0.05)  # the call that is under way cannot be interrupted
    assert first.state == "running" and second.state == "waiting"
    gate.let()
    assert isinstance(first.wait(WAIT), StoppedEarly)
    gate.arrived()
    assert len(one.opened[0]().calls) == 1 and second.state == "running"
    gate.open()
    assert isinstance(second.wait(WAIT), Finished)


def test_stop_keeps_what_is_finished(bench, gate):
    one = bench(gate, max_batch=1)
    job = one.submit(steps=3, count=4, seed=5)
    gate.let(4)
    gate.arrived(5)  # the second call of the second image waits
    one.engine.stop(job)
    gate.let()
    info = job.wait(WAIT).info
    assert info["stopped"] is True and info["seeds"] == [5] and info["nfe"] == 3
    assert len(job.pictures) == 1 and job.pictures[0].path.exists()
    assert len(one.opened[0]().calls) == 5


def test_a_waiting_job_stops_at_once(bench, gate):
    one = bench(gate)
    running, waiting, last = (one.submit(steps=2) for _ in range(3))
    gate.arrived()
    assert last.snapshot().position == 2
    one.engine.stop(waiting)
    assert waiting.state == "stopped" and waiting.outcome.info["stopped"] and waiting.outcome.info["seeds"] == []
    assert last.snapshot().position == 1
    gate.open()
    assert isinstance(running.wait(WAIT), Finished) and isinstance(last.wait(WAIT), Finished)
    assert len(one.opened[0]().calls) == 4


def test_positions_fall_as_jobs_ahead_end(bench, gate):
    one = bench(gate)
    jobs = [one.submit(steps=1) for _ in range(3)]
    events = jobs[2].events()
    assert next(events) == Waiting(2)
    gate.arrived()
    gate.let()
    jobs[0].wait(WAIT)
    assert next(event for event in events if isinstance(event, Waiting)) == Waiting(1)
    gate.open()
    assert isinstance(list(events)[-1], Finished)


@sampler("Broken")
def broken(denoise, x, sigmas, noise):
    denoise(x, sigmas[0])
    raise KeyError("oops")
    yield


@sampler("Nan")
def nan(denoise, x, sigmas, noise):
    for sigma, lower in zip(sigmas, sigmas[1:]):
        yield Step(x * float("nan"), lower, denoise(x, sigma) * float("nan"))


@sampler("Quits")
def quits(denoise, x, sigmas, noise):
    raise SystemExit(3)
    yield


@sampler("Greedy")
def greedy(denoise, x, sigmas, noise):
    raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
    yield


@sampler("Stubborn")
def stubborn(denoise, x, sigmas, noise):
    while True:
        try:
            denoise(x, sigmas[0])
        except Exception:
            pass
        yield Step(x, sigmas[0], x)


@pytest.mark.parametrize(
    "item, said",
    [
        (broken, "Sampler Broken failed (line"),
        (nan, "Sampler Nan ended with numbers that are not finite"),
        (quits, "SystemExit: 3"),
        (greedy, "Out of memory while drawing 2 of 64x64. Try 48x48 or fewer pictures than 2."),
    ],
)
def test_a_failing_sampler_says_so_and_the_next_job_runs(bench, item, said):
    one = bench(extra=[item])
    failing, good = one.submit(sampler=item.name, count=2), one.submit(steps=2)
    outcome = failing.wait(WAIT)
    assert isinstance(outcome, Failed) and said in outcome.message and failing.state == "failed"
    assert isinstance(good.wait(WAIT), Finished)


def test_a_sampler_that_swallows_stop_ends_too(bench):
    one = bench(extra=[stubborn])
    job = one.submit(sampler="Stubborn")
    until(lambda: one.opened and one.opened[0]() and len(one.opened[0]().calls) > 3)
    one.engine.stop(job)
    assert isinstance(job.wait(WAIT), StoppedEarly)


@pytest.fixture
def forgetful(monkeypatch):
    """Pytest keeps what was logged for its report, and with an error all that its frames held."""
    monkeypatch.setattr("webui.engine.worker.log.warning", lambda *given, **more: None)


def test_running_out_of_memory_proposes_less(bench, forgetful):
    taken = []

    def full(sigma):
        part = torch.zeros(10)
        taken.append(weakref.ref(part))
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    def free(sigma):
        assert [ref() for ref in taken] == [None] * 3

    one = bench(full, max_batch=2)
    said = [one.submit(**fields).wait(WAIT).message for fields in (dict(), dict(width=16, height=16), dict(count=2))]
    assert said[0] == "Out of memory while drawing 1 of 64x64. Try 48x48."
    assert "1 of 16x16. Close other programs" in said[1] and said[2].endswith("Try 48x48 or fewer pictures than 2.")
    one.on_call = free
    one.done(steps=2, width=48, height=48)


def test_a_model_that_does_not_fit_is_not_blamed_on_the_picture(bench):
    """Nor does what was loaded of it stay: the next model finds the memory free."""
    loaded = []

    def open_model(found, device):
        assert [ref() for ref in loaded] == [None] * len(loaded)
        if found.name == "other":
            part = torch.zeros(10)
            loaded.append(weakref.ref(part))
            raise torch.OutOfMemoryError("CUDA out of memory")
        return one.open(found, device)

    one = bench(open_model=open_model)
    for _ in range(2):
        message = one.submit(model="other").wait(WAIT).message
        assert message.startswith("Model other does not fit into the memory;") and "--device cpu" in message
        assert one.engine.status == message
        one.done(steps=1)


def test_a_preview_that_runs_out_of_memory_costs_nothing_else(bench):
    def open_model(found, device):
        model = ToyModel(found)
        model.preview = lambda latents: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory"))
        return model

    job = bench(open_model=open_model).submit(steps=3, owner="me")
    assert isinstance(job.wait(WAIT), Finished) and job.snapshot().progress.preview is None


def test_an_errand_that_runs_out_of_memory_leaves_none_of_it_taken(bench, forgetful):
    one, taken = bench(), []

    def full(model):
        part = torch.zeros(10)
        taken.append(weakref.ref(part))
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(RequestError, match="Out of memory"):
        one.engine.ask("toy", full).result(WAIT)
    assert one.engine.ask("toy", lambda model: taken[0]()).result(WAIT) is None


def test_switching_models_frees_the_first(bench):
    alive = []

    def open_model(found, device):
        alive.append([ref() for ref in one.opened])
        return one.open(found, device)

    one = bench(open_model=lambda found, device: open_model(found, device))
    for model in ("toy", "toy", "other", "toy"):
        assert one.done(model=model, steps=2)["model"] == model
    # Nobody but the engine collects: the memory has to be free before the next model takes it.
    assert alive == [[], [None], [None, None]]


def test_a_model_that_does_not_open(bench):
    def refuse(found, device):
        if found.name == "toy":
            raise ModelError("model toy: its VAE is missing; copy the whole folder")
        return one.open(found, device)

    one = bench(open_model=refuse)
    one.engine.warm_up()
    until(lambda: one.engine.status == "Model toy: its VAE is missing; copy the whole folder.")
    assert one.submit().wait(WAIT) == Failed("Model toy: its VAE is missing; copy the whole folder.")
    one.done(model="other", steps=2)
    assert one.engine.status == "other on cpu, ready"


def test_a_replay_on_the_device_in_use_opens_nothing_anew(bench):
    one = bench()
    for device, opened in ((None, 1), ("cpu", 1), (None, 1), ("mps", 2), ("mps", 2), (None, 3)):
        job = one.engine.submit(Request(steps=1), environment=RunEnvironment(device=device))
        assert isinstance(job.wait(WAIT), Finished) and len(one.opened) == opened


def test_warming_up_loads_the_model_once(bench):
    one = bench()
    assert one.engine.status == "starting"
    one.engine.warm_up()
    until(lambda: one.engine.status == "toy on cpu, ready")
    one.done(steps=2)
    assert len(one.opened) == 1


def test_tokens_find_their_own_jobs_only(bench, gate):
    one = bench(gate)
    first, second, script = one.submit(owner="a"), one.submit(owner="b"), one.submit()
    assert one.engine.find("a") is first and one.engine.find("b") is second
    assert one.engine.find("") is None and one.engine.find("c") is None
    later = one.submit(owner="a")
    assert one.engine.find("a") is later
    one.engine.stop(later)
    gate.open()
    script.wait(WAIT)


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def test_a_page_that_stays_away_for_a_minute_loses_its_job(bench, gate):
    clock = Clock()
    one = bench(gate, clock=clock)
    running, waiting = one.submit(owner="a", steps=3), one.submit(owner="b")
    gate.arrived()
    one.engine.abandon(running)
    one.engine.abandon(waiting)
    clock.now += 59
    gate.let()
    gate.arrived()
    assert running.state == "running" and waiting.state == "waiting"
    clock.now += 2
    gate.let()
    assert isinstance(running.wait(WAIT), StoppedEarly) and isinstance(waiting.wait(WAIT), StoppedEarly)
    assert len(one.opened[0]().calls) == 2


def test_a_page_that_comes_back_keeps_its_job(bench, gate):
    clock = Clock()
    one = bench(gate, clock=clock)
    job = one.submit(owner="a", steps=3)
    gate.arrived()
    # The new page may come before the server notices that the old one is gone.
    one.engine.adopt(one.engine.find("a"))
    one.engine.abandon(job)
    clock.now += 61
    gate.open()
    assert isinstance(job.wait(WAIT), Finished)
    assert one.engine.find("a") is job
    clock.now += 61
    assert one.engine.find("a") is None


def test_abandoned_api_jobs_stop_at_once(bench, gate):
    one = bench(gate)
    stream = Api(one.engine).txt2img("p", steps=50)
    next(stream)
    gate.arrived()
    stream.close()
    gate.let()
    until(lambda: not one.engine.queue.running)
    assert len(one.opened[0]().calls) == 1


def test_the_queue_is_bounded(bench, gate):
    one = bench(gate)
    first = one.submit()
    gate.arrived()
    jobs = [one.submit(steps=1) for _ in range(MAX_WAITING)]
    with pytest.raises(RequestError, match="queue is full: 256 jobs are waiting"):
        one.submit()
    one.engine.stop(jobs[3])
    jobs.append(one.submit(steps=1))
    gate.open()
    assert all(job.wait(WAIT) for job in [first, *jobs])


def test_a_job_that_nobody_watches_stays_small(bench):
    one = bench()
    job = one.submit(steps=200, count=2)
    slow = job.events()
    job.wait(WAIT)
    events = list(slow)
    assert [type(event) for event in events] == [Progress, Picture, Picture, Finished]
    refs = [weakref.ref(job)]
    for _ in range(33):
        one.done(steps=1)
    assert len(one.engine.queue.finished) <= 32
    del job, slow, events
    gc.collect()
    assert refs[0]() is None


def watched_run(bench, seconds, **fields):
    """Run on a clock that only the network moves, `seconds` a call; the progress before every call and the last."""
    clock, seen = Clock(), []

    def network(sigma):
        seen.append(one.engine.find("me").snapshot().progress)
        clock.now += seconds

    one = bench(network, clock=clock, max_batch=2)
    job = one.submit(owner="me", **fields)
    assert isinstance(job.wait(WAIT), Finished), job.outcome
    return [*seen[1:], job.snapshot().progress], job


def test_progress_and_time_left_of_a_sampler_with_two_calls_a_step(bench):
    told, _ = watched_run(bench, 2, sampler="Flow", options={"method": "heun"}, steps=3, count=4)
    assert [p.calls for p in told] == list(range(1, 11)) and {p.total_calls for p in told} == {10}
    assert [p.seconds for p in told] == [2 * calls for calls in range(1, 11)]
    assert told[0].remaining is None
    assert [p.remaining for p in told[1:]] == pytest.approx([2 * (10 - calls) for calls in range(2, 11)])
    assert [p.step for p in told[:5]] == [0, 1, 1, 2, 0] and {p.steps for p in told} == {3}
    assert told[2].text == "pictures 1-2 of 4, step 1 of 3" and told[4].text == "pictures 3-4 of 4, step 0 of 3"
    assert Image.open(BytesIO(told[-1].preview)).size == (128, 64)


def test_time_left_counts_images_where_the_last_batch_is_smaller(bench):
    told, _ = watched_run(bench, 2, steps=5, count=3)
    # Two images took 2 s a call, so one should take 1 s.
    assert told[1].remaining == pytest.approx(3 * 2 + 5 * 1)


@pytest.mark.parametrize("tolerance", [1e-3, 1e-6])
def test_time_left_of_an_adaptive_sampler_is_sensible(bench, tolerance):
    told, _ = watched_run(bench, 1, prompt="p", sampler="Flow", options={"tolerance": tolerance}, count=3, seed=3)
    total = told[-1].calls
    assert all(p.total_calls is None and p.steps is None for p in told)
    guesses = [(p.calls, p.remaining) for p in told if p.remaining is not None]
    assert len(guesses) > 0.8 * total
    for calls, remaining in guesses:
        assert 0 <= remaining < 4 * total
        if calls > total / 3:  # one of three pictures is known
            assert abs(remaining - (total - calls)) < 0.15 * total


@sampler("Undeclared")
def undeclared(denoise, x, sigmas, noise):
    for sigma, lower in pairwise(sigmas):
        denoise(x, sigma)
        x = denoise(x, sigma)
        yield Step(x, lower, x)


@sampler("Liar", calls=1)
def liar(denoise, x, sigmas, noise):
    yield from undeclared(denoise, x, sigmas, noise)


@pytest.mark.parametrize("item", [undeclared, liar])
def test_time_left_without_or_against_a_declaration(bench, item):
    told, _ = watched_run(lambda *a, **k: bench(*a, extra=[item], **k), 1, sampler=item.name, steps=10)
    assert told[-1].calls == 20
    for p in told[12:]:
        assert p.total_calls is None and p.remaining == pytest.approx(20 - p.calls, abs=2)


def test_previews_are_thinned_and_never_dear(bench):
    clock, made = Clock(), []

    def network(sigma):
        clock.now += 0.1

    def open_model(found, device):
        model = ToyModel(found, network)

        def preview(latents):
            made.append(clock.now)
            clock.now += cost
            return model.decode(latents)

        model.preview = preview
        return model

    one = bench(clock=clock, open_model=open_model)
    for cost, most in ((0.0, 40), (0.5, 3)):
        made.clear()
        start = clock.now
        one.done(steps=100)
        assert 1 <= len(made) <= most
        assert all(later - earlier >= 0.25 for earlier, later in pairwise(made))
        assert (len(made) - 1) * cost <= 0.1 * (clock.now - start)


def test_listeners_see_pictures_once_and_can_catch_up(bench, gate):
    one = bench(gate, max_batch=1)
    job = one.submit(owner="a", count=2, steps=1)
    gate.arrived()
    gate.let()
    gate.arrived()
    seen = job.snapshot()
    assert [picture.index for picture in seen.pictures] == [0] and seen.state == "running"
    ticking = job.events(after=seen, tick=0.01)
    assert next(ticking) is None
    gate.open()
    rest = [event for event in ticking if isinstance(event, (Picture, Finished))]
    assert [type(event) for event in rest] == [Picture, Finished] and rest[0].index == 1
    assert [e.index for e in job.events() if isinstance(e, Picture)] == [0, 1]


def test_a_full_disk_fails_clearly_and_keeps_the_picture(bench, tmp_path, monkeypatch):
    one = bench()
    (tmp_path / "outputs").write_text("a file where the folder should be")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    job = one.submit(count=2, steps=2)
    message = job.wait(WAIT).message
    assert message.startswith(f"Pictures cannot be written to {tmp_path / 'outputs'}: ") and "--outputs" in message
    assert len(job.pictures) == 2
    for picture in job.pictures:
        assert str(picture.path) in message and read_picture(picture.path).record.data["image"]["seed"] == picture.seed


def test_closing_ends_everything(bench, gate):
    one = bench(gate)
    running, waiting = one.submit(), one.submit()
    gate.arrived()
    gate.open()
    one.engine.close()
    assert running.outcome and isinstance(waiting.outcome, StoppedEarly)
    with pytest.raises(RequestError, match="shutting down"):
        one.submit()


def test_public_pages_hide_what_is_theirs(bench, registry):
    def secret(sigma):
        raise OSError("/srv/someone/weights is gone")

    one = bench(secret, settings={"host": "0.0.0.0"})
    assert one.engine.limits.count == 8
    assert "/srv" not in one.submit().wait(WAIT).message
    with pytest.raises(RequestError, match="Count is 9"):
        one.submit(count=9)


def test_the_api_answers_with_files_and_info(bench):
    api = Api(bench(extra=[broken]).engine)
    *events, result = api.txt2img("a cat", count=2, seed=3, steps=2)
    assert isinstance(result, ApiResult) and len(result.files) == 2 and result.info["seeds"] == [3, 4]
    assert [type(e) for e in events if isinstance(e, Picture)] == [Picture, Picture]
    with pytest.raises(RunFailed, match="Sampler Broken failed"):
        list(api.txt2img("a cat", sampler="Broken"))
    with pytest.raises(RequestError, match="'Eulre'; known are Calibrated, DDIM, DDPM"):
        list(api.txt2img("a cat", sampler="Eulre"))
    with pytest.raises(RequestError, match="Steps must be"):
        list(api.txt2img("a cat", steps=float("nan")))


def test_the_catalog_is_plain_data(bench, registry):
    catalog = Api(bench().engine).catalog()
    json.dumps(catalog, allow_nan=False)
    samplers = {one["name"]: one for one in catalog["samplers"]}
    assert (
        samplers["DDIM"] | dict(source="built-in/ddim", order=1, calls=1, stochastic=False, own_grid=False)
        == samplers["DDIM"]
    )
    assert samplers["Flow"]["calls"] is None and samplers["Flow"]["own_grid"] is True
    assert samplers["DDIM"]["options"][0]["name"] == "eta" and samplers["DDIM"]["options"][0]["high"] == 1
    assert "Karras" in {one["name"] for one in catalog["schedules"]}
    assert [one["name"] for one in catalog["models"]] == ["toy", "other"] and catalog["broken"] == []
