"""Hires fix: a second pass on the enlarged result of the first, recorded, counted and made again with it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import ROOT, ToyModel, toy
from oracles import sampler, schedule
from PIL import Image

from samplers.run import plan, run
from webui.core.infotext import infotext
from webui.core.picture_metadata import read_picture
from webui.core.request import Request, RequestError
from webui.engine.engine import Engine
from webui.engine.eta_estimator import EtaEstimator
from webui.engine.events import Finished, Progress
from webui.importers.a1111 import read_infotext
from webui.importers.imported_settings import from_external
from webui.replay_command import replay_file
from webui.settings import Settings

FIELDS = dict(prompt="red apple", sampler="DPM++ 2M SDE", schedule="Karras", steps=4, seed=5, guidance=3.0)
SIDE = 64  # pixels, as few as every model here makes
FIELDS |= dict(width=SIDE, height=SIDE)


@pytest.fixture(scope="module")
def engines(registry, emoji, tmp_path_factory):
    """(on the embedded model, on the toy model)"""
    root = tmp_path_factory.mktemp("hires")
    real = Settings(root=ROOT, outputs=root / "real", weights=ROOT / "weights", device="cpu", model="emoji")
    fake = Settings(root=root, outputs=root / "toy", model="toy", device="cpu")
    made = (
        Engine(registry, real, lambda found, device: emoji),
        Engine(registry, fake, lambda found, device: ToyModel(found), lambda folder: {"toy": toy(max_batch=8)}),
    )
    for engine in made:
        engine.start()
    yield made
    for engine in made:
        engine.close()


@pytest.fixture
def real(engines):
    return engines[0]


@pytest.fixture
def bench(engines):
    return engines[1]


def make(engine, **fields):
    job = engine.submit(Request(**FIELDS | fields), previews=False)
    outcome = job.wait(120)
    assert isinstance(outcome, Finished), outcome
    return [picture.path for picture in job.pictures], outcome.info


# One for pixels and one for latents: the others differ in the mode that torch is given.
@pytest.mark.parametrize("upscaler", ["Lanczos", "Latent bicubic"])
def test_it_is_two_runs_made_by_hand(real, emoji, upscaler):
    """txt2img, our own enlargement, and img2img with the noise streams of a second pass."""
    (path,), info = make(real, hires_scale=2.0, hires_strength=0.5, upscaler=upscaler)
    size = 2 * SIDE
    whole = plan(emoji.schedule, sampler("DPM++ 2M SDE"), schedule("Karras"), 4)
    part = plan(emoji.schedule, sampler("DPM++ 2M SDE"), schedule("Karras"), 4, strength=0.5)
    with torch.no_grad():
        denoise = emoji.denoiser("red apple", guidance=3.0)
        first = run(whole, denoise, torch.zeros(1, *emoji.latents_shape(SIDE, SIDE)), [5]).x
        if upscaler == "Lanczos":
            larger = emoji.encode(emoji.decode(first)[0].resize((size, size), Image.Resampling.LANCZOS))
        else:
            larger = torch.nn.functional.interpolate(first, scale_factor=2.0, mode=upscaler.split()[1])
        second = run(part, denoise, larger, [5], streams="pass 2/").x
        expected = emoji.decode(second)[0]
    assert np.array_equal(np.asarray(Image.open(path)), np.asarray(expected))
    assert (info["sigmas"], info["hires_sigmas"]) == (list(whole.sigmas), list(part.sigmas))
    assert info["nfe"] == 4 + 2


@pytest.mark.parametrize(
    "fields",
    [
        dict(hires_scale=1.5, hires_sampler="Euler", hires_schedule="Exponential", hires_steps=5, count=2),
        dict(hires_scale=1.25, hires_strength=0.4, hires_strength_as="noise", upscaler="Latent bicubic"),
        dict(hires_scale=1.5, hires_sampler="Flow", steps=2),
    ],
)
def test_both_passes_are_made_again_to_the_last_bit(real, fields):
    paths, _ = make(real, **fields)
    assert str(replay_file(real, paths[-1])) == "bit-equal"


def test_the_record_has_both_lists_of_sigmas_and_their_origins(bench):
    (path,), info = make(bench, hires_scale=2.0, hires_sampler="Euler", hires_steps=6)
    record = read_picture(path).record
    (second,) = record.later_passes
    assert list(record.sigmas) == info["sigmas"] and len(record.sigmas) == 5
    assert list(second.sigmas) == info["hires_sigmas"] and len(second.sigmas) == 4
    assert record.sampler.id.endswith("DPM++ 2M SDE") and second.sampler.id.endswith("Euler")
    assert second.schedule == record.schedule
    assert Image.open(path).size == (2 * SIDE, 2 * SIDE)


def test_a_changed_second_pass_is_walked_and_a_lost_one_refused(bench):
    from test_replay import edited

    (path,), _ = make(bench, hires_scale=2.0)
    other = edited(path, lambda record: record["later_passes"][0]["sigmas"].__setitem__(0, 1.5))
    assert replay_file(bench, other).largest > 0
    with pytest.raises(RequestError, match="do not say how it was enlarged"):
        replay_file(bench, edited(path, lambda record: record.pop("later_passes")))
    with pytest.raises(RequestError, match="sigmas do not fall"):
        replay_file(bench, edited(path, lambda record: record["later_passes"][0].update(sigmas=[1, 2, 0])))


def test_without_it_nothing_is_said_of_it(bench):
    (path,), info = make(bench, hires_steps=3, upscaler="Lanczos")
    assert not [name for name in info if "hires" in name]
    record = read_picture(path).record
    assert record.later_passes == () and "Hires" not in infotext(record.data)


def test_larger_pictures_are_drawn_fewer_together(bench):
    paths, _ = make(bench, hires_scale=2.0, count=4, steps=1)
    assert [len(read_picture(path).record.batch) for path in paths] == [2] * 4


def test_the_calls_of_both_passes_are_counted_before_the_run(bench):
    resolved = bench.resolve(Request(**FIELDS, hires_scale=2.0, hires_sampler="Heun", hires_steps=4))
    assert resolved.calls == 4 + 3
    assert bench.resolve(Request(**FIELDS, hires_scale=2.0, hires_sampler="Flow")).calls is None
    job = bench.submit(Request(**FIELDS, hires_scale=2.0), previews=False)
    told = [event for event in job.events() if isinstance(event, Progress)]
    assert told[-1].total_calls == told[-1].calls == 6 and told[-1].steps == 6


def test_the_time_left_knows_that_a_larger_picture_takes_longer():
    plans = [plan(toy().schedule, sampler("Euler"), schedule("Karras"), steps) for steps in (4, 2)]
    estimator = EtaEstimator(plans, [1], [1.0, 4.0])
    estimator.begin_batch(0.0)
    for call in range(2):
        estimator.called(plans[0].sigmas[call], float(call + 1))
    # Two more calls of a second, and two of four.
    assert estimator.remaining(2) == pytest.approx(2 + 8)
    for call in (2, 3):
        estimator.called(plans[0].sigmas[call], float(call + 1))
    estimator.begin_pass(4.0)
    estimator.called(plans[1].sigmas[0], 10.0)
    # It took six, not four.
    assert estimator.remaining(5) == pytest.approx(6)


@pytest.mark.parametrize(
    "fields, said",
    [
        (dict(hires_scale=0.5), "Hires scale must be 0, which is off, or a number from 1 to 4"),
        (dict(hires_scale=5.0), "Hires scale must be 0, which is off, or a number from 1 to 4"),
        (dict(hires_scale=2.0, upscaler="Magic"), "Unknown upscaler 'Magic'; known are Lanczos, Latent bilinear"),
        (dict(hires_scale=2.0, hires_sampler="Magic"), "Unknown sampler 'Magic'"),
        (dict(hires_scale=4.0, width=1024), "Enlarged width is 4096; model toy makes 16 to 2048"),
    ],
)
def test_what_cannot_be_is_refused_in_words(bench, fields, said):
    from webui.core.request import read

    with pytest.raises(RequestError, match=said):
        bench.resolve(read(FIELDS | fields))


def test_settings_of_other_programs_keep_their_second_pass(bench, registry):
    text = "a cat\nSteps: 20, Sampler: Euler, Seed: 1, Size: 64x64, Denoising strength: 0.4, Hires upscale: 2, "
    found = from_external(read_infotext(text + "Hires steps: 10, Version: v1.10.1"), registry, bench.models())
    fields = {name: found.fields.get(name) for name in ("hires_scale", "hires_steps", "hires_strength", "strength")}
    # There, all steps of the second pass are run; here, their share at the strength.
    assert fields == dict(hires_scale=2.0, hires_steps=25, hires_strength=0.4, strength=None)
    assert "mode" not in found.fields
