"""The embedded model through our samplers: the same pictures as diffusers' own pipeline, alone and in a batch."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from oracles import sampler, schedule

from samplers.noise import Noise, stream_key
from samplers.run import plan, run
from samplers.wrappers import SoftlyMasked

EMOJI = Path(__file__).resolve().parents[1] / "weights" / "emoji"
PROMPT, NEGATIVE = "red apple", "blue"

pytestmark = pytest.mark.skipif(not (EMOJI / "model_index.json").exists(), reason="the embedded model is not here")


@pytest.fixture
def model(emoji):
    return emoji


@pytest.fixture(scope="module")
def pipeline():
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(EMOJI, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def zeros(model, count: int) -> torch.Tensor:
    return torch.zeros(count, *model.latents_shape(64, 64))


def pixels(pictures) -> np.ndarray:
    return np.stack([np.asarray(picture) for picture in pictures]).astype(int)


def draw(model, name, seeds, steps=5, guidance=5.0, grid="Uniform leading", **options) -> np.ndarray:
    """Our pictures as whole numbers from 0 to 255, (images, height, width, 3)."""
    ready = plan(model.schedule, sampler(name), schedule(grid), steps, options)
    result = run(ready, model.denoiser(PROMPT, NEGATIVE, guidance), zeros(model, len(seeds)), seeds)
    return pixels(model.decode(result.x))


@pytest.mark.parametrize("steps, guidance", [(1, 5.0), (5, 5.0), (7, 1.0)])
def test_ddim_draws_what_diffusers_pipeline_draws(model, pipeline, steps, guidance):
    seeds = (21, 22)
    ready = plan(model.schedule, sampler("DDIM"), schedule("Uniform leading"), steps)
    start = ready.sigmas[0] * Noise(seeds, "initial")(zeros(model, len(seeds)))
    theirs = pipeline(
        [PROMPT] * len(seeds),
        negative_prompt=[NEGATIVE] * len(seeds),
        num_inference_steps=steps,
        guidance_scale=guidance,
        eta=0.0,
        height=64,
        width=64,
        latents=start / math.sqrt(1 + ready.sigmas[0] ** 2),
    ).images
    assert [model.schedule.sigma(t.item()) for t in pipeline.scheduler.timesteps] == list(ready.sigmas[:-1])

    mine = draw(model, "DDIM", seeds, steps, guidance)
    assert np.abs(mine - pixels(theirs)).max() <= 1
    # They are pictures, and not two times the same.
    assert np.ptp(mine[0]) > 20 and np.abs(mine[0] - mine[1]).max() > 10


@pytest.mark.parametrize("name, options", [("DDPM", {}), ("Flow", dict(method="heun"))])
def test_a_picture_of_a_batch_equals_the_picture_alone(model, name, options):
    seeds = (5, 17)
    together = draw(model, name, seeds, 3, **options)
    # One of them is enough here, because a network is slow; all are compared on closed-form denoisers.
    assert np.abs(together[1] - draw(model, name, seeds[1:2], 3, **options)[0]).max() <= 1


def test_euler_and_ddim_draw_one_picture(model):
    assert np.abs(draw(model, "Euler", (3,)) - draw(model, "DDIM", (3,))).max() <= 1


def test_a_picture_depends_on_its_seed_and_repeats(model):
    first = draw(model, "DDPM", (8,), 3)
    assert np.array_equal(first, draw(model, "DDPM", (8,), 3))
    assert np.abs(first - draw(model, "DDPM", (9,), 3)).max() > 10


def test_an_ordinary_model_inpaints_as_diffusers_inpaint_pipeline(model, pipeline):
    """Theirs puts the noised picture back after each step, ours keeps it in the estimate: one thing for DDIM.

    Not at strength 1, where theirs starts from noise without the picture, and not for samplers with a memory of steps.
    """
    from diffusers import StableDiffusionInpaintPipeline

    shape, seed, steps, strength = model.latents_shape(*[model.info.defaults.size] * 2), 21, 5, 0.8
    clean = torch.linspace(-1, 1, math.prod(shape)).reshape(1, *shape)
    mask = torch.zeros(1, 1, *shape[1:])
    mask[..., : shape[2] // 2] = 1
    ready = plan(model.schedule, sampler("DDIM"), schedule("Uniform leading"), steps, strength=strength)
    with torch.no_grad():
        denoise = SoftlyMasked(model.denoiser(PROMPT, NEGATIVE, 5.0), clean, mask, ready.sigmas[0])
        ours = run(ready, denoise, clean, [seed]).x
    inpaint = StableDiffusionInpaintPipeline(**pipeline.components, requires_safety_checker=False)
    inpaint.set_progress_bar_config(disable=True)
    theirs = inpaint(
        PROMPT,
        negative_prompt=NEGATIVE,
        image=clean,
        mask_image=torch.nn.functional.interpolate(mask, scale_factor=model.info.factor),
        masked_image_latents=clean,
        height=model.info.defaults.size,
        width=model.info.defaults.size,
        num_inference_steps=steps,
        strength=strength,
        guidance_scale=5.0,
        eta=0.0,
        generator=torch.Generator().manual_seed(stream_key(seed, "initial", 0)),
        output_type="latent",
    ).images
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    assert (ours - clean)[..., : shape[2] // 2].abs().mean() > 0.1
