"""Stable Diffusion XL: true names and shapes at a small width, and diffusers' own pipeline on the same weights."""

import copy
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from benchmarks.random_checkpoint import TRUE, XL, checkpoint, save, shapes
from samplers.noise import Noise
from samplers.run import plan, run
from weights.diffusers_folder import read_folder
from weights.extra_networks import ExtraNetworks
from weights.families import FAMILIES, recognize_file
from weights.families.stable_diffusion_xl import StableDiffusionXL
from weights.model import Model
from weights.model_info import ModelError
from weights.opening import open_model
from weights.single_file import read_single
from weights.tensors import Shape, TensorFile

UNET, FIRST, SECOND = "model.diffusion_model.", "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."
EPSILON = {"modelspec.prediction_type": "epsilon"}
SIDE = 64  # pixels of pictures here
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


@pytest.fixture(scope="module")
def weights():
    return checkpoint(XL, seed=3)


@pytest.fixture(scope="module")
def model(weights, tmp_path_factory):
    path = save(tmp_path_factory.mktemp("weights") / "mini-xl.safetensors", weights, EPSILON)
    return open_model(read_single(path), "cpu")


@pytest.fixture(scope="module")
def pipeline(model):
    from diffusers import DDIMScheduler, StableDiffusionXLPipeline

    network = model.network
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
    )
    pipe = StableDiffusionXLPipeline(
        model.vae.module,
        network.first.encoder,
        network.second.encoder,
        network.first.tokenizer,
        network.second.tokenizer,
        network.unet,
        scheduler,
        add_watermarker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def described(sizes, metadata=None):
    """A file of these shapes, of which there are no numbers."""
    known = {name: Shape(size, torch.float16) for name, size in sizes.items()}
    return TensorFile(Path("some-xl.safetensors"), known, metadata or EPSILON)


def count(sizes, prefix):
    own = [size for name, size in sizes.items() if name.startswith(prefix) and "position_ids" not in name]
    return sum(math.prod(size) for size in own)


def same(mine, theirs):
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name].reshape(mine[name].shape)) for name in mine)


def test_the_true_width_is_recognized_and_has_the_published_size():
    sizes = shapes(XL, TRUE[XL])
    # Published: 2,567 million weights in the UNet, 123 and 695 million in the text encoders (and a scale for training).
    assert count(sizes, UNET) == 2_567_463_684
    assert (count(sizes, FIRST), count(sizes, SECOND)) == (123_060_480, 694_659_841)
    family, found = recognize_file(described(sizes))
    assert isinstance(family, StableDiffusionXL)
    assert found.unet["transformer_layers_per_block"] == [1, 2, 10]
    assert found.unet["attention_head_dim"] == [5, 10, 20]
    assert (found.size("epsilon"), found.vae["scaling_factor"]) == (1024, 0.13025)


def test_the_weights_are_those_of_diffusers_own_conversion(weights, model):
    from diffusers.loaders import single_file_utils as theirs

    network = model.network
    same(network.unet.state_dict(), theirs.convert_ldm_unet_checkpoint(dict(weights), dict(network.unet.config)))
    first = theirs.convert_ldm_clip_checkpoint(dict(weights), remove_prefix=FIRST)
    same(plain(network.first.encoder.state_dict()), plain(first))
    second = theirs.convert_open_clip_checkpoint(network.second.encoder, dict(weights), prefix=SECOND)
    same(plain(network.second.encoder.state_dict()), plain(second))


def plain(state):
    """Without what comes and goes with the versions of transformers."""
    return {name.removeprefix("text_model."): t for name, t in state.items() if "position_ids" not in name}


def test_a_prompt_is_encoded_as_by_diffusers_pipeline(model, pipeline):
    theirs = pipeline.encode_prompt("a red apple, oil on canvas", negative_prompt=None)
    mine, empty = model.encode_prompt("a red apple, oil on canvas"), model.encode_prompt("")
    expected = (theirs[0], theirs[2]), (theirs[1], theirs[3])
    for condition, (text, pooled) in zip((mine, empty), expected, strict=True):
        torch.testing.assert_close(condition.tensors["text"], text)
        torch.testing.assert_close(condition.tensors["pooled"], pooled)
    skipped = pipeline.encode_prompt("a red apple", clip_skip=1, do_classifier_free_guidance=False)[0]
    # The form's 1 and other programs' 2 are the layer that the model was trained on.
    torch.testing.assert_close(model.encode_prompt("a red apple", 3).tensors["text"], skipped)
    two = model.encode_prompt("a red apple", 2).tensors["text"]
    assert torch.equal(two, model.encode_prompt("a red apple").tensors["text"])


