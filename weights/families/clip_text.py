"""CLIP text encoders inside checkpoints: transformers' own names (CLIP ViT-L) and OpenCLIP's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..module_part import Source

HEAD = 64  # channels of an attention head
MAX_LAYERS = 64  # of a text encoder; Stable Diffusion 2 has 24
CLIP_TOKENS, OPEN_CLIP_TOKENS = "text_model.embeddings.token_embedding.weight", "token_embedding.weight"
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


def clip_source(name: str, prefix: str) -> Source:
    """The tensor `name` of a text encoder that keeps transformers' names."""
    return Source(f"{prefix}text_model.{name.removeprefix('text_model.')}")


def open_clip_source(name: str, prefix: str) -> Source:
    """The tensor `name` of an OpenCLIP text encoder, which stores query, key and value as one."""
    name = name.removeprefix("text_model.")
    if name in OPEN_CLIP_ENDS:
        return Source(prefix + OPEN_CLIP_ENDS[name])
    _, _, layer, rest = name.split(".", 3)
    block = f"{prefix}transformer.resblocks.{layer}."
    if match := re.fullmatch(r"self_attn\.([qkv])_proj\.(weight|bias)", rest):
        return Source(f"{block}attn.in_proj_{match[2]}", "qkv".index(match[1]))
    module, _, leaf = rest.rpartition(".")
    return Source(f"{block}{OPEN_CLIP_LAYER[module]}.{leaf}")


def clip_config(sizes: Mapping[str, tuple[int, ...]], prefix: str) -> dict[str, Any]:
    """Arguments of transformers' CLIPTextConfig for CLIP. Raises KeyError, IndexError or ValueError, see `_layers`."""
    prefix = f"{prefix}text_model."
    tokens = sizes[f"{prefix}embeddings.token_embedding.weight"]
    return dict(
        **_common(vocabulary=tokens[0], width=tokens[1]),
        intermediate_size=sizes[f"{prefix}encoder.layers.0.mlp.fc1.weight"][0],
        projection_dim=tokens[1],
        num_hidden_layers=_layers(sizes, f"{prefix}encoder.layers"),
        max_position_embeddings=sizes[f"{prefix}embeddings.position_embedding.weight"][0],
        hidden_act="quick_gelu",
    )


def open_clip_config(sizes: Mapping[str, tuple[int, ...]], prefix: str, skipped: int = 0) -> dict[str, Any]:
    """The same for OpenCLIP.

    skipped  layers at the end that the model was trained without
    """
    tokens = sizes[f"{prefix}token_embedding.weight"]
    return dict(
        **_common(vocabulary=tokens[0], width=tokens[1]),
        intermediate_size=sizes[f"{prefix}transformer.resblocks.0.mlp.c_fc.weight"][0],
        projection_dim=512,
        num_hidden_layers=_layers(sizes, f"{prefix}transformer.resblocks") - skipped,
        max_position_embeddings=sizes[f"{prefix}positional_embedding"][0],
        hidden_act="gelu",
    )


def _common(vocabulary: int, width: int) -> dict[str, int]:
    return dict(
        vocab_size=vocabulary,
        hidden_size=width,
        num_attention_heads=max(1, width // HEAD),
        # As published: the pooled output depends on them.
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=1,
    )


def _layers(sizes: Mapping[str, tuple[int, ...]], prefix: str) -> int:
    """How many layers have tensors. ValueError with what is missing, or for more layers than any model has."""
    pattern = re.compile(rf"{re.escape(prefix)}\.(\d+)\.")
    numbers = {int(match[1]) for name in sizes if (match := pattern.match(name))}
    # Counted, not the largest number: one name would ask for any number of layers.
    layers = len(numbers)
    if layers > MAX_LAYERS:
        raise ValueError(f"a text encoder of up to {MAX_LAYERS} layers")
    if gaps := set(range(layers)) - numbers:
        raise ValueError(f"{prefix}.{min(gaps)}")
    return layers
