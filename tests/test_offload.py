"""Weights that rest elsewhere: the same numbers come out, and what is chosen fits into the memory."""

import copy

import pytest
import torch
from safetensors.torch import save_file

from benchmarks.random_checkpoint import XL, checkpoint, save
from weights import offload, opening
from weights.extra_networks import ExtraNetworks
from weights.offload import LAYERS, NONE, TEXT, bring_for_calls, choose_offload
from weights.opening import open_model
from weights.single_file import read_single
from weights.tensors import open_tensors

CPU, GPU = torch.device("cpu"), torch.device("cuda")
SIZES = {"unet": 50, "vae": 5, "text_encoder": 2, "text_encoder_2": 13}


@pytest.fixture(scope="module")
def half_xl(tmp_path_factory):
    weights = checkpoint(XL, dtype=torch.float16)
    return read_single(save(tmp_path_factory.mktemp("xl") / "half-xl.safetensors", weights))


@pytest.mark.parametrize(
    "free, wanted, chosen",
    [
        (70, "auto", NONE),
        (69, "auto", TEXT),
        (55, "auto", TEXT),
        (54, "auto", LAYERS),
        (0, "none", NONE),
        (99, "text", TEXT),
    ],
)
def test_what_rests_in_host_memory_is_the_least_that_makes_room(monkeypatch, free, wanted, chosen):
    monkeypatch.setattr(offload, "free_memory", lambda device: free + offload.STEP_BYTES * 64 * 64)
    assert choose_offload(SIZES, GPU, 64, wanted) == chosen
    assert choose_offload(SIZES, CPU, 64, "layers") == NONE


def test_a_layer_is_brought_for_its_call_and_kept_as_it_was():
    torch.manual_seed(0)
    whole = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2)).eval()
    half, x = copy.deepcopy(whole).half().requires_grad_(False), torch.randn(3, 4)
    kept = [parameter.data_ptr() for parameter in half.parameters()]
    bring_for_calls(half, CPU, torch.float32)
    with torch.inference_mode():
        torch.testing.assert_close(half(x), whole.half().float()(x), rtol=0, atol=0)
    with pytest.raises(RuntimeError):
        half(x[:, :3])
    assert [parameter.data_ptr() for parameter in half.parameters()] == kept


def test_text_encoders_in_half_precision_say_the_same(half_xl, monkeypatch, tmp_path):
    """Prompts, LoRAs and textual inversions, to the last bit."""
    plain = open_model(half_xl, "cpu")
    monkeypatch.setattr(opening, "LARGE", 0)
    small = open_model(half_xl, "cpu")
    encoder = small.network.second.encoder
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float16}
    assert {parameter.dtype for parameter in small.network.unet.parameters()} == {torch.float32}
    for folder in ("loras", "embeddings"):
        (tmp_path / folder).mkdir()
    name = "lora_te2_text_model_encoder_layers_1_self_attn_out_proj"
    lora = {"lora_down.weight": torch.rand(2, 64), "lora_up.weight": torch.rand(64, 2), "dora_scale": torch.rand(64, 1)}
    save_file({f"{name}.{end}": tensor for end, tensor in lora.items()}, tmp_path / "loras/one.safetensors")
    vectors = {"clip_l": torch.rand(1, 32), "clip_g": torch.rand(1, 64)}
    save_file(vectors, tmp_path / "embeddings/glow.safetensors")
    told = []
    for model in (plain, small):
        model.extra = ExtraNetworks(tmp_path)
        patched = model.for_prompt("a cat <lora:one>")
        told.append([each.encode_prompt("a (glow:1.2) cat").tensors for each in (model, patched)])
    for mine, other in zip(*told, strict=True):
        assert all(torch.equal(mine[name], other[name]) for name in mine)
    assert not torch.equal(told[0][0]["pooled"], told[0][1]["pooled"])


def test_tensors_are_read_and_not_mapped(tmp_path):
    """What is mapped counts as memory, and changes with the file."""
    tensors = {
        "b": torch.randn(3, 4, dtype=torch.bfloat16),
        "a": torch.randn(5),
        "none": torch.zeros(0),
        "one": torch.ones(()),
    }
    save_file(tensors, path := tmp_path / "some.safetensors")
    with open_tensors(path) as file:
        read = {name: file.get(name) for name in file.shapes}
        path.write_bytes(b"\0" * path.stat().st_size)
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)
