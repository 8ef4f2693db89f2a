"""Other models draw beside a run's own: the second pass, or the last steps of a pass, as a refiner."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import ROOT
from labs import done
from oracles import sampler, schedule
from PIL import Image

from benchmarks.random_checkpoint import REFINER, XL, checkpoint, save
from samplers.noise import Noise
from samplers.run import plan, run, steps
from samplers.schedule import flow, handover, sigma_of_flow_time, stable_diffusion
from samplers.wrappers import Refined
from webui.core.infotext import infotext
from webui.core.picture_metadata import read_picture
from webui.core.request import Request, RequestError, read
from webui.engine.engine import Engine
from webui.engine.events import Failed, Finished
from webui.importers.a1111 import read_infotext
from webui.importers.imported_settings import from_external
from webui.replay_command import replay_file
from webui.settings import Settings
from webui.tabs.lab.axes import read_axis
from webui.tabs.lab.compare import Compare
from webui.tabs.lab.grid import make_grid
from weights.diffusers_folder import read_folder
from weights.opening import open_model
from weights.single_file import read_single

SIDE = 64  # pixels of pictures here
FIELDS = dict(prompt="red apple", sampler="Euler", schedule="Karras", steps=4, seed=5, guidance=3.0, hires_scale=1.0)
FIELDS |= dict(width=SIDE, height=SIDE)
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
    return replace(info, defaults=replace(info.defaults, size=SIDE, largest=3 * SIDE))


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


def by_hand(first, second, prompt, strength=0.5):
    """The picture of two runs: the second begins where the first ended, with noise of its own."""
    whole = plan(first.schedule, sampler("Euler"), schedule("Karras"), 4)
    part = plan(second.schedule, sampler("Euler"), schedule("Karras"), 4, strength=strength)
    with torch.no_grad():
        zeros = torch.zeros(1, *first.latents_shape(SIDE, SIDE))
        latents = run(whole, first.denoiser(prompt, guidance=3.0), zeros, [5]).x
        latents = run(part, second.denoiser(prompt, guidance=3.0), latents, [5], streams="pass 2/").x
        return np.asarray(second.decode(latents)[0])


def test_it_draws_on_the_latents_of_the_first_and_is_recorded_and_replayed(engine, emoji):
    path, info = make(engine, hires_model="emoji-flow")
    flow = open_model(engine.models()["emoji-flow"], "cpu")
    assert np.array_equal(np.asarray(Image.open(path)), by_hand(emoji, flow, "red apple"))
    assert info["hires_model"] == "emoji-flow" and info["nfe"] == 4 + 2
    record = read_picture(path).record
    (patch,) = record.patches
    assert (patch.kind, patch.name, patch.digest) == ("model", "emoji-flow", flow.identity.digest)
    assert "Hires checkpoint: emoji-flow" in infotext(record.data)
    assert str(replay_file(engine, path)) == "bit-equal"


def test_the_refiner_of_stable_diffusion_xl_refines(engine):
    path, _ = make(engine, model="base", hires_model="refiner", hires_strength=0.25)
    base, refiner = (open_model(engine.models()[name], "cpu") for name in ("base", "refiner"))
    assert np.array_equal(np.asarray(Image.open(path)), by_hand(base, refiner, "red apple", 0.25))


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
    with pytest.raises(RequestError, match="Width is 90; model base makes 16 to 192, in multiples of 8"):
        engine.resolve(Request(**FIELDS | fields | dict(width=90)))


def test_other_weights_of_the_same_name_are_no_replay(engine):
    resolved = replace(engine.resolve(Request(**FIELDS, hires_model="emoji-flow")), hires_model_digest="0123456789")
    outcome = engine.submit_resolved(resolved, previews=False).wait(120)
    assert isinstance(outcome, Failed) and "emoji-flow here has hash" in outcome.message


@pytest.mark.parametrize(
    "fields, said",
    [
        (dict(hires_model="lost"), "Unknown model 'lost'; known are"),
        (dict(hires_model="base", hires_scale=2.0, width=128), "Enlarged width is 256; model base makes 16 to 192"),
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


REFINED = dict(prompt="red apple", sampler="Euler", schedule="Karras", steps=4, hires_scale=0.0)


def test_a_refiner_goes_on_as_diffusers_does_with_two_pipelines(engine):
    """denoising_end and denoising_start at a share whose timestep is one of the run's: that step is the base's."""
    from diffusers import DDIMScheduler, StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline

    base, refiner = (open_model(engine.models()[name], "cpu") for name in ("base", "refiner"))
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
    )
    first, second, alone = base.network.first, base.network.second, refiner.network.prompts
    theirs = StableDiffusionXLPipeline(
        base.vae.module, first.encoder, second.encoder, first.tokenizer, second.tokenizer, base.network.unet, scheduler,
        add_watermarker=False,
    )  # fmt: skip
    goes_on = StableDiffusionXLImg2ImgPipeline(
        refiner.vae.module, None, alone.encoder, None, alone.tokenizer, refiner.network.unet, scheduler,
        requires_aesthetics_score=True, force_zeros_for_empty_prompt=False, add_watermarker=False,
    )  # fmt: skip
    size = dict(original_size=(SIDE, SIDE), target_size=(SIDE, SIDE))
    shared = dict(num_inference_steps=5, negative_prompt="blue", guidance_scale=5.0, output_type="latent", **size)
    ready = plan(base.schedule, sampler("DDIM"), schedule("Uniform leading"), 5)  # 801, 601, 401, 201, 1
    zeros, top = torch.zeros(1, *base.latents_shape(SIDE, SIDE)), ready.sigmas[0]
    start = top * Noise((1,), "initial")(zeros) / (1 + top**2) ** 0.5
    for each in (theirs, goes_on):
        each.set_progress_bar_config(disable=True)
    noisy = theirs("a red apple", latents=start, height=SIDE, width=SIDE, denoising_end=0.599, **shared).images
    expected = goes_on("a red apple", image=noisy, denoising_start=0.599, **shared).images
    experts = [model.denoiser("a red apple", "blue", 5.0) for model in (base, refiner)]
    mine = run(ready, Refined(*experts, handover(base.schedule, 0.599)), zeros, (1,)).x
    torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-4)


def test_a_refiner_takes_the_very_latents_over_and_is_recorded_and_replayed(engine, emoji):
    path, info = make(engine, **REFINED, refiner="emoji-flow", refiner_switch=0.5)
    other = open_model(engine.models()["emoji-flow"], "cpu")
    whole = plan(emoji.schedule, sampler("Euler"), schedule("Karras"), 4)
    kept = sum(sigma >= emoji.schedule.sigmas[500] for sigma in whole.sigmas)
    parts = [replace(whole, sigmas=part) for part in (whole.sigmas[: kept + 1], whole.sigmas[kept:])]
    with torch.no_grad():
        x = run(
            parts[0], emoji.denoiser("red apple", guidance=3.0), torch.zeros(1, *emoji.latents_shape(SIDE, SIDE)), [5]
        ).x
        *_, last = steps(parts[1], other.denoiser("red apple", guidance=3.0), x, Noise([5]))
        expected = np.asarray(emoji.decode(last.x)[0])
    assert np.array_equal(np.asarray(Image.open(path)), expected)
    assert (info["nfe"], info["evaluations_each"], info["refiner"]) == (4, [8], "emoji-flow")
    record = read_picture(path).record
    (patch,) = record.patches
    assert (patch.kind, patch.name, patch.digest) == ("refiner", "emoji-flow", other.identity.digest)
    assert "Refiner: emoji-flow, Refiner switch at: 0.5" in infotext(record.data)
    assert str(replay_file(engine, path)) == "bit-equal"
    resolved = replace(engine.resolve(Request(**FIELDS | REFINED, refiner="emoji-flow")), refiner_digest="0123456789")
    outcome = engine.submit_resolved(resolved, previews=False).wait(120)
    assert isinstance(outcome, Failed) and "Refiner emoji-flow here has hash" in outcome.message


def test_a_refiner_draws_the_end_of_every_pass_of_its_model(engine):
    """A multistep sampler with noise, two pictures, a second pass, words that change and a LoRA that does not fit."""
    fields = dict(prompt="[red:green:0.5] apple", sampler="DPM++ 2M SDE", count=2, steps=6, refiner_switch=0.5)
    twice = dict(hires_scale=1.25, hires_strength=0.5, refiner="emoji-flow", guidance_method="APG")
    path, info = make(engine, **fields | twice)
    assert str(replay_file(engine, path)) == "bit-equal"
    by_other, _ = make(engine, **fields | twice | dict(hires_model="emoji-flow"))
    assert open(path, "rb").read() != open(by_other, "rb").read()
    assert [patch.kind for patch in read_picture(by_other).record.patches] == ["model", "refiner"]


def test_a_picture_at_low_strength_is_the_refiners_alone(engine, emoji, tmp_path):
    picture = tmp_path / "in.png"
    Image.effect_noise((SIDE, SIDE), 80).convert("RGB").save(picture)
    fields = REFINED | dict(mode="img2img", image=picture, strength=0.5)
    path, _ = make(engine, **fields, refiner="emoji-flow", refiner_switch=0.01)
    part = plan(emoji.schedule, sampler("Euler"), schedule("Karras"), 4, strength=0.5)
    other = open_model(engine.models()["emoji-flow"], "cpu")
    with torch.no_grad():
        start = emoji.encode(Image.open(picture)).contiguous()  # as the engine lays it out
        expected = emoji.decode(run(part, other.denoiser("red apple", guidance=3.0), start, [5]).x)[0]
    assert np.array_equal(np.asarray(Image.open(path)), np.asarray(expected))


@pytest.mark.parametrize(
    "fields, said",
    [
        (dict(refiner="lost"), "Unknown model 'lost'; known are"),
        (dict(refiner="base"), "Refiner base reads other latents than emoji makes; choose one of the same family"),
        (dict(refiner="emoji-flow", refiner_switch=1.5), "Refiner switch must be a number from 0 to 1"),
        (
            dict(refiner="emoji-flow", schedule="Uniform trailing", refiner_switch=0.8),
            "choose at most 0.75, or more steps",
        ),
    ],
)
def test_a_refiner_that_cannot_be_is_refused_in_words(engine, fields, said):
    with pytest.raises(RequestError, match=said):
        engine.resolve(read(FIELDS | REFINED | fields))


@pytest.mark.parametrize("fields", [dict(refiner="emoji"), dict(refiner="emoji-flow", refiner_switch=1.0)])
def test_the_models_own_name_and_a_switch_at_the_end_are_no_refiner(engine, fields):
    resolved = engine.resolve(Request(**FIELDS | REFINED | fields))
    assert resolved.request.refiner == "" and resolved.refiner_info is None


def test_the_latest_switch_that_is_told_can_be_used(engine):
    fields = FIELDS | REFINED | dict(schedule="Uniform trailing", refiner="emoji-flow")
    assert engine.resolve(Request(**fields, refiner_switch=0.75)).refiner_info.name == "emoji-flow"


@pytest.mark.parametrize("share", [0.0, 0.2, 0.599, 0.8, 0.95])
def test_the_hand_over_is_at_diffusers_timestep(share):
    levels = stable_diffusion()
    cutoff = int(round(1000 - share * 1000))
    mine = [levels.sigma(timestep) >= handover(levels, share) for timestep in range(1000)]
    assert mine == [timestep >= cutoff for timestep in range(1000)]
    if share:
        assert handover(flow(), share) == pytest.approx(sigma_of_flow_time(cutoff / 1000), rel=1e-5)


def test_a_grid_varies_the_refiner_and_where_it_begins(engine):
    axes = [
        read_axis("refiner", "emoji, emoji-flow, base", engine.registry),
        read_axis("refiner_switch", "0.4, 1", engine.registry),
    ]
    grid = make_grid(engine, Request(**FIELDS | REFINED), axes)
    assert [cell.labels for cell in grid.possible] == [
        ("emoji", "0.4"),
        ("emoji-flow", "0.4"),
        ("emoji", "1"),
        ("emoji-flow", "1"),
        ("base", "1"),
    ]
    _, parts = done(engine, Compare(grid))
    pictures = [Image.open(part.picture.path).tobytes() for part in parts]
    assert len(pictures) == 5 and len(set(pictures)) == 2


def test_a_refiner_of_a1111s_text_is_taken_over(registry, engine):
    line = "Steps: 20, Sampler: Euler, Seed: 1, Size: 64x64, Refiner: refiner [7440042bbd], Refiner switch at: 0.7"
    found = from_external(read_infotext(f"a\n{line}"), registry, engine.models())
    assert (found.fields["refiner"], found.fields["refiner_switch"]) == ("refiner", 0.7)
    lost = from_external(read_infotext(f"a\n{line.replace('refiner [', 'lost [')}"), registry, engine.models())
    assert "refiner" not in lost.fields and any("Refiner 'lost' is not in weights/" in note for note in lost.notes)
