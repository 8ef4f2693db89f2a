"""Stable Diffusion checkpoints with random weights: the original code's names and shapes, at any width.

Written after the original architecture (openaimodel.py, model.py of the autoencoder, CLIP), block by block, and not
from the names that are under test.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

Shapes = Iterator[tuple[str, tuple[int, ...]]]


@dataclass(frozen=True)
class Width:
    """Size of a checkpoint: channels of the UNet and of the VAE's first level, width and layers of the text encoder.

    depths           transformer blocks at a place of each level of the UNet
    second, second_layers  width and layers of a second text encoder
    middle           transformer blocks in the middle
    told             numbers beside the pooled vector
    """

    unet: int
    vae: int
    text: int
    layers: int
    tokens: int = 49408
    taken: int = 4
    depths: tuple[int, ...] = (1, 1, 1, 0)
    second: int = 0
    second_layers: int = 0
    middle: int = 1
    told: int = 6


XL, REFINER = 3, 4  # among versions
MINI = {
    1: Width(32, 32, 64, 2),
    2: Width(64, 32, 64, 3),
    XL: Width(32, 32, 32, 3, depths=(0, 1, 2), second=64, second_layers=4, middle=2),
    REFINER: Width(32, 32, 0, 0, depths=(0, 1, 1, 0), second=64, second_layers=3, middle=2, told=5),
}
TRUE = {
    1: Width(320, 128, 768, 12),
    2: Width(320, 128, 1024, 24),
    XL: Width(320, 128, 768, 12, depths=(0, 2, 10), second=1280, second_layers=32, middle=10),
    REFINER: Width(384, 128, 0, 0, depths=(0, 4, 4, 0), second=1280, second_layers=32, middle=4, told=5),
}


def layer(name: str, *sizes: int) -> Shapes:
    yield f"{name}.weight", sizes
    yield f"{name}.bias", sizes[:1]


def resblock(name: str, taken: int, made: int, time: int) -> Shapes:
    yield from layer(f"{name}.in_layers.0", taken)
    yield from layer(f"{name}.in_layers.2", made, taken, 3, 3)
    yield from layer(f"{name}.emb_layers.1", made, time)
    yield from layer(f"{name}.out_layers.0", made)
    yield from layer(f"{name}.out_layers.3", made, made, 3, 3)
    if taken != made:
        yield from layer(f"{name}.skip_connection", made, taken, 1, 1)


def transformer(name: str, width: int, context: int, linear: bool, depth: int) -> Shapes:
    pixel = () if linear else (1, 1)
    yield from layer(f"{name}.norm", width)
    yield from layer(f"{name}.proj_in", width, width, *pixel)
    for block in (f"{name}.transformer_blocks.{number}" for number in range(depth)):
        for attention, source in (("attn1", width), ("attn2", context)):
            yield f"{block}.{attention}.to_q.weight", (width, width)
            yield f"{block}.{attention}.to_k.weight", (width, source)
            yield f"{block}.{attention}.to_v.weight", (width, source)
            yield from layer(f"{block}.{attention}.to_out.0", width, width)
        yield from layer(f"{block}.ff.net.0.proj", 8 * width, width)
        yield from layer(f"{block}.ff.net.2", width, 4 * width)
        for norm in ("norm1", "norm2", "norm3"):
            yield from layer(f"{block}.{norm}", width)
    yield from layer(f"{name}.proj_out", width, width, *pixel)


def unet(version: int, width: Width) -> Shapes:
    base, time, context, linear = width.unet, 4 * width.unet, width.text + width.second, version != 1
    lowest = len(width.depths) - 1
    levels = list(enumerate(zip((1, 2, 4, 4), width.depths, strict=False)))
    yield from layer("time_embed.0", time, base)
    yield from layer("time_embed.2", time, time)
    if width.second:
        yield from layer("label_emb.0.0", time, width.second + width.told * 256)
        yield from layer("label_emb.0.2", time, time)
    yield from layer("input_blocks.0.0", base, width.taken, 3, 3)
    channels, number, skips = base, 1, [base]
    for level, (factor, depth) in levels:
        for _ in range(2):
            yield from resblock(f"input_blocks.{number}.0", channels, base * factor, time)
            channels = base * factor
            if depth:
                yield from transformer(f"input_blocks.{number}.1", channels, context, linear, depth)
            skips.append(channels)
            number += 1
        if level < lowest:
            yield from layer(f"input_blocks.{number}.0.op", channels, channels, 3, 3)
            skips.append(channels)
            number += 1
    yield from resblock("middle_block.0", channels, channels, time)
    yield from transformer("middle_block.1", channels, context, linear, width.middle)
    yield from resblock("middle_block.2", channels, channels, time)
    number = 0
    for level, (factor, depth) in reversed(levels):
        for index in range(3):
            yield from resblock(f"output_blocks.{number}.0", channels + skips.pop(), base * factor, time)
            channels = base * factor
            if depth:
                yield from transformer(f"output_blocks.{number}.1", channels, context, linear, depth)
            if level and index == 2:
                yield from layer(f"output_blocks.{number}.{2 if depth else 1}.conv", channels, channels, 3, 3)
            number += 1
    yield from layer("out.0", channels)
    yield from layer("out.2", 4, channels, 3, 3)


def vae_block(name: str, taken: int, made: int) -> Shapes:
    yield from layer(f"{name}.norm1", taken)
    yield from layer(f"{name}.conv1", made, taken, 3, 3)
    yield from layer(f"{name}.norm2", made)
    yield from layer(f"{name}.conv2", made, made, 3, 3)
    if taken != made:
        yield from layer(f"{name}.nin_shortcut", made, taken, 1, 1)


def vae_middle(name: str, width: int) -> Shapes:
    yield from vae_block(f"{name}.mid.block_1", width, width)
    yield from layer(f"{name}.mid.attn_1.norm", width)
    for part in ("q", "k", "v", "proj_out"):
        yield from layer(f"{name}.mid.attn_1.{part}", width, width, 1, 1)
    yield from vae_block(f"{name}.mid.block_2", width, width)


def vae(width: Width) -> Shapes:
    factors, base = (1, 2, 4, 4), width.vae
    yield from layer("encoder.conv_in", base, 3, 3, 3)
    channels = base
    for level, factor in enumerate(factors):
        for block in range(2):
            yield from vae_block(f"encoder.down.{level}.block.{block}", channels, base * factor)
            channels = base * factor
        if level < 3:
            yield from layer(f"encoder.down.{level}.downsample.conv", channels, channels, 3, 3)
    yield from vae_middle("encoder", channels)
    yield from layer("encoder.norm_out", channels)
    yield from layer("encoder.conv_out", 8, channels, 3, 3)
    yield from layer("decoder.conv_in", channels, 4, 3, 3)
    yield from vae_middle("decoder", channels)
    for level, factor in reversed(list(enumerate(factors))):
        for block in range(3):
            yield from vae_block(f"decoder.up.{level}.block.{block}", channels, base * factor)
            channels = base * factor
        if level:
            yield from layer(f"decoder.up.{level}.upsample.conv", channels, channels, 3, 3)
    yield from layer("decoder.norm_out", channels)
    yield from layer("decoder.conv_out", 3, channels, 3, 3)
    yield from layer("quant_conv", 8, 8, 1, 1)
    yield from layer("post_quant_conv", 4, 4, 1, 1)


def clip(width: Width) -> Shapes:
    yield "embeddings.position_ids", (1, 77)
    yield "embeddings.token_embedding.weight", (width.tokens, width.text)
    yield "embeddings.position_embedding.weight", (77, width.text)
    for number in range(width.layers):
        name = f"encoder.layers.{number}"
        for part in ("k_proj", "v_proj", "q_proj", "out_proj"):
            yield from layer(f"{name}.self_attn.{part}", width.text, width.text)
        yield from layer(f"{name}.layer_norm1", width.text)
        yield from layer(f"{name}.mlp.fc1", 4 * width.text, width.text)
        yield from layer(f"{name}.mlp.fc2", width.text, 4 * width.text)
        yield from layer(f"{name}.layer_norm2", width.text)
    yield from layer("final_layer_norm", width.text)


def open_clip(width: Width) -> Shapes:
    yield "positional_embedding", (77, width.text)
    yield "text_projection", (width.text, width.text)
    yield "logit_scale", ()
    yield "token_embedding.weight", (width.tokens, width.text)
    for number in range(width.layers):
        name = f"transformer.resblocks.{number}"
        yield from layer(f"{name}.ln_1", width.text)
        yield f"{name}.attn.in_proj_weight", (3 * width.text, width.text)
        yield f"{name}.attn.in_proj_bias", (3 * width.text,)
        yield from layer(f"{name}.attn.out_proj", width.text, width.text)
        yield from layer(f"{name}.ln_2", width.text)
        yield from layer(f"{name}.mlp.c_fc", 4 * width.text, width.text)
        yield from layer(f"{name}.mlp.c_proj", width.text, 4 * width.text)
    yield from layer("ln_final", width.text)


def shapes(version: int = 1, width: Width | None = None) -> dict[str, tuple[int, ...]]:
    """Every tensor of a checkpoint by its full name."""
    width = width or MINI[version]
    text = clip(width) if version == 1 else open_clip(width)
    prefix = "cond_stage_model.transformer.text_model." if version == 1 else "cond_stage_model.model."
    parts = [("model.diffusion_model.", unet(version, width)), ("first_stage_model.", vae(width)), (prefix, text)]
    second = open_clip(replace(width, text=width.second, layers=width.second_layers))
    if version == XL:
        parts[2:] = [
            ("conditioner.embedders.0.transformer.text_model.", clip(width)),
            ("conditioner.embedders.1.model.", second),
        ]
    if version == REFINER:
        parts[2:] = [("conditioner.embedders.0.model.", second)]
    named = {prefix + name: sizes for prefix, part in parts for name, sizes in part}
    return {"betas": (1000,), "alphas_cumprod": (1000,), **named}


def checkpoint(
    version: int = 1, width: Width | None = None, dtype=torch.float32, seed: int = 0
) -> dict[str, torch.Tensor]:
    """Random weights under those names, small enough that the networks stay finite; norms are near one."""
    generator = torch.Generator().manual_seed(seed)

    def fill(name: str, sizes: tuple[int, ...]) -> torch.Tensor:
        if name.endswith("position_ids"):
            return torch.arange(77)[None]
        spread = 0.5 / max(1, torch.Size(sizes[1:]).numel()) ** 0.5 if len(sizes) > 1 else 0.1
        made = torch.randn(sizes, generator=generator) * spread
        return (made + (len(sizes) == 1 and name.endswith("weight"))).to(dtype)

    return {name: fill(name, sizes) for name, sizes in shapes(version, width).items()}


def with_average(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same with the running average of the UNet that training keeps: every weight half as large."""
    start = "model.diffusion_model."
    names = [name for name in weights if name.startswith(start)]
    averages = {"model_ema." + name.removeprefix("model.").replace(".", ""): weights[name] / 2 for name in names}
    return {**weights, **averages, "model_ema.num_updates": torch.tensor(1)}


def save(path: Path, weights: dict[str, torch.Tensor], metadata: dict[str, str] | None = None, **beside) -> Path:
    """Write a .safetensors file, or a .ckpt as training leaves it, with `beside` next to the weights."""
    from safetensors.torch import save_file

    if path.name.endswith(".safetensors"):
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, path, metadata)
    else:
        torch.save({"state_dict": weights, **beside}, path)
    return path
