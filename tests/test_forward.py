"""The forward process against its formulas, and errands: small work on the model between two jobs of the engine."""

import math
from concurrent.futures import CancelledError

import pytest
import torch
from conftest import ToyModel, toy, until
from oracles import sd
from PIL import Image

from samplers.noise import Noise
from samplers.schedule import alpha_bar, flow
from webui.core.limits import LOCAL
from webui.core.request import Request, RequestError
from webui.engine.engine import Engine
from webui.engine.queue_room import MAX_URGENT
from webui.settings import Settings
from webui.tabs.schedule.forward_process import (
    EXPLODING,
    FLOW,
    PRESERVING,
    PROCESSES,
    example_picture,
    histogram,
    noise_scale,
    noised,
    sigma_at,
    some_of,
)
from webui.tabs.schedule.forward_view import _taken
from weights.autoencoder import image_to_tensor, tensor_to_image


@pytest.mark.parametrize("sigma", [0.03, 1.0, 14.6])
def test_the_three_processes_are_their_formulas(sigma):
    clean = image_to_tensor(example_picture(32))
    eps = Noise((1,), "initial")(clean)
    bar, t = alpha_bar(sigma), sigma / (1 + sigma)
    wanted = {
        PRESERVING: math.sqrt(bar) * clean + math.sqrt(1 - bar) * eps,
        EXPLODING: clean + sigma * eps,
        FLOW: (1 - t) * clean + t * eps,
    }
    for process in PROCESSES:
        assert torch.allclose(noised(clean, sigma, process), wanted[process], atol=2e-5 * max(1, sigma))
    assert noise_scale(sigma, PRESERVING) == pytest.approx(math.sqrt(1 - bar)) and noise_scale(sigma, FLOW) == t
    assert noise_scale(sigma, EXPLODING) == sigma


@pytest.mark.parametrize("process", PROCESSES)
def test_the_histogram_becomes_the_bell_curve_of_the_noise(process):
    clean = image_to_tensor(example_picture(64))
    apart = []
    for sigma in (0.1, 1.0, 14.6):
        shown = histogram(noised(clean, sigma, process), sigma, process)
        width = shown.centres[1] - shown.centres[0]
        assert sum(shown.density) * width == pytest.approx(1) and sum(shown.pure) * width == pytest.approx(1, abs=0.02)
        apart.append(sum(abs(a - b) for a, b in zip(shown.density, shown.pure, strict=True)) * width / 2)
    assert apart[0] > apart[1] > apart[2] and apart[2] < 0.1


def test_variance_preserving_keeps_the_variance_of_unit_data():
    clean = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for sigma in (0.1, 1.0, 10.0):
        assert noised(clean, sigma, PRESERVING).std().item() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("model", [sd(), flow()], ids=["eps", "flow"])
def test_time_runs_from_the_lowest_to_the_highest_level(model):
    assert sigma_at(model, 0) == model.sigma_min and sigma_at(model, 1) == model.sigma_max
    assert sigma_at(model, -3) == model.sigma_min and sigma_at(model, 7) == model.sigma_max
    assert sigma_at(sd(), 0.5) == pytest.approx(sd().sigma(499.5))


def test_some_levels_of_a_list():
    assert some_of((3.0, 2.0, 0.0), 8) == [3.0, 2.0, 0.0]
    assert some_of(tuple(range(20, -1, -1)), 5) == [20, 15, 10, 5, 0]


def test_a_picture_and_its_values_are_the_same():
    picture = example_picture(48)
    assert picture.size == (48, 48) and tensor_to_image(image_to_tensor(picture)[0]).tobytes() == picture.tobytes()
    assert len(set(picture.get_flattened_data())) > 100 and picture.getpixel((0, 0)) == (255, 255, 255)


# --- errands


@pytest.fixture
def engine(registry, tmp_path):
    made = []

    def make(on_call=lambda sigma: None, start=True):
        settings = Settings(root=tmp_path, outputs=tmp_path / "outputs", model="toy")
        models = {name: toy(name) for name in ("toy", "other")}
        engine = Engine(registry, settings, lambda found, device: ToyModel(found, on_call), lambda path: models)
        made.append(engine)
        if start:
            engine.start()
        return engine

    yield make
    for each in made:
        each.close()


def test_an_errand_runs_on_the_model_in_the_engines_thread(engine):
    import threading

    answer = engine().ask("other", lambda model: (model.name, threading.current_thread().name, torch.is_grad_enabled()))
    assert answer.result(20) == ("other", "sigmalab-engine", False)


def test_an_errand_goes_before_the_next_job_and_never_into_a_running_one(engine, gate):
    made, order = engine(gate), []
    first = made.submit(Request(steps=2, seed=1, width=16, height=16))
    gate.arrived()
    second = made.submit(Request(steps=1, seed=2, width=16, height=16))
    answer = made.ask("toy", lambda model: order.append((first.state, second.state)))
    gate.let()
    assert not answer.done()
    gate.open()
    answer.result(20)
    assert order == [("done", "waiting")]
    until(lambda: second.state == "done")


def test_a_failed_errand_says_why_and_the_engine_goes_on(engine):
    made = engine()
    with pytest.raises(RequestError, match="The run failed: ZeroDivisionError"):
        made.ask("toy", lambda model: 1 / 0).result(20)
    assert made.ask("toy", lambda model: 2).result(20) == 2
    with pytest.raises(RequestError, match="Unknown model 'none'; known are toy, other"):
        made.ask("none", lambda model: 1)


def test_an_errand_that_nobody_waits_for_is_not_run(engine):
    made, ran = engine(start=False), []
    unwanted, wanted = (made.ask("toy", lambda model, n=n: ran.append(n)) for n in (1, 2))
    assert unwanted.cancel()
    made.start()
    wanted.result(20)
    assert ran == [2]


def test_too_many_errands_are_refused_and_closing_cancels_them(engine):
    made = engine(start=False)
    answers = [made.ask("toy", lambda model: 1) for _ in range(MAX_URGENT)]
    with pytest.raises(RequestError, match="Too many are asking"):
        made.ask("toy", lambda model: 1)
    made.close()
    with pytest.raises(CancelledError):
        answers[0].result(1)
    with pytest.raises(RequestError, match="shutting down"):
        made.ask("toy", lambda model: 1)


def test_a_session_keeps_what_it_shows_of_a_wide_picture(tmp_path):
    Image.new("RGB", (5000, 51)).save(tmp_path / "a.png")
    assert _taken(tmp_path / "a.png", LOCAL)[0].size == (51, 51)
