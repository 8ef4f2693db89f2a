"""Trajectories: the run that is watched is the run itself, and the numbers are those of its states."""

import math
from io import BytesIO

import pytest
import torch
from labs import WAIT, done, drawn, laboratory
from oracles import guided
from PIL import Image

from samplers.noise import Noise
from samplers.schedule import flow, stable_diffusion
from samplers.testing import GaussianDenoiser
from webui.core.picture_metadata import read_picture
from webui.core.request import Request, RequestError
from webui.engine.engine import Engine
from webui.engine.events import StoppedEarly
from webui.settings import Settings
from webui.tabs.lab.trajectory import MOST_STEPS, film, make_trajectory


@pytest.fixture
def engine(registry, tmp_path):
    with laboratory(registry, tmp_path) as running:
        yield running


def pixels(source):
    with Image.open(BytesIO(source) if isinstance(source, bytes) else source) as picture:
        return picture.convert("RGB").tobytes()


@pytest.mark.parametrize("name", ["DDIM", "DDPM", "Heun", "DPM++ 2M", "Flow", "Restart"])
def test_the_watched_run_is_the_run_itself(engine, name):
    fields = dict(prompt="cat", sampler=name, steps=6, seed=5)
    job = engine.submit_task(make_trajectory(engine, Request(**fields)))
    assert job.wait(WAIT)
    frames = job.snapshot().parts
    alone = drawn(engine, **fields)
    assert pixels(job.pictures[0].path) == pixels(alone) and job.outcome.info["seeds"] == [5]
    record = read_picture(job.pictures[0].path).record.data
    assert record == read_picture(alone).record.data
    # Every noise level that ran is a frame, and the last state is the result.
    assert [frame.sigma for frame in frames] == record["sigmas"] == job.outcome.info["sigmas"]
    assert pixels(frames[-1].state) == pixels(alone)
    assert [frame.number for frame in frames] == list(range(len(frames)))


def test_the_last_estimate_is_the_result(engine):
    _, frames = done(engine, make_trajectory(engine, Request(prompt="cat", sampler="Euler", steps=5, seed=1)))
    assert pixels(frames[-1].denoised) == pixels(frames[-1].state)
    assert frames[0].denoised is None and frames[0].change is None


def test_numbers_are_those_of_the_states(engine):
    """Euler on a Gaussian, by hand."""
    request = Request(prompt="x" * 30, sampler="Euler", schedule="Karras", steps=4, seed=9, guidance=1.0)
    _, frames = done(engine, make_trajectory(engine, request))
    sigmas = [frame.sigma for frame in frames]
    exact = GaussianDenoiser(0.3, 0.5)
    x = sigmas[0] * Noise([9], "initial")(torch.zeros(1, 3, 8, 8))
    before = None
    for frame, sigma, lower in zip(frames[1:], sigmas, sigmas[1:]):
        denoised = exact(x, sigma)
        direction = (x - denoised) / sigma
        # In Euler's step the change per sigma is the length of the direction.
        assert frame.change == pytest.approx(direction.square().mean().sqrt().item(), rel=1e-4)
        if before is not None:
            assert frame.estimate_change == pytest.approx((denoised - before).square().mean().sqrt().item(), rel=1e-3)
        x, before = x + (lower - sigma) * direction, denoised
        assert frame.seen == sigma and frame.gap is None


@pytest.mark.parametrize(
    "sampler, options, seen",
    [
        ("Heun", {}, [1, 2, 3, 3]),  # the second call of a step is at its end; the last step has one
        ("k-diffusion DPM++ 2M", {}, [0, 1, 2, 3]),  # asks everything before it tells of a step
    ],
)
def test_an_estimate_is_told_with_the_level_that_it_was_made_at(engine, sampler, options, seen):
    request = Request(prompt="x", sampler=sampler, options=options, schedule="Karras", steps=4, seed=9)
    _, frames = done(engine, make_trajectory(engine, request))
    sigmas = [frame.sigma for frame in frames]
    assert [frame.seen for frame in frames[1:]] == pytest.approx([sigmas[at] for at in seen])


