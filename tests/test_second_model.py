"""Another model draws the second pass: a refiner on the latents of its base model, or a model of another kind."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import ROOT
from oracles import sampler, schedule
from PIL import Image

from benchmarks.random_checkpoint import REFINER, XL, checkpoint, save
from samplers.run import plan, run
from webui.core.infotext import infotext
from webui.core.picture_metadata import read_picture
from webui.core.request import Request, RequestError
from webui.engine.engine import Engine
from webui.engine.events import Failed, Finished
from webui.importers.a1111 import read_infotext
from webui.importers.imported_settings import from_external
from webui.replay_command import replay_file
from webui.settings import Settings
from weights.diffusers_folder import read_folder
from weights.opening import open_model
from weights.single_file import read_single

FIELDS = dict(prompt="red apple", sampler="Euler", schedule="Karras", steps=4, seed=5, guidance=3.0, hires_scale=1.0)
EPSILON = {"modelspec.prediction_type": "epsilon"}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A folder with emoji, emoji-flow, which reads the same latents, and SDXL with its refiner at a small width."""
    folder = tmp_path_factory.mktemp("weights")
    for name in ("emoji", "emoji-flow", "loras"):
        shutil.copytree(ROOT / "weights" / name, folder / name, copy_function=os.link)
    save(folder / "base.safetensors", checkpoint(XL, seed=3), EPSILON)
    save(folder / "refiner.safetensors", checkpoint(REFINER, seed=4), EPSILON)
    return folder


def small(info):
    """The model at sizes that a test can draw."""
    return replace(info, defaults=replace(info.defaults, size=64)) if info.path.is_file() else info


@pytest.fixture(scope="module")
def engine(registry, weights, tmp_path_factory):
    found = {path.stem: small(read_single(path)) for path in sorted(weights.glob("*.safetensors"))}
    found |= {name: read_folder(weights / name) for name in ("emoji", "emoji-flow")}
    outputs = tmp_path_factory.mktemp("outputs")
    settings = Settings(root=ROOT, outputs=outputs, weights=weights, device="cpu", model="emoji", backend="torch")
    engine = Engine(registry, settings, open_model, lambda folder: found)
    engine.start()
    yield engine
    engine.close()


def make(engine, **fields):
    job = engine.submit(Request(**FIELDS | fields), previews=False)
    outcome = job.wait(120)
    assert isinstance(outcome, Finished), outcome
    return job.pictures[0].path, outcome.info


def by_hand(first, second, prompt, side, strength=0.5):
    """The picture of two runs: the second begins where the first ended, with noise of its own."""
    whole = plan(first.schedule, sampler("Euler"), schedule("Karras"), 4)
    part = plan(second.schedule, sampler("Euler"), schedule("Karras"), 4, strength=strength)
    with torch.no_grad():
        zeros = torch.zeros(1, *first.latents_shape(side, side))
        latents = run(whole, first.denoiser(prompt, guidance=3.0), zeros, [5]).x
        latents = run(part, second.denoiser(prompt, guidance=3.0), latents, [5], streams="pass 2/").x
        return np.asarray(second.decode(latents)[0])


def test_it_draws_on_the_latents_of_the_first_and_is_recorded_and_replayed(engine, emoji):
    path, info = make(engine, hires_model="emoji-flow")
    flow = open_model(engine.models()["emoji-flow"], "cpu")
    assert np.array_equal(np.asarray(Image.open(path)), by_hand(emoji, flow, "red apple", 64))
    assert info["hires_model"] == "emoji-flow" and info["nfe"] == 4 + 2
    record = read_picture(path).record
    (patch,) = record.patches
    assert (patch.kind, patch.name, patch.digest) == ("model", "emoji-flow", flow.identity.digest)
    assert "Hires checkpoint: emoji-flow" in infotext(record.data)
    assert str(replay_file(engine, path)) == "bit-equal"


def test_the_refiner_of_stable_diffusion_xl_refines(engine):
    path, _ = make(engine, model="base", hires_model="refiner", hires_strength=0.25)
    base, refiner = (open_model(engine.models()[name], "cpu") for name in ("base", "refiner"))
    assert np.array_equal(np.asarray(Image.open(path)), by_hand(base, refiner, "red apple", 64, 0.25))


def test_pictures_pass_between_models_of_other_latents_and_a_lora_acts_where_it_fits(engine):
    fields = dict(prompt="red apple <lora:blueprint>", hires_model="base", steps=2)
    _, info = make(engine, **fields)
    assert any("acted on the first pass alone" in note for note in info["notes"])
    job = engine.submit(Request(**FIELDS | fields | dict(upscaler="Latent bicubic")), previews=False)
    outcome = job.wait(120)
    assert isinstance(outcome, Failed) and "choose an upscaler of pictures" in outcome.message


def test_every_multiple_of_8_is_drawn_enlarged_and_drawn_over(engine, tmp_path):
    """Sides that the UNet's levels do not halve evenly; its way up takes the sizes of its way down."""
    assert engine.models()["base"].defaults.multiple == 8
    path, _ = make(engine, model="base", width=72, height=104, steps=2, hires_scale=1.5)
    assert Image.open(path).size == (112, 160)  # 108 and 156, to multiples
    picture = tmp_path / "in.png"
    Image.effect_noise((88, 120), 80).convert("RGB").save(picture)
    fields = dict(mode="img2img", image=picture, width=88, height=120, model="base", steps=2, hires_scale=0.0)
    path, _ = make(engine, **fields)
    assert Image.open(path).size == (88, 120)
    with pytest.raises(RequestError, match="Width is 90; model base makes 16 to 2048, in multiples of 8"):
        engine.resolve(Request(**FIELDS | fields | dict(width=90)))


def test_other_weights_of_the_same_name_are_no_replay(engine):
    resolved = replace(engine.resolve(Request(**FIELDS, hires_model="emoji-flow")), hires_model_digest="0123456789")
    outcome = engine.submit_resolved(resolved, previews=False).wait(120)
    assert isinstance(outcome, Failed) and "emoji-flow here has hash" in outcome.message


@pytest.mark.parametrize(
    "fields, said",
    [
        (dict(hires_model="lost"), "Unknown model 'lost'; known are"),
        (dict(hires_model="base", hires_scale=1.5, width=32, height=72), "Enlarged height is 108; model base makes"),
    ],
)
def test_what_cannot_be_is_refused_in_words(engine, fields, said):
    with pytest.raises(RequestError, match=said):
        engine.resolve(Request(**FIELDS | fields))


def test_the_models_own_name_is_as_above(engine):
    resolved = engine.resolve(Request(**FIELDS, hires_model="emoji"))
    assert resolved.request.hires_model == "" and resolved.hires_model_info is None


@pytest.mark.parametrize("said, ours", [("refiner.safetensors [7440042bbd]", "refiner"), ("lost", None)])
def test_a_picture_of_a1111_names_it(registry, engine, said, ours):
    line = f"Steps: 20, Sampler: Euler, Seed: 1, Size: 64x64, Hires upscale: 2, Hires checkpoint: {said}"
    found = from_external(read_infotext(f"a\n{line}"), registry, engine.models())
    assert found.fields.get("hires_model") == ours
    assert any("Hires checkpoint 'lost' is not in weights/" in note for note in found.notes) == (ours is None)
