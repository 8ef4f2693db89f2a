"""What kind of model a single file holds, and the configuration of its parts, read from the shapes in it.

The facts are those of the original configurations (v1-inference.yaml, v2-inference.yaml and v2-inference-v.yaml):
shapes do not tell the number of attention heads, activations, and what the prediction is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .checkpoint_names import CLIP, OPEN_CLIP, UNET, VAE
from .model_info import ModelError
from .shapes import Tensors
from .unsupported_formats import INPUTS, foreign

SCALE = 0.18215  # of latents, so that they have unit variance (Rombach et al. 2022)
HEAD = 64  # channels of an attention head, where the number of heads follows from it
MAX_LAYERS = 64  # of a text encoder, or of a level; Stable Diffusion 2 has 24
TOKEN_NAMES = {1: "text_model.embeddings.token_embedding.weight", 2: "token_embedding.weight"}


@dataclass(frozen=True)
class Architecture:
    """The version of Stable Diffusion (1 or 2), the arguments of the three modules, and whether the file has a VAE."""

    version: int
    unet: Mapping[str, Any]
    vae: Mapping[str, Any] | None
    text: Mapping[str, Any]


def recognize(file: Tensors) -> Architecture:
    """The architecture of a checkpoint file. ModelError says what another file looks like."""
    sizes = normalized({name: shape.sizes for name, shape in file.shapes.items()})
    prefixes = {1: CLIP, 2: OPEN_CLIP}
    versions = [version for version, prefix in prefixes.items() if prefix + TOKEN_NAMES[version] in sizes]
    if f"{UNET}input_blocks.0.0.weight" not in sizes or not versions:
        raise ModelError(f"{file.path.name} looks like {foreign(file.shapes, file.facts)}")
    first = sizes[f"{UNET}input_blocks.0.0.weight"]
    if len(first) != 4:
        raise ModelError(
            f"{file.path.name} is of another kind than it looks: its first convolution has shape {list(first)}"
        )
    taken = first[1]
    if taken != 4:
        what = INPUTS.get(taken, "a network of another kind")
        raise ModelError(
            f"{file.path.name} is {what} ({taken} input channels instead of 4), which is not supported yet"
        )
    try:
        version = versions[0]
        text = text_config(version, sizes)
        vae = vae_config(sizes, VAE) if f"{VAE}decoder.conv_in.weight" in sizes else None
        return Architecture(version, unet_config(version, sizes, text["hidden_size"]), vae, text)
    except IndexError:
        raise ModelError(
            f"{file.path.name} is of another kind than it looks: a tensor has fewer dimensions than a network needs"
        ) from None
    except (KeyError, ValueError) as error:
        raise ModelError(f"{file.path.name} is not complete: {error.args[0]} is missing") from None


def normalized(sizes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Shapes by the usual names: some files leave out "text_model."."""
    return {usual(name): size for name, size in sizes.items()}


def usual(name: str) -> str:
    """The usual name of a checkpoint's tensor."""
    if name.startswith(CLIP) and not name.startswith(f"{CLIP}text_model."):
        return f"{CLIP}text_model.{name.removeprefix(CLIP)}"
    return name


def unet_config(version: int, sizes: Mapping[str, tuple[int, ...]], width: int) -> dict[str, Any]:
    """The arguments of diffusers' UNet2DConditionModel."""
    levels, layers = 4, 2
    channels = [
        sizes[f"{UNET}input_blocks.{1 + level * (layers + 1)}.0.out_layers.3.weight"][0] for level in range(levels)
    ]
    return dict(
        sample_size=64,
        in_channels=4,
        out_channels=sizes[f"{UNET}out.2.weight"][0],
        block_out_channels=channels,
        layers_per_block=layers,
        down_block_types=["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        up_block_types=["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
        cross_attention_dim=width,
        # Under this name diffusers keeps the number of heads: always 8 in version 1, of 64 channels each in 2.
        attention_head_dim=8 if version == 1 else [max(1, count // HEAD) for count in channels],
        # The attention of 2.1 overflows half precision otherwise.
        upcast_attention=version == 2,
        use_linear_projection=len(sizes[f"{UNET}input_blocks.1.1.proj_in.weight"]) == 2,
    )


def vae_config(sizes: Mapping[str, tuple[int, ...]], prefix: str) -> dict[str, Any]:
    """The arguments of diffusers' AutoencoderKL for the tensors under a prefix."""
    pattern = re.compile(rf"{re.escape(prefix)}encoder\.down\.(\d+)\.block\.0\.conv1\.weight")
    levels = sorted((int(found[1]), name) for name in sizes if (found := pattern.fullmatch(name)))
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
        scaling_factor=SCALE,
    )


def text_config(version: int, sizes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The arguments of transformers' CLIPTextConfig.

    Stable Diffusion 2 was trained on the last layer but one of OpenCLIP, so the last one is left out.
    """
    if version == 1:
        prefix, layer, hidden = f"{CLIP}text_model.", "encoder.layers", "mlp.fc1.weight"
        tokens = sizes[prefix + "embeddings.token_embedding.weight"]
        positions = sizes[prefix + "embeddings.position_embedding.weight"][0]
    else:
        prefix, layer, hidden = OPEN_CLIP, "transformer.resblocks", "mlp.c_fc.weight"
        tokens = sizes[prefix + "token_embedding.weight"]
        positions = sizes[prefix + "positional_embedding"][0]
    vocabulary, width = tokens[0], tokens[1]
    pattern = re.compile(rf"{re.escape(prefix + layer)}\.(\d+)\.")
    numbers = {int(found[1]) for name in sizes if (found := pattern.match(name))}
    # Not the largest number: a single name would ask for any number of layers.
    layers = len(numbers)
    if layers > MAX_LAYERS:
        raise ValueError(f"a text encoder of up to {MAX_LAYERS} layers")
    if gaps := set(range(layers)) - numbers:
        raise ValueError(f"{prefix}{layer}.{min(gaps)}")
    return dict(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=sizes[f"{prefix}{layer}.0.{hidden}"][0],
        projection_dim=width if version == 1 else 512,
        num_hidden_layers=layers if version == 1 else layers - 1,
        num_attention_heads=max(1, width // HEAD),
        max_position_embeddings=positions,
        hidden_act="quick_gelu" if version == 1 else "gelu",
        # As published: the pooled output, which nothing here uses, depends on it.
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=1,
    )