@pytest.mark.parametrize(
    "schedule, share", [(stable_diffusion(), lambda s: 1 / math.sqrt(1 + s * s)), (flow(), lambda s: 1 / (1 + s))]
)
def test_states_are_shown_as_the_network_is_given_them(registry, tmp_path, schedule, share):
    with laboratory(registry, tmp_path, schedule=schedule) as engine:
        _, frames = done(engine, make_trajectory(engine, Request(prompt="cat", sampler="Euler", steps=4, seed=3)))
        sigma = frames[0].sigma
        state = share(sigma) * sigma * Noise([3], "initial")(torch.zeros(1, 3, 8, 8))
        assert pixels(frames[0].state) == engine.opened[0].preview(state)[0].tobytes()


def test_an_input_picture_is_the_start(engine, tmp_path):
    upload = tmp_path / "input.png"
    Image.radial_gradient("L").convert("RGB").save(upload)
    fields = dict(mode="img2img", prompt="cat", steps=8, seed=2, image=upload, strength=0.4)
    job = engine.submit_task(make_trajectory(engine, Request(**fields)))
    assert job.wait(WAIT)
    frames = job.snapshot().parts
    assert len(frames) == 1 + 3 and pixels(job.pictures[0].path) == pixels(drawn(engine, **fields))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample", "flow_prediction"])
def test_the_gap_is_that_of_the_two_estimates(prediction):
    x = torch.randn(1, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    seen = []

    def network(scaled, timestep, condition):
        return scaled * condition.mean((1, 2)).reshape(-1, 1, 1, 1)

    texts = [torch.full((1, 2, 2), value) for value in (0.7, 0.2)]
    both = guided(
        network, stable_diffusion(), prediction, *texts, 4.0, on_gap=lambda sigma, gap: seen.append((sigma, gap))
    )
    plain = guided(network, stable_diffusion(), prediction, *texts, 4.0)
    assert torch.equal(both(x, 2.0), plain(x, 2.0))
    conditional, unconditional = (
        guided(network, stable_diffusion(), prediction, *texts, w)(x, 2.0) for w in (1.0, 0.0)
    )
    assert seen[0][0] == 2.0 and torch.allclose(seen[0][1], conditional - unconditional, atol=1e-5)
    guided(network, stable_diffusion(), prediction, *texts, 1.0, on_gap=lambda *_: seen.append(None))(x, 2.0)
    assert len(seen) == 1


def test_stop_keeps_the_steps(registry, tmp_path, gate):
    with laboratory(registry, tmp_path, gate) as engine:
        job = engine.submit_task(make_trajectory(engine, Request(prompt="cat", steps=8)))
        gate.let(3)
        gate.arrived(4)
        engine.stop(job)
        gate.let(1)
        assert isinstance(job.wait(WAIT), StoppedEarly)
        assert [frame.number for frame in job.snapshot().parts] == [0, 1, 2, 3] and not job.pictures


def test_the_film_has_every_step(engine):
    _, frames = done(engine, make_trajectory(engine, Request(prompt="cat", steps=5)))
    with Image.open(BytesIO(film(frames))) as movie:
        assert movie.format == "WEBP" and movie.n_frames == 6 and movie.width == 2 * 256 + 8
    with pytest.raises(RequestError, match="no step"):
        film([])


def test_too_many_steps_are_refused(engine):
    with pytest.raises(RequestError, match=f"at most {MOST_STEPS} steps"):
        make_trajectory(engine, Request(steps=MOST_STEPS + 1))


@pytest.mark.parametrize("name, guidance", [("DDIM", 5.0), ("Heun", 5.0), ("DDIM", 1.0)])
def test_on_the_embedded_model(registry, tmp_path, emoji, name, guidance):
    settings = Settings(root=tmp_path, outputs=tmp_path / "outputs", model="emoji")
    engine = Engine(registry, settings, lambda found, device: emoji, lambda folder: {"emoji": emoji.info})
    engine.start()
    try:
        fields = dict(prompt="red apple", sampler=name, steps=3, seed=4, guidance=guidance, width=64, height=64)
        job = engine.submit_task(make_trajectory(engine, Request(**fields)))
        assert job.wait(WAIT)
        frames = job.snapshot().parts
        assert pixels(job.pictures[0].path) == pixels(drawn(engine, **fields)) == pixels(frames[-1].state)
        gaps = [frame.gap for frame in frames[1:]]
        assert all(gap is None for gap in gaps) if guidance == 1 else all(0 < gap < math.inf for gap in gaps)
    finally:
        engine.close()
