"""The kinds of LoRAs: what LyCORIS and PEFT make of the same tensors."""

import copy
import json

import pytest
import torch
from loras import ALPHA, RANK, close, random
from safetensors.torch import save_file

from weights.lora import Strength, applied, changes_of
from weights.lora_file import read_lora
from weights.lora_layers import LayerChange, as_applied


class Layers(torch.nn.Module):
    """A layer of each class that can be changed."""

    def __init__(self):
        super().__init__()
        self.linear, self.conv = torch.nn.Linear(24, 32), torch.nn.Conv2d(24, 32, 3, 2, 1)
        self.norm, self.group = torch.nn.LayerNorm(24), torch.nn.GroupNorm(4, 24)

    def forward(self, x):
        last = x.movedim(1, -1)
        return self.linear(last), self.conv(x), self.norm(last), self.group(x)


def spread(*shape: int, seed: int = 0) -> torch.Tensor:
    return random(*shape, seed=seed) * 3


def glora(*kernel: int) -> dict[str, torch.Tensor]:
    """Of a layer (32, 24, *kernel)."""
    r, ones = RANK, [1] * len(kernel)
    return {
        "a1.weight": spread(24, r, *ones),
        "a2.weight": spread(r, 24, *ones, seed=1),
        "b1.weight": spread(32, r, *ones, seed=2),
        "b2.weight": spread(r, 24, *kernel, seed=3),
    }


def lycoris_cases() -> dict[str, tuple[str, dict[str, torch.Tensor]]]:
    """Changes of a linear layer (32, 24), of a convolution (32, 24, 3, 3) and of norms of 24, by LyCORIS' names."""
    r, s = RANK, spread
    second = dict(hada_w2_a=s(32, r, seed=2), hada_w2_b=s(r, 24, seed=3))
    alpha, held = dict(alpha=torch.tensor(ALPHA)), dict(alpha=torch.tensor(0.02))
    rescale = s(32, 1).abs() + 0.5
    return {
        "loha": ("linear", dict(hada_w1_a=s(32, r), hada_w1_b=s(r, 24), **second, **alpha)),
        "loha tucker": (
            "conv",
            dict(
                hada_t1=s(r, r, 3, 3), hada_w1_a=s(r, 32), hada_w1_b=s(r, 24),
                hada_t2=s(r, r, 3, 3, seed=4), hada_w2_a=s(r, 32, seed=2), hada_w2_b=s(r, 24, seed=3), **alpha,
            ),
        ),
        "lokr whole": ("linear", dict(lokr_w1=s(4, 4), lokr_w2=s(8, 6), **alpha)),
        "lokr low rank": ("linear", dict(lokr_w1=s(4, 4), lokr_w2_a=s(8, r), lokr_w2_b=s(r, 6), **alpha)),
        "lokr conv": ("conv", dict(lokr_w1=s(4, 4), lokr_w2_a=s(8, r), lokr_w2_b=s(r, 6 * 9), **alpha)),
        "locon tucker": (
            "conv",
            {
                "lora_down.weight": s(r, 24, 1, 1),
                "lora_mid.weight": s(r, r, 3, 3),
                "lora_up.weight": s(32, r, 1, 1),
            } | alpha,
        ),
        "dora": (
            "linear",
            {"lora_down.weight": s(r, 24), "lora_up.weight": s(32, r), "dora_scale": s(32, 1).abs() + 1} | alpha,
        ),
        "full": ("linear", dict(diff=s(32, 24), diff_b=s(32))),
        "norm": ("norm", dict(w_norm=s(24), b_norm=s(24, seed=1))),
        "norm of groups": ("group", dict(w_norm=s(24), b_norm=s(24, seed=1))),
        "glora": ("linear", glora() | alpha),
        "glora conv": ("conv", glora(3, 3) | alpha),
        "oft": ("linear", dict(oft_blocks=s(8, 4, 4), **alpha)),
        "oft conv, held": ("conv", dict(oft_blocks=s(8, 4, 4), **held)),
        "oft rescaled": ("linear", dict(oft_blocks=s(8, 4, 4), rescale=rescale, **alpha)),
        "boft": ("linear", dict(oft_blocks=s(4, 8, 4, 4), **alpha)),
        "boft conv, held": ("conv", dict(oft_blocks=s(4, 8, 4, 4), **held)),
        "boft rescaled": ("linear", dict(oft_blocks=s(4, 8, 4, 4), rescale=rescale, **alpha)),
    }  # fmt: skip