def test_weights_and_chunks_count_in_both_encoders(model):
    weighted = model.encode_prompt("a (red:1.4) apple").tensors
    plain_one = model.encode_prompt("a red apple").tensors
    first, second = (weighted["text"] / plain_one["text"]).split([32, 64], -1)
    for half in (first, second):
        ratios = half[0].mean(-1)
        torch.testing.assert_close(ratios[2] / ratios[1], torch.tensor(1.4))
    assert torch.equal(weighted["pooled"], plain_one["pooled"])
    two = model.encode_prompt("a red apple BREAK on a table").tensors
    assert two["text"].shape == (1, 154, 96)
    assert torch.equal(two["pooled"], plain_one["pooled"])


@pytest.mark.parametrize("negative", ["", "blue"])
def test_latents_are_those_of_diffusers_pipeline(model, pipeline, registry, negative):
    ready = plan(model.schedule, registry.sampler("DDIM").item, registry.schedule("Uniform leading").item, 2)
    zeros = torch.zeros(1, *model.latents_shape(SIDE, 2 * SIDE))
    start = ready.sigmas[0] * Noise((1,), "initial")(zeros) / math.sqrt(1 + ready.sigmas[0] ** 2)
    told = []
    hook = model.network.unet.register_forward_pre_hook(
        lambda module, args, given: told.append(given["added_cond_kwargs"]["time_ids"]), with_kwargs=True
    )
    mine = run(ready, model.denoiser("a red apple", negative, 5.0), zeros, (1,)).x
    theirs = pipeline(
        "a red apple",
        negative_prompt=negative or None,
        num_inference_steps=2,
        guidance_scale=5.0,
        width=SIDE,
        height=2 * SIDE,
        latents=start,
        output_type="latent",
    ).images
    hook.remove()
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    assert torch.equal(told[0], told[-1])
    assert told[0].tolist() == [[2 * SIDE, SIDE, 0, 0, 2 * SIDE, SIDE]] * 2


def test_the_size_and_crop_of_an_original_are_told_as_by_diffusers_pipeline(model, pipeline):
    told = model.network.told(model.encode_prompt("a cat"), (300, 200, 16, 8))
    pair = told.join(model.network.told(model.encode_prompt("a dog"), (300, 0, 16, 8)))
    sizes = model.network.inputs(torch.zeros(2, 4, 16, 8), 9.0, pair)["sizes"]
    theirs = pipeline._get_add_time_ids((200, 300), (8, 16), (128, 64), torch.float32, 64)
    assert torch.equal(sizes[:1], theirs)
    assert sizes[1].tolist() == [128, 300, 8, 16, 128, 64]
    assert model.network.told(told, (0, 0, 0, 0)) is told
    assert not torch.equal(*(model.denoiser("a", size_condition=size)(torch.ones(1, 4, 8, 8), 1.0) for size in SIZES))


SIZES = (0, 0, 0, 0), (300, 200, 16, 8)


def test_a_folder_of_the_same_weights_is_the_same_model(model, pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "folder")
    info = read_folder(tmp_path / "folder")
    assert info.defaults.size == 1024
    folder = open_model(info, "cpu")
    for name, module in model.network.components.items():
        same(module.state_dict(), folder.network.components[name].state_dict())
    mine, theirs = (one.encode_prompt("a (red:1.3) apple").tensors for one in (model, folder))
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    index = json.loads((tmp_path / "folder/unet/config.json").read_text())
    index["projection_class_embeddings_input_dim"] = 2560
    (tmp_path / "folder/unet/config.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="Stable Diffusion XL refiner"):
        read_folder(tmp_path / "folder")


def test_markers_of_fine_tunes_count():
    sizes = shapes(XL)
    found = recognize_file(described(sizes, {"x": "y"}))[1]
    assert (found.prediction, found.zero_snr) == (None, False)
    found = recognize_file(described(sizes | {"v_pred": (0,), "ztsnr": (0,)}))[1]
    assert (found.prediction, found.zero_snr) == ("v_prediction", True)


def test_a_projection_stored_as_a_layer_is_not_turned():
    sizes = shapes(XL)
    sizes[f"{SECOND}text_projection.weight"] = sizes.pop(f"{SECOND}text_projection")
    source = recognize_file(described(sizes))[1].parts(None)["text_encoder_2"].sources["text_projection.weight"]
    assert (source.name, source.transposed) == (f"{SECOND}text_projection.weight", False)


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda s: s | {f"{UNET}input_blocks.0.0.weight": (32, 8, 3, 3)}, "a network that edits pictures"),
        (lambda s: s | {f"{UNET}scaled_fp8": (0,)}, "a checkpoint in scaled 8-bit numbers"),
        (lambda s: s | {"edm_vpred.sigma_max": ()}, r"noise levels of its own \(EDM\)"),
        (lambda s: {n: v for n, v in s.items() if "label_emb.0.0" not in n}, "label_emb.0.0.weight is missing"),
        (lambda s: {n: v for n, v in s.items() if "blocks.4.1" not in n}, "blocks.4.1.transformer_blocks.0.* missing"),
        (lambda s: s | {f"{UNET}label_emb.0.0.weight": (128,)}, "fewer dimensions"),
    ],
)
def test_what_is_not_supported_is_named(change, reason):
    with pytest.raises(ModelError, match=reason):
        recognize_file(described(change(dict(shapes(XL)))), FAMILIES)


