"""The VAE in checkpoints of the original latent diffusion code, or alone in a file beside one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..model_info import ModelError
from ..module_part import ModulePart, Source, empty_part
from ..tensors import TensorFile

VAE = "first_stage_model."
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def is_vae(file: TensorFile) -> bool:
    """Whether a file has a VAE's decoder, under any usual prefix and in any naming."""
    return any(name.removeprefix(VAE).startswith("decoder.conv_in") for name in file.shapes)


def vae_part(file: TensorFile, config: Mapping[str, Any] | None, vae: TensorFile | None, scale: float) -> ModulePart:
    """The VAE of a checkpoint: that of the file `vae` if there is one, else its own. Raises ModelError.

    config  of its own, see `vae_config`; None if it has none
    """
    if vae is not None:
        return separate_vae(vae, scale)
    if config is None:
        raise ModelError(f"{file.path.name} has no VAE")
    return _part(file, VAE, config)


def separate_vae(file: TensorFile, scale: float) -> ModulePart:
    """The VAE of a file of its own, with or without the prefix that it has in a checkpoint. Raises ModelError."""
    prefix = VAE if f"{VAE}decoder.conv_in.weight" in file.shapes else ""
    if f"{prefix}encoder.down.0.block.0.conv1.weight" not in file.shapes:
        raise ModelError(f"{file.path.name} is a VAE with diffusers' names; use the one with the original names")
    try:
        config = vae_config(file.sizes, prefix, scale)
    except (KeyError, IndexError, ValueError) as error:
        raise ModelError(f"{file.path.name} is not a VAE for Stable Diffusion: {error.args[0]} is missing") from None
    return _part(file, prefix, config)


def _part(file: TensorFile, prefix: str, config: Mapping[str, Any]) -> ModulePart:
    from diffusers import AutoencoderKL

    return empty_part(lambda: AutoencoderKL(**config), file, lambda name: Source(prefix + vae_name(name, levels=4)))


def own_vae_config(sizes: Mapping[str, tuple[int, ...]], scale: float) -> dict[str, Any] | None:
    """The same as `vae_config` for the VAE of a checkpoint itself; None if it has none."""
    return vae_config(sizes, VAE, scale) if f"{VAE}decoder.conv_in.weight" in sizes else None


def vae_config(sizes: Mapping[str, tuple[int, ...]], prefix: str, scale: float) -> dict[str, Any]:
    """The arguments of diffusers' AutoencoderKL for the tensors under a prefix.

    scale  of latents, so that they have unit variance
    Raises KeyError, IndexError or ValueError with the name of what is missing.
    """
    pattern = re.compile(rf"{re.escape(prefix)}encoder\.down\.(\d+)\.block\.0\.conv1\.weight")
    levels = sorted((int(match[1]), name) for name in sizes if (match := pattern.fullmatch(name)))
    channels = [sizes[name][0] for _, name in levels]
    latent = sizes[f"{prefix}decoder.conv_in.weight"][1]
    if latent != 4 or len(channels) != 4:
        raise ValueError("a VAE of 4 latent channels and 4 levels")
    return dict(
        block_out_channels=channels,
        layers_per_block=2,
        latent_channels=latent,
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        sample_size=512,
        scaling_factor=scale,
    )


def vae_name(name: str, levels: int) -> str:
    """The original name, without prefix, of diffusers' `name`; the decoder's levels count from the other end."""
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = re.sub(r"mid_block\.resnets\.(\d+)", lambda match: f"mid.block_{int(match[1]) + 1}", name)
    if match := re.fullmatch(r"(\w+)\.mid_block\.attentions\.0\.(.+)\.(weight|bias)", name):
        return f"{match[1]}.mid.attn_1.{VAE_ATTENTION[match[2]]}.{match[3]}"
    name = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", name)
    name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d+)\.resnets", lambda match: f"up.{levels - 1 - int(match[1])}.block", name)
    name = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda match: f"up.{levels - 1 - int(match[1])}.upsample", name)
    return name
