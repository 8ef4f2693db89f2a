"""The refiner of Stable Diffusion XL: one text encoder, four levels, and a score in place of the size aimed at."""

import math

import pytest
import torch
from test_sdxl import EPSILON, SIDE, described, same

from benchmarks.random_checkpoint import REFINER, TRUE, checkpoint, save, shapes
from samplers.noise import Noise
from samplers.run import plan, run
from weights.diffusers_folder import read_folder
from weights.families import recognize_file
from weights.model_info import ModelError
from weights.opening import open_model
from weights.single_file import read_single

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


@pytest.fixture(scope="module")
def refiner(tmp_path_factory):
    path = tmp_path_factory.mktemp("refiner") / "mini-refiner.safetensors"
    return open_model(read_single(save(path, checkpoint(REFINER, seed=4), EPSILON)), "cpu")


def test_the_weights_are_those_of_diffusers_own_conversion(refiner):
    from diffusers.loaders import single_file_utils as theirs

    weights, unet = checkpoint(REFINER, seed=4), refiner.network.unet
    same(unet.state_dict(), theirs.convert_ldm_unet_checkpoint(dict(weights), dict(unet.config)))
    sizes = shapes(REFINER, TRUE[REFINER])
    config = recognize_file(described(sizes))[1].unet
    assert (config["block_out_channels"], config["attention_head_dim"]) == ([384, 768, 1536, 1536], [6, 12, 24, 24])
    assert config["transformer_layers_per_block"] == [1, 4, 4, 4]


def test_latents_are_those_of_diffusers_pipeline_in_a_folder_as_well(refiner, registry, tmp_path):
    from diffusers import DDIMScheduler, StableDiffusionXLImg2ImgPipeline

    network = refiner.network
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
    )
    prompts = network.prompts
    pipe = StableDiffusionXLImg2ImgPipeline(
        refiner.vae.module, None, prompts.encoder, None, prompts.tokenizer, network.unet, scheduler,
        requires_aesthetics_score=True, force_zeros_for_empty_prompt=False, add_watermarker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    ready = plan(refiner.schedule, registry.sampler("DDIM").item, registry.schedule("Uniform leading").item, 2)
    zeros = torch.zeros(1, *refiner.latents_shape(SIDE, SIDE))
    mine = run(ready, refiner.denoiser("a red apple", "blue", 5.0), zeros, (1,)).x
    start = ready.sigmas[0] * Noise((1,), "initial")(zeros) / math.sqrt(1 + ready.sigmas[0] ** 2)
    theirs = pipe(
        "a red apple",
        negative_prompt="blue",
        image=start,
        num_inference_steps=2,
        denoising_start=1e-4,  # all of the steps, and no noise of its own
        guidance_scale=5.0,
        original_size=(SIDE, SIDE),
        target_size=(SIDE, SIDE),
        output_type="latent",
    ).images
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    pipe.save_pretrained(tmp_path / "folder")
    folder = open_model(read_folder(tmp_path / "folder"), "cpu")
    again = run(ready, folder.denoiser("a red apple", "blue", 5.0), zeros, (1,)).x
    assert torch.equal(again, mine)


def test_networks_with_other_inputs_are_named():
    sizes = shapes(REFINER) | {"model.diffusion_model.input_blocks.0.0.weight": (32, 8, 3, 3)}
    with pytest.raises(ModelError, match="a network that edits pictures"):
        recognize_file(described(sizes))


def test_pictures_of_several_prompts_at_once_are_told_the_scores_of_single_ones(refiner):
    prompts, generator = ("rocket", "red apple"), torch.Generator().manual_seed(0)
    x = 3 * torch.randn(len(prompts), *refiner.latents_shape(SIDE, SIDE), generator=generator)
    together = refiner.denoiser_of_each(prompts, 5.0)(x, 3.0)
    single = [refiner.denoiser(prompt, guidance=5.0)(x[i : i + 1], 3.0) for i, prompt in enumerate(prompts)]
    torch.testing.assert_close(together, torch.cat(single), rtol=1e-4, atol=1e-4)


def test_a_textual_inversion_of_the_base_model_counts_with_its_second_half(refiner):
    vectors = torch.randn(2, 32 + 64, generator=torch.Generator().manual_seed(1))
    both, own = (
        refiner.network.encode("a style apple", embeddings={"style": each}) for each in (vectors, vectors[:, 32:])
    )
    assert torch.equal(both.tensors["text"], own.tensors["text"])
    assert not torch.equal(both.tensors["text"], refiner.network.encode("a style apple").tensors["text"])
    with pytest.raises(ModelError, match="does not fit model mini-refiner"):
        refiner.network.encode("a style apple", embeddings={"style": vectors[:, :32]})
