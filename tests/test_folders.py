"""Folders in diffusers' format that are not whole, and the forms in which whole ones come."""

import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from conftest import ROOT
from oracles import states
from safetensors.torch import load_file, save_file

from weights.diffusers_folder import read_folder
from weights.model_info import ModelError
from weights.opening import check_model, open_model

EMOJI = ROOT / "weights" / "emoji"
STEMS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}


@pytest.fixture
def folder(tmp_path):
    """A copy of the embedded model."""
    return shutil.copytree(EMOJI, tmp_path / "copy")


def weights_of(folder, part):
    return folder / part / f"{STEMS[part]}.safetensors"


def replace(folder, part, change):
    file = weights_of(folder, part)
    save_file(change(load_file(file)), file)


def configure(folder, name, **values):
    file = folder / name
    given = {key: value for key, value in (json.loads(file.read_text()) | values).items() if value is not ...}
    file.write_text(json.dumps(given))


def without(start):
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if start not in name}


def reason(folder):
    """Why a folder cannot be used: before another model is let go, and the same where none is open."""
    info = read_folder(folder)
    with pytest.raises(ModelError) as checked:
        check_model(info)
    with pytest.raises(ModelError) as opened:
        open_model(info, "cpu")
    assert str(opened.value) == str(checked.value)
    assert str(folder.parent) not in str(checked.value)
    return str(checked.value)


@pytest.mark.parametrize(
    "part, lost", [("text_encoder", "mlp.fc1"), ("unet", "mid_block.resnets.0"), ("vae", "decoder.conv_in")]
)
def test_a_part_with_tensors_missing_is_refused(folder, part, lost):
    replace(folder, part, without(lost))
    said = reason(folder)
    assert said.startswith(f"model copy: {part}/{STEMS[part]}.safetensors is not complete: ") and lost in said


def test_something_else_in_the_place_of_a_part_is_refused(folder):
    replace(folder, "text_encoder", lambda tensors: {"lora_te_text_model.lora_up.weight": torch.zeros(2, 2)})
    assert "text_encoder/model.safetensors is not complete" in reason(folder)


def test_a_tensor_of_another_shape_is_refused(folder):
    replace(folder, "vae", lambda tensors: tensors | {"decoder.conv_in.bias": torch.zeros(7)})
    assert "vae/diffusion_pytorch_model.safetensors is not a supported checkpoint" in reason(folder)


def test_a_tokenizer_that_is_missing_or_has_no_vocabulary_is_refused(folder):
    for file in ("tokenizer.json", "merges.txt"):
        (folder / "tokenizer" / file).unlink()
    expected = "model copy: tokenizer/vocab.json or merges.txt is missing; copy the whole diffusers folder"
    assert reason(folder) == expected
    shutil.rmtree(folder / "tokenizer")
    assert reason(folder) == expected


@pytest.mark.parametrize(
    "file, values, said",
    [
        (
            "tokenizer/tokenizer_config.json",
            {"model_max_length": 2},
            "tokenizer/tokenizer_config.json: model_max_length is 2",
        ),
        ("tokenizer/tokenizer_config.json", {"model_max_length": "x"}, "cannot be opened: tokenizer/: "),
        (
            "text_encoder/config.json",
            {"num_hidden_layers": 10**9},
            "num_hidden_layers is 1000000000; allowed are up to 64",
        ),
        ("unet/config.json", {"layers_per_block": [[1, 10**9]]}, "layers_per_block is .* allowed are up to 64"),
        ("unet/config.json", {"norm_num_groups": 7}, "model copy cannot be opened: unet/: "),
        ("text_encoder/config.json", {"hidden_size": 100}, "model copy.*text_encoder/"),
    ],
)
def test_configurations_that_cannot_be_are_refused(folder, file, values, said):
    configure(folder, file, **values)
    assert re.search(said, reason(folder))


def test_a_missing_configuration_is_named(folder):
    (folder / "text_encoder" / "config.json").unlink()
    assert reason(folder) == "model copy: text_encoder/config.json is missing; copy the whole diffusers folder"


@pytest.mark.parametrize("longest", [..., 77])  # without a length transformers takes 10**30
def test_a_tokenizer_allows_no_more_tokens_than_the_text_encoder_takes(folder, emoji, longest):
    configure(folder, "tokenizer/tokenizer_config.json", model_max_length=longest)
    info = read_folder(folder)
    check_model(info)
    model = open_model(info, "cpu")
    assert torch.equal(states(model, "a red apple, " * 20), states(emoji, "a red apple, " * 20))


