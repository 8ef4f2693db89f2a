"""Where the original Stable Diffusion code (CompVis, Stability AI) keeps what diffusers and transformers call otherwise.

Every function goes from the name that a module of diffusers or transformers wants to the name in the checkpoint, so
that whatever a module needs is asked for, and a checkpoint's other tensors are simply not.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

UNET, VAE = "model.diffusion_model.", "first_stage_model."
EMA = "model_ema."
CLIP, OPEN_CLIP = "cond_stage_model.transformer.", "cond_stage_model.model."

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
OPEN_CLIP_LAYER = {
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
OPEN_CLIP_ENDS = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}


@dataclass(frozen=True)
class Source:
    """Where a tensor lies in a checkpoint: its name, and which third of it is meant where three are stored as one."""

    name: str
    third: int | None = None


Naming = Callable[[str], Source]


def unet_source(name: str, layers: int) -> Source:
    """The UNet's tensor `name`; `layers` is the number of residual blocks of a level."""
    module, _, leaf = name.rpartition(".")
    if module in UNET_ENDS:
        return Source(f"{UNET}{UNET_ENDS[module]}.{leaf}")
    if found := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)", name):
        kind, index, rest = found[1], int(found[2]), found[3]
        place = 2 * index + (kind == "attentions")
        return Source(f"{UNET}middle_block.{place}.{_inner(kind, rest)}")
    found = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)", name)
    if not found:
        return Source(UNET + name)
    side, level, kind, index, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
    if kind == "downsamplers":
        return Source(f"{UNET}input_blocks.{(level + 1) * (layers + 1)}.0.op.{leaf}")
    if kind == "upsamplers":
        # It follows the last residual block and, on all levels but the lowest, its attention.
        return Source(f"{UNET}output_blocks.{level * (layers + 1) + layers}.{1 if level == 0 else 2}.conv.{leaf}")
    block = (
        f"input_blocks.{1 + level * (layers + 1) + index}"
        if side == "down"
        else f"output_blocks.{level * (layers + 1) + index}"
    )
    return Source(f"{UNET}{block}.{int(kind == 'attentions')}.{_inner(kind, rest)}")


def ema_source(source: Source) -> Source:
    """The running average of a UNet tensor: LitEma's names have lost the dots."""
    return Source(EMA + source.name.removeprefix("model.").replace(".", ""), source.third)


def vae_source(name: str, levels: int) -> Source:
    """The VAE's tensor `name`, without prefix; the decoder's levels count from the other end."""
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = re.sub(r"mid_block\.resnets\.(\d+)", lambda found: f"mid.block_{int(found[1]) + 1}", name)
    if found := re.fullmatch(r"(\w+)\.mid_block\.attentions\.0\.(.+)\.(weight|bias)", name):
        return Source(f"{found[1]}.mid.attn_1.{VAE_ATTENTION[found[2]]}.{found[3]}")
    name = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", name)
    name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d+)\.resnets", lambda found: f"up.{levels - 1 - int(found[1])}.block", name)
    name = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda found: f"up.{levels - 1 - int(found[1])}.upsample", name)
    return Source(name)


def clip_source(name: str) -> Source:
    """The tensor `name` of Stable Diffusion 1's text encoder, which is transformers' own."""
    return Source(f"{CLIP}text_model.{name.removeprefix('text_model.')}")


def open_clip_source(name: str) -> Source:
    """The tensor `name` of Stable Diffusion 2's text encoder, OpenCLIP; query, key and value are stored as one."""
    name = name.removeprefix("text_model.")
    if name in OPEN_CLIP_ENDS:
        return Source(OPEN_CLIP + OPEN_CLIP_ENDS[name])
    layer, rest = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)", name).groups()
    block = f"{OPEN_CLIP}transformer.resblocks.{layer}."
    if found := re.fullmatch(r"self_attn\.([qkv])_proj\.(weight|bias)", rest):
        return Source(f"{block}attn.in_proj_{found[2]}", "qkv".index(found[1]))
    module, _, leaf = rest.rpartition(".")
    return Source(f"{block}{OPEN_CLIP_LAYER[module]}.{leaf}")


def _inner(kind: str, rest: str) -> str:
    """A residual block's layer under its old name; attention has kept its names."""
    if kind == "attentions":
        return rest
    module, _, leaf = rest.rpartition(".")
    return f"{RESNET[module]}.{leaf}"
