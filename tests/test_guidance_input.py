"""Networks that take the guidance scale as an input, such as latent consistency models: beside diffusers' pipelines."""

from __future__ import annotations

import json
import math
import os
import shutil

import pytest
import torch
from conftest import ROOT
from oracles import Replay, end, sampler, schedule
from safetensors.torch import load_file, save_file

from benchmarks.random_checkpoint import XL, checkpoint, save
from samplers.noise import Noise
from samplers.run import plan, run
from webui.core.distilled_loras import few_steps_in
from webui.core.request import NO_NEGATIVE, Request, RequestError
from webui.core.resolved_request import resolve
from weights.condition import guidance_embedding
from weights.diffusers_folder import read_folder
from weights.opening import check_model, open_model
from weights.single_file import read_single

WIDTH, SEEDS, PROMPT = 32, (3, 4), "red apple"
NAMES = ("time_embedding.cond_proj.weight", "time_embed.cond_proj.weight")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The embedded model with a random weight for the guidance scale, and a latent consistency model's scheduler."""
    folder = tmp_path_factory.mktemp("weights") / "consistent"
    shutil.copytree(ROOT / "weights" / "emoji", folder, copy_function=os.link)
    changes = {
        "unet/config.json": {"time_cond_proj_dim": WIDTH},
        "scheduler/scheduler_config.json": {"_class_name": "LCMScheduler", "original_inference_steps": 50},
    }
    for name, values in changes.items():
        given = json.loads((folder / name).read_text())
        (folder / name).unlink()
        (folder / name).write_text(json.dumps(given | values))
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    file.unlink()
    projection = 0.1 * torch.randn(64, WIDTH, generator=torch.Generator().manual_seed(0))
    save_file(weights | {NAMES[0]: projection}, file)
    return folder


@pytest.fixture(scope="module")
def model(folder):
    info = read_folder(folder)
    check_model(info)
    return open_model(info, "cpu")


@pytest.fixture(scope="module")
def start(model):
    return Noise(SEEDS, "initial")(torch.zeros(len(SEEDS), *model.latents_shape(64, 64)))


def parts(model):
    prompts = model.network.prompts
    return dict(
        unet=model.network.unet,
        vae=model.vae.module,
        tokenizer=prompts.tokenizer,
        text_encoder=prompts.encoder,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def theirs(pipe, start, steps, guidance, **more):
    pipe.set_progress_bar_config(disable=True)
    shared = dict(num_inference_steps=steps, guidance_scale=guidance, height=64, width=64, output_type="latent")
    return pipe([PROMPT] * len(SEEDS), latents=start.clone(), **shared, **more).images


def test_the_embedding_is_diffusers(model):
    from diffusers import StableDiffusionPipeline

    for scale, width in ((1.0, 256), (8.0, 32), (2.5, 33)):
        expected = StableDiffusionPipeline.get_guidance_scale_embedding(None, torch.tensor([scale - 1]), width)
        torch.testing.assert_close(guidance_embedding(scale, width), expected, atol=2e-3, rtol=0)


def test_the_folder_says_how_it_is_used(model):
    info = model.info
    assert info.takes_guidance and any("takes the guidance scale as an input" in note for note in info.notes)
    assert (info.defaults.guidance, info.defaults.schedule) == (8.0, "LCM")
    sigmas = schedule("LCM")(model.schedule, 4, **dict(info.defaults.schedule_options))
    assert [round(model.schedule.timestep(sigma)) for sigma in sigmas[:-1]] == [999, 759, 499, 259]
    assert few_steps_in("a cat", info).fields == dict(sampler="LCM", schedule="LCM", steps=4, guidance=8.0, options={})


@pytest.mark.parametrize("guidance", [1.0, 8.0])
def test_latents_are_those_of_diffusers_pipeline(model, start, guidance):
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
    )
    ready = plan(model.schedule, sampler("DDIM"), schedule("Uniform leading"), 3)
    denoise = model.denoiser(PROMPT, "", guidance)
    with torch.no_grad():
        ours = run(ready, denoise, torch.zeros_like(start), SEEDS).x
    assert denoise.evaluations == 3 * len(SEEDS)
    scaled = start * ready.sigmas[0] / math.sqrt(1 + ready.sigmas[0] ** 2)
    expected = theirs(StableDiffusionPipeline(scheduler=scheduler, **parts(model)), scaled, 3, guidance)
    torch.testing.assert_close(ours, expected, atol=2e-4, rtol=1e-4)