# LyCORIS mixes a DoRA with the plain layer at other strengths than 1, which PEFT and diffusers do not, and rescales by
# the whole of m at any strength.
AT_ONE = ("dora", "oft rescaled", "boft rescaled")


@pytest.mark.parametrize("case", lycoris_cases())
def test_lycoris_own_kinds_are_what_lycoris_makes_of_them(case, tmp_path):
    wrapper = pytest.importorskip("lycoris.wrapper")
    torch.manual_seed(0)
    module, x = Layers(), random(2, 24, 5, 5)
    layer, tensors = lycoris_cases()[case]
    file = {f"lycoris_{layer}.{name}": tensor.contiguous() for name, tensor in tensors.items()}
    strength = 1.0 if case in AT_ONE else 0.7
    save_file(file, path := tmp_path / "one.safetensors")
    with torch.no_grad():
        with applied(changes_of([(read_lora(path, "one"), Strength(strength, strength))], {"unet": module}, "some")):
            mine = module(x)
        plain = module(x)
        wrapped, _ = wrapper.create_lycoris_from_weights(strength, "", module, dict(file))
        assert len(wrapped.loras) == 1
        wrapped.apply_to()
        close(mine, module(x))
    assert any((one - other).abs().max() > 1e-2 for one, other in zip(mine, plain, strict=True))


def test_a_kronecker_product_with_a_core_is_lycoris_own():
    lokr = pytest.importorskip("lycoris.functional.lokr")
    r, s = RANK, random
    parts = dict(lokr_w1=s(4, 4), lokr_t2=s(r, r, 3, 3), lokr_w2_a=s(r, 8), lokr_w2_b=s(r, 6))
    # LyCORIS' reader takes the rank of such files for another number; its formula does not.
    theirs = lokr.kron_weight(
        parts["lokr_w1"], None, None, None, parts["lokr_w2_a"], parts["lokr_w2_b"], parts["lokr_t2"]
    )
    torch.testing.assert_close(LayerChange(torch.nn.Conv2d(24, 32, 3), parts, 1.0).weight(), theirs)


def test_an_early_glora_has_its_names_the_other_way_around():
    late = {name.removesuffix(".weight"): tensor for name, tensor in glora().items()}
    early = dict(a1=late["a2"], a2=late["a1"], b1=late["b2"], b2=late["b1"])
    assert as_applied(late, ALPHA) == late and as_applied(early, ALPHA) == late


def test_a_rotation_keeps_the_lengths_of_blocks_and_kohyas_names_are_read(tmp_path):
    """An orthogonal R leaves the norm of a block of outputs as it is, whatever the input."""
    torch.manual_seed(0)
    module, x = torch.nn.ModuleDict({"to_q": torch.nn.Linear(24, 32)}), random(5, 24)
    file = {"oft_unet_to_q.oft_blocks": spread(8, 4, 4), "oft_unet_to_q.alpha": torch.tensor(1e-3)}
    save_file(file, path := tmp_path / "one.safetensors")
    layer, lengths = module["to_q"], lambda y: (y - layer.bias).unflatten(-1, (8, 4)).norm(dim=-1)
    with torch.no_grad():
        plain = layer(x)
        with applied(changes_of([(read_lora(path, "one"), Strength())], {"unet": module}, "some")):
            turned = layer(x)
        torch.testing.assert_close(lengths(turned), lengths(plain))
        assert not torch.allclose(turned, plain, atol=1e-3)


def test_a_rank_stabilized_one_is_what_peft_makes_of_it(tmp_path):
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    module = torch.nn.ModuleDict({"linear": torch.nn.Linear(24, 32)})
    plain = copy.deepcopy(module)
    config = peft.LoraConfig(r=9, lora_alpha=4, use_rslora=True, target_modules=["linear"], init_lora_weights=False)
    wrapped, x = peft.inject_adapter_in_model(config, module), random(2, 24)
    tensors = {f"base_model.model.{name}": t for name, t in peft.get_peft_model_state_dict(wrapped).items()}
    metadata = {"lora_adapter_metadata": json.dumps({"lora_alpha": 4, "r": 9, "use_rslora": True})}
    save_file(tensors, path := tmp_path / "one.safetensors", metadata)
    with torch.no_grad(), applied(changes_of([(read_lora(path, "one"), Strength())], {"unet": plain}, "some")):
        torch.testing.assert_close(plain["linear"](x), wrapped["linear"](x))
