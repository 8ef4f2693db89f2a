"""The embedded model through our samplers: the same pictures as diffusers' own pipeline, alone and in a batch."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from oracles import sampler, schedule

from samplers.noise import Noise
from samplers.run import plan, run

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