def test_four_steps_are_those_of_diffusers_latent_consistency_pipeline(model, start):
    from diffusers import LatentConsistencyModelPipeline, LCMScheduler

    scheduler = LCMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False)
    sigmas = schedule("LCM")(model.schedule, 4)
    draw, again = (torch.Generator().manual_seed(7) for _ in range(2))
    draws = [torch.randn(start.shape, generator=draw) for _ in range(3)]
    with torch.no_grad():
        denoise = model.denoiser(PROMPT, "", 8.0)
        ours = end(sampler("LCM"), denoise, start * sigmas[0], sigmas, Replay(draws))
    scaled = start * sigmas[0] / math.sqrt(1 + sigmas[0] ** 2)
    pipe = LatentConsistencyModelPipeline(scheduler=scheduler, **parts(model))
    torch.testing.assert_close(ours, theirs(pipe, scaled, 4, 8.0, generator=again), atol=5e-4, rtol=1e-3)


def test_the_weight_counts(model, emoji, start):
    with torch.no_grad():
        x = 5.0 * start[:1]
        at = {scale: model.denoiser(PROMPT, "", scale)(x, 5.0) for scale in (1.0, 8.0)}
        plain = emoji.denoiser(PROMPT)(x, 5.0)
    assert all((at[1.0] - other).abs().max() > 1e-3 for other in (at[8.0], plain))


def test_prompts_joined_by_and_are_weighed_with_the_scale_told(model, start):
    x = 2.0 * start[:1]

    def asked(prompt):
        return model.denoiser(prompt, "", 4.0)(x, 2.0)

    with torch.no_grad():
        apple, cat = asked("red apple"), asked("cat")
        torch.testing.assert_close(asked("red apple :0.25 AND cat :0.75"), 0.25 * apple + 0.75 * cat, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_a_single_file_keeps_the_weight(tmp_path, name):
    weights = checkpoint(1)
    projection = torch.randn(32, 16, generator=torch.Generator().manual_seed(0))
    info = read_single(save(tmp_path / "mini-lcm.safetensors", weights | {f"model.diffusion_model.{name}": projection}))
    assert info.takes_guidance and (info.defaults.guidance, info.defaults.schedule) == (8.0, "LCM")
    unet = open_model(info, "cpu").network.unet
    assert torch.equal(unet.time_embedding.cond_proj.weight, projection)


def test_stable_diffusion_xl_takes_it_too(tmp_path):
    projection = torch.randn(32, 16, generator=torch.Generator().manual_seed(0))
    weights = checkpoint(XL) | {f"model.diffusion_model.{NAMES[0]}": projection}
    facts = {"modelspec.prediction_type": "epsilon"}
    model = open_model(read_single(save(tmp_path / "mini-xl.safetensors", weights, facts)), "cpu")
    x, sigma = torch.randn(1, *model.latents_shape(64, 64), generator=torch.Generator().manual_seed(1)), 2.0
    condition = model.encode_prompt("a cat").tensors
    with torch.no_grad():
        ours = model.denoiser("a cat", "", 5.0)(x, sigma)
        output = model.network.unet(
            x / math.sqrt(1 + sigma**2),
            model.schedule.timestep(sigma),
            encoder_hidden_states=condition["text"],
            timestep_cond=guidance_embedding(5.0, 16),
            added_cond_kwargs=dict(
                text_embeds=condition["pooled"], time_ids=torch.tensor([[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]])
            ),
        ).sample
    torch.testing.assert_close(ours, x - sigma * output, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "values, title",
    [
        ({"guidance_method": "APG"}, "Guidance method"),
        ({"guidance_rescale": 0.5}, "Guidance rescale"),
        ({"guidance_low": 0.5}, "Guidance low"),
    ],
)
def test_what_needs_two_estimates_is_refused(model, registry, values, title):
    with pytest.raises(RequestError, match=f"{title} needs two estimates a call, and model consistent"):
        resolve(Request(prompt=PROMPT, **values), registry, {"consistent": model.info})


def test_a_negative_prompt_is_told_not_to_count(model):
    assert Request(negative_prompt="blue", guidance=0.0).notes_on(model.info) == [NO_NEGATIVE]
    assert Request(guidance=0.0).notes_on(model.info) == []
