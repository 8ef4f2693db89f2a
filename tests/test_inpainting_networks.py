"""Networks made for inpainting, which see a mask and the masked picture beside the latents."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from oracles import sampler, schedule
from PIL import Image, ImageDraw
from safetensors.torch import save_file

from benchmarks.random_checkpoint import MINI, checkpoint
from samplers.noise import Noise, stream_key
from samplers.run import plan, run
from samplers.wrappers import SoftlyMasked
from webui.core.request import Request
from webui.engine.engine import Engine
from webui.engine.events import Finished
from webui.replay_command import replay_file
from webui.settings import Settings
from weights.inpainting_network import Hole
from weights.opening import check_model, open_model
from weights.single_file import read_single

SIDE = 64  # pixels
PROMPT, NEGATIVE = "red apple", "blue"


def opened(folder, taken):
    """A checkpoint of Stable Diffusion 1, of random weights, whose network takes so many channels."""
    path = folder / f"mini-{taken}.safetensors"
    save_file(checkpoint(1, replace(MINI[1], taken=taken)), path)
    info = read_single(path)
    check_model(info)
    return open_model(replace(info, defaults=replace(info.defaults, size=SIDE)), "cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """One made for inpainting."""
    return opened(tmp_path_factory.mktemp("weights"), 9)


@pytest.fixture(scope="module")
def picture():
    image = Image.new("RGB", (SIDE, SIDE), (60, 120, 200))
    ImageDraw.Draw(image).ellipse((10, 14, 50, 60), (240, 200, 40))
    return image


@pytest.fixture(scope="module")
def left():
    """White on the left: what is drawn anew."""
    mask = Image.new("L", (SIDE, SIDE))
    mask.paste(255, (0, 0, SIDE // 2, SIDE))
    return mask


def inpaint_pipeline(model):
    """Diffusers' pipeline around a model, with Stable Diffusion's scheduler."""
    from diffusers import DDIMScheduler, StableDiffusionInpaintPipeline

    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
    )
    parts = dict(unet=model.network.unet, vae=model.vae.module, tokenizer=model.network.prompts.tokenizer)
    parts |= dict(text_encoder=model.network.prompts.encoder, safety_checker=None, feature_extractor=None)
    pipe = StableDiffusionInpaintPipeline(scheduler=scheduler, requires_safety_checker=False, **parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_it_is_recognized_by_its_first_convolution(model):
    assert model.info.inpaints and (model.info.channels, model.info.prediction) == (4, "epsilon")
    assert model.network.unet.config.in_channels == 9


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_latents_are_those_of_diffusers_inpaint_pipeline(model, picture, left, guidance):
    ready = plan(model.schedule, sampler("DDIM"), schedule("Uniform leading"), 3)
    shape = model.latents_shape(SIDE, SIDE)
    mask = torch.zeros(1, 1, *shape[1:])
    mask[..., : shape[2] // 2] = 1
    grey = Image.composite(Image.new("RGB", picture.size, (128, 128, 128)), picture, left)
    hole = Hole(mask, model.encode(grey))
    with torch.no_grad():
        ours = run(ready, model.denoiser(PROMPT, NEGATIVE, guidance, hole=hole), torch.zeros(1, *shape), [21]).x
    theirs = inpaint_pipeline(model)(
        PROMPT,
        negative_prompt=NEGATIVE,
        image=picture,
        mask_image=left,
        masked_image_latents=hole.picture,
        height=SIDE,
        width=SIDE,
        num_inference_steps=3,
        strength=1.0,
        guidance_scale=guidance,
        eta=0.0,
        latents=Noise([21], "initial")(torch.zeros(1, *shape)) * (ready.sigmas[0] / (1 + ready.sigmas[0] ** 2) ** 0.5),
        output_type="latent",
    ).images
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_an_ordinary_model_inpaints_as_diffusers_inpaint_pipeline(tmp_path):
    """Theirs puts the noised picture back after each step, ours keeps it in the estimate: one thing for DDIM.

    Not at strength 1, where theirs starts from noise without the picture, and not for samplers with a memory of steps.
    """
    model = opened(tmp_path, 4)
    shape, seed, steps, strength = model.latents_shape(SIDE, SIDE), 21, 5, 0.8
    clean = torch.linspace(-1, 1, math.prod(shape)).reshape(1, *shape)
    mask = torch.zeros(1, 1, *shape[1:])
    mask[..., : shape[2] // 2] = 1
    ready = plan(model.schedule, sampler("DDIM"), schedule("Uniform leading"), steps, strength=strength)
    with torch.no_grad():
        denoise = SoftlyMasked(model.denoiser(PROMPT, NEGATIVE, 5.0), clean, mask, ready.sigmas[0])
        ours = run(ready, denoise, clean, [seed]).x
    theirs = inpaint_pipeline(model)(
        PROMPT,
        negative_prompt=NEGATIVE,
        image=clean,
        mask_image=torch.nn.functional.interpolate(mask, scale_factor=model.info.factor),
        masked_image_latents=clean,
        height=SIDE,
        width=SIDE,
        num_inference_steps=steps,
        strength=strength,
        guidance_scale=5.0,
        eta=0.0,
        generator=torch.Generator().manual_seed(stream_key(seed, "initial", 0)),
        output_type="latent",
    ).images
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    assert (ours - clean)[..., : shape[2] // 2].abs().mean() > 0.1


def test_without_a_picture_it_is_told_that_nothing_is_known(model):
    start, ready = (
        torch.zeros(1, *model.latents_shape(SIDE, SIDE)),
        plan(model.schedule, sampler("Euler"), schedule("Uniform trailing"), 2),
    )
    grey = model.encode(Image.new("RGB", (SIDE, SIDE), (128, 128, 128)))
    everything = Hole(torch.ones(1, 1, *grey.shape[-2:]), grey)
    with torch.no_grad():
        plain, told, black = (
            run(ready, model.denoiser(PROMPT, hole=hole), start, [1]).x
            for hole in (None, everything, Hole(everything.mask, grey + 1))
        )
    assert torch.equal(plain, told) and not torch.equal(plain, black)


def test_the_page_draws_with_it_and_keeps_what_the_mask_keeps(model, registry, picture, left, tmp_path):
    settings = Settings(root=tmp_path, outputs=tmp_path / "outputs", weights=tmp_path, model=model.name, device="cpu")
    engine = Engine(registry, settings, lambda found, device: model, lambda folder: {model.name: model.info})
    picture.save(tmp_path / "in.png")
    left.save(tmp_path / "mask.png")
    engine.start()
    try:
        shared = dict(prompt=PROMPT, steps=2, seed=3, guidance=2.0, width=SIDE, height=SIDE)
        job = engine.submit(
            Request(
                mode="img2img",
                image=tmp_path / "in.png",
                mask=tmp_path / "mask.png",
                mask_blur=0,
                strength=1.0,
                **shared,
            )
        )
        assert isinstance(job.wait(60), Finished), job.outcome
        path = job.pictures[0].path
        made = np.asarray(Image.open(path))
        assert np.array_equal(made[:, SIDE // 2 :], np.asarray(picture)[:, SIDE // 2 :])
        assert not np.array_equal(made[:, : SIDE // 2], np.asarray(picture)[:, : SIDE // 2])
        assert str(replay_file(engine, path)) == "bit-equal"
        words = engine.submit(Request(hires_scale=1.25, **shared))
        assert isinstance(words.wait(60), Finished), words.outcome
    finally:
        engine.close()
