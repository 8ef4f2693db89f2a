"""The UNet in checkpoints of the original latent diffusion code (CompVis, Stability AI), which diffusers renames.

Names go from diffusers' to the checkpoint's, so that every tensor that a module needs is asked for and the others of a
checkpoint are not.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from dataclasses import replace
from typing import Any

from ..module_part import ModulePart, Source, empty_part
from ..tensors import TensorFile

UNET, EMA = "model.diffusion_model.", "model_ema."
ATTENDED = (1, 2, 3)  # levels of the way up, from the lowest one on, that have attention in Stable Diffusion 1 and 2

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
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
# The embedding of the guidance scale: the original code has none, and whoever converts to its names takes one of these.
GUIDANCE = tuple(f"{UNET}{module}.cond_proj.weight" for module in ("time_embedding", "time_embed"))
# Names in a running average, which has no dots: LitEma takes them out. A block's last digit is its layer's number.
DOTLESS = re.compile(
    re.escape(EMA) + r"diffusion_model"
    r"(?:(input_blocks|output_blocks)(\d+)(\d)|(middle_block|time_embed|out)(\d)|(label_emb)(\d)(\d))(.*)"
)
LEAVES = re.compile(
    r"(?:in_layers|out_layers|emb_layers|transformer_blocks|to_out|net)(?=\d)|skip_connection|proj_in|proj_out|proj"
    r"|attn[12]|to_[qkv]|ff|norm[123]?|op|conv|weight|bias|\d"
)


def unet_part(
    file: TensorFile, config: Mapping[str, Any], layers: int, attended: Container[int] = ATTENDED
) -> ModulePart:
    """The UNet of a checkpoint, still empty; see `unet_source`. Its running average, where the file has all of it.

    config  the arguments of the module
    """
    from diffusers import UNet2DConditionModel

    def source(name: str) -> Source:
        found = unet_source(name, layers, attended)
        return Source(GUIDANCE[1]) if found.name == GUIDANCE[0] not in file.shapes else found

    return _averaged(empty_part(lambda: UNet2DConditionModel(**config), file, source))


def guidance_width(sizes: Mapping[str, tuple[int, ...]]) -> int | None:
    """The width of the embedding of the guidance scale that a UNet takes; None for one that takes none.

    Raises IndexError for a tensor of fewer dimensions.
    """
    return next((sizes[name][1] for name in GUIDANCE if name in sizes), None)


def unet_source(name: str, layers: int, attended: Container[int] = ATTENDED) -> Source:
    """The UNet's tensor `name`.

    layers    residual blocks of a level
    attended  levels of the way up, from the lowest one on, that have attention
    """
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
        # It follows the last residual block and, where there is one, its attention.
        place = 2 if level in attended else 1
        return Source(f"{UNET}output_blocks.{level * (layers + 1) + layers}.{place}.conv.{leaf}")
    block = (
        f"input_blocks.{1 + level * (layers + 1) + index}"
        if side == "down"
        else f"output_blocks.{level * (layers + 1) + index}"
    )
    return Source(f"{UNET}{block}.{int(kind == 'attentions')}.{_block_name(kind, rest)}")


def original_names(unet: Any) -> dict[str, str]:
    """The original name of each module of a UNet of diffusers' by its name there; that of another module is its own."""
    attended = [level for level, kind in enumerate(unet.config.up_block_types) if "CrossAttn" in kind]
    layers = unet.config.layers_per_block
    names = [name for name, module in unet.named_modules() if getattr(module, "weight", None) is not None]
    sources = {name: unet_source(f"{name}.weight", layers, attended).name for name in names}
    return {name: source.removeprefix(UNET).removesuffix(".weight") for name, source in sources.items()}


def with_dotted_averages(file: TensorFile) -> TensorFile:
    """A file whose UNet is there as a running average alone, with the UNet's usual names beside those; else the file.

    They stand for shapes only: `unet_part` reads the average.
    """
    if any(name.startswith(UNET) for name in file.shapes):
        return file
    found = ((DOTLESS.fullmatch(name), shape) for name, shape in file.shapes.items() if name.startswith(EMA))
    dotted = {UNET + _dotted(match): shape for match, shape in found if match}
    return replace(file, shapes={**file.shapes, **dotted}) if dotted else file


def _dotted(match: re.Match[str]) -> str:
    place = [part for part in match.groups()[:-1] if part]
    return ".".join([*place, *LEAVES.findall(match.groups()[-1])])


def _averaged(part: ModulePart) -> ModulePart:
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