class TestExtraNetworks:
    """LoRAs in kohya's names for SDXL, which are those of the original code, and textual inversions of two encoders."""

    @pytest.fixture(scope="class")
    @classmethod
    def folder(cls, tmp_path_factory):
        folder = tmp_path_factory.mktemp("extra")
        generator = torch.Generator().manual_seed(5)
        named = {
            "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k": (64, 96),
            "lora_unet_middle_block_1_transformer_blocks_1_attn1_to_q": (128, 128),
            "lora_unet_output_blocks_5_1_proj_in": (64, 64),
            "lora_te1_text_model_encoder_layers_0_self_attn_out_proj": (32, 32),
            "lora_te2_text_model_encoder_layers_1_self_attn_out_proj": (64, 64),
        }
        lora = {}
        for name, (rows, columns) in named.items():
            lora[f"{name}.lora_down.weight"] = torch.randn(2, columns, generator=generator) / 4
            lora[f"{name}.lora_up.weight"] = torch.randn(rows, 2, generator=generator) / 4
            lora[f"{name}.alpha"] = torch.tensor(1.0)
        for place in ("loras", "embeddings"):
            (folder / place).mkdir()
        save_file(lora, folder / "loras/xl.safetensors")
        vectors = {
            "clip_l": torch.randn(2, 32, generator=generator),
            "clip_g": torch.randn(2, 64, generator=generator),
        }
        save_file(vectors, folder / "embeddings/glow.safetensors")
        return folder

    @pytest.fixture(scope="class")
    @classmethod
    def extended(cls, model, folder):
        return Model(model.info, model.identity, model.network, model.vae, model.device, ExtraNetworks(folder))

    def test_a_lora_equals_diffusers_pipeline_with_it(self, model, extended, folder, pipeline):
        from safetensors.torch import load_file

        noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
        patched = extended.for_prompt("a cat <lora:xl:0.7>")
        condition = patched.encode_prompt("a cat")
        mine = patched.network(noise, 300.0, condition)
        pipe = type(pipeline)(**{name: copy.deepcopy(part) for name, part in pipeline.components.items()})
        pipe.load_lora_weights(load_file(folder / "loras/xl.safetensors"), adapter_name="xl")
        pipe.set_adapters(["xl"], [0.7])
        text, _, pooled, _ = pipe.encode_prompt("a cat", do_classifier_free_guidance=False)
        torch.testing.assert_close(condition.tensors["text"], text, rtol=1e-5, atol=1e-5)
        added = {"text_embeds": pooled, "time_ids": torch.tensor([[64.0, 64, 0, 0, 64, 64]])}
        with torch.no_grad():
            theirs = pipe.unet(noise, 300.0, text, added_cond_kwargs=added).sample
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(mine, model.network(noise, 300.0, model.encode_prompt("a cat")), atol=1e-3)

    def test_a_textual_inversion_has_vectors_for_both_encoders(self, extended, model):
        assert extended.count_tokens("a glow")[0] == 3
        told = extended.encode_prompt("a glow").tensors["text"]
        assert told.shape == (1, 77, 96)
        plain_one = model.encode_prompt("a glow").tensors["text"]
        for mine, other in zip(told.split([32, 64], -1), plain_one.split([32, 64], -1), strict=True):
            assert not torch.equal(mine, other)

    def test_one_of_another_kind_is_refused(self, model, tmp_path):
        (tmp_path / "embeddings").mkdir()
        save_file({"emb_params": torch.ones(1, 768)}, tmp_path / "embeddings/old.safetensors")
        extended = Model(model.info, model.identity, model.network, model.vae, model.device, ExtraNetworks(tmp_path))
        with pytest.raises(ModelError, match="old was made for Stable Diffusion 1 and does not fit model mini-xl"):
            extended.encode_prompt("an old one")