def prefixed(folder):
    ids = {"text_model.embeddings.position_ids": torch.arange(32)[None]}
    replace(folder, "text_encoder", lambda tensors: {f"text_model.{n}": t for n, t in tensors.items()} | ids)


def halves(folder):
    for part, stem in STEMS.items():
        weights_of(folder, part).rename(folder / part / f"{stem}.fp16.safetensors")


def shards(folder):
    for part, stem in STEMS.items():
        file, kept = weights_of(folder, part), {}
        tensors = load_file(file)
        for number in (1, 2):
            name = f"{stem}-{number:05}-of-00002.safetensors"
            some = dict(sorted(tensors.items())[number - 1 :: 2])
            save_file(some, folder / part / name, {"format": "pt"})
            kept |= dict.fromkeys(some, name)
        size = sum(tensor.nbytes for tensor in tensors.values())
        index = {"metadata": {"total_size": size}, "weight_map": kept}
        (folder / part / f"{stem}.safetensors.index.json").write_text(json.dumps(index))
        file.unlink()


def others(folder):
    """What published folders have beside it."""
    save_file({"a": torch.zeros(1)}, folder / "unet" / "diffusion_pytorch_model.non_ema.safetensors")
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"x")
    replace(folder, "unet", lambda tensors: tensors | {"more": torch.zeros(1)})


@pytest.mark.parametrize("form", [prefixed, halves, shards, others], ids=lambda form: form.__name__)
def test_whole_folders_are_taken_in_every_form(folder, emoji, form):
    form(folder)
    info = read_folder(folder)
    check_model(info)
    model = open_model(info, "cpu")
    for mine, theirs in (
        (model.network.unet, emoji.network.unet),
        (model.vae.module, emoji.vae.module),
        (model.network.prompts.encoder, emoji.network.prompts.encoder),
    ):
        mine, theirs = mine.state_dict(), theirs.state_dict()
        assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_a_copy_has_the_digests_of_its_original(folder, emoji):
    assert len(emoji.identity.parts) == 10 and open_model(read_folder(folder), "cpu").identity == emoji.identity


@pytest.mark.parametrize("part", ["text_encoder", "vae", "tokenizer"])
def test_a_digest_tells_when_another_part_than_the_unet_has_changed(folder, emoji, part):
    if part == "tokenizer":
        file = folder / part / "tokenizer.json"
        file.write_text(file.read_text() + "\n")
    else:
        replace(folder, part, lambda tensors: {name: tensor * 2 for name, tensor in tensors.items()})
    changed = open_model(read_folder(folder), "cpu")
    assert changed.identity.weights == emoji.identity.weights and changed.identity.parts != emoji.identity.parts


def test_a_missing_shard_is_noticed(folder):
    shards(folder)
    (folder / "vae" / "diffusion_pytorch_model-00002-of-00002.safetensors").unlink()
    assert "vae/diffusion_pytorch_model-00001-of-00002.safetensors is not complete" in reason(folder)


def test_the_old_names_of_a_vaes_attention_are_known(folder):
    from diffusers import AutoencoderKL

    config = AutoencoderKL.load_config(folder / "vae") | {"mid_block_add_attention": True}
    made = AutoencoderKL.from_config(config)
    made.save_pretrained(folder / "vae")
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}

    def rename(name):
        return next((name.replace(*pair) for pair in old.items() if pair[0] in name), name)

    replace(folder, "vae", lambda tensors: {rename(name): tensor for name, tensor in tensors.items()})
    assert "decoder.mid_block.attentions.0.proj_attn.weight" in load_file(weights_of(folder, "vae"))
    info = read_folder(folder)
    check_model(info)
    mine = open_model(info, "cpu").vae.module.state_dict()
    assert all(torch.equal(mine[name], tensor) for name, tensor in made.state_dict().items())


@pytest.mark.parametrize(
    "values, what",
    [
        ({"class_embed_type": "timestep"}, "a network with a class input, such as unCLIP"),
        ({"num_class_embeds": 1000}, "a network with a class input"),
    ],
)
def test_a_network_that_wants_more_input_is_named(folder, values, what):
    configure(folder, "unet/config.json", **values)
    with pytest.raises(ModelError, match=f"is {what}, which is not supported"):
        read_folder(folder)


def test_two_are_opened_at_once(emoji):
    """Several devices open their models in threads of one process."""
    with ThreadPoolExecutor(2) as pool:
        models = list(
            pool.map(lambda name: open_model(read_folder(ROOT / "weights" / name), "cpu"), ("emoji", "emoji-flow"))
        )
    assert all(not weight.is_meta for model in models for weight in model.network.unet.parameters())
    assert models[0].identity == emoji.identity
