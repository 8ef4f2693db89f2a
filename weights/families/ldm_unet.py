"""The UNet in checkpoints of the original latent diffusion code (CompVis, Stability AI), which diffusers renames.

Names go from diffusers' to the checkpoint's, so that every tensor that a module needs is asked for and the others of a
checkpoint are not.
"""

from __future__ import annotations

import re
from dataclasses import replace

from ..module_part import ModulePart, Source

UNET, EMA = "model.diffusion_model.", "model_ema."

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


def unet_source(name: str, layers: int) -> Source:
    """The UNet's tensor `name`; `layers` is the number of residual blocks of a level."""
    module, _, leaf = name.rpartition(".")
    if module in UNET_ENDS:
        return Source(f"{UNET}{UNET_ENDS[module]}.{leaf}")
    if match := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)", name):
        kind, index, rest = match[1], int(match[2]), match[3]
        place = 2 * index + (kind == "attentions")
        return Source(f"{UNET}middle_block.{place}.{_block_name(kind, rest)}")
    match = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)", name)
    if not match:
        return Source(UNET + name)
    side, level, kind, index, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
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
    return Source(f"{UNET}{block}.{int(kind == 'attentions')}.{_block_name(kind, rest)}")


def averaged(part: ModulePart) -> ModulePart:
    """The UNet from its running average, where the file has all of it: pictures are made with the average."""
    sources = {name: _ema_source(source) for name, source in part.sources.items()}
    return replace(part, sources=sources) if all(s.name in part.file.shapes for s in sources.values()) else part


def _ema_source(source: Source) -> Source:
    """The running average of a UNet tensor: LitEma removes the dots from names."""
    return Source(EMA + source.name.removeprefix("model.").replace(".", ""), source.third)


def _block_name(kind: str, rest: str) -> str:
    """A layer of a residual block under its original name; attention kept its names."""
    if kind == "attentions":
        return rest
    module, _, leaf = rest.rpartition(".")
    return f"{RESNET[module]}.{leaf}"
