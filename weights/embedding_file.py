"""Read a textual inversion: vectors that stand for a word (Gal et al. 2022, arXiv:2208.01618).

A1111      {"string_to_param": {"*": (vectors, width)}} in a pickle; "emb_params" in a .safetensors file
diffusers  one tensor (width) or (vectors, width), under the name of its token
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import torch

from .lora_file import WIDTHS
from .model_info import ModelError
from .tensors import TensorFile, open_tensors, read_shapes

NAMES = ("emb_params", "string_to_param.*")
Embeddings = Mapping[str, torch.Tensor]  # vectors (count, width) by the word that they stand for
NO_EMBEDDINGS: Embeddings = MappingProxyType({})
MOST_VECTORS = 75  # what a chunk of CLIP holds


def check_embedding(path: Path) -> None:
    """Raises ModelError unless a file is a textual inversion that can be used; no numbers are read."""
    _tensor_name(read_shapes(path))


def read_embedding(path: Path) -> torch.Tensor:
    """The vectors of a textual inversion, (vectors, width), float32. Raises ModelError."""
    with open_tensors(path) as file:
        vectors = file.get(_tensor_name(file)).detach().float().clone()
    if not vectors.isfinite().all():
        raise ModelError(f"embedding {path.name} holds numbers that are not finite")
    return vectors.reshape(-1, vectors.shape[-1])


def made_for(width: int) -> str:
    """The base that vectors of this width belong to, in a few words."""
    return WIDTHS.get(width, f"a text encoder of width {width}")


def _tensor_name(file: TensorFile) -> str:
    if {"clip_l", "clip_g"} & file.shapes.keys():
        raise ModelError(f"embedding {file.path.name} is for Stable Diffusion XL, which is not supported yet")
    name = next((name for name in NAMES if name in file.shapes), None)
    if name is None and len(file.shapes) == 1:
        name = next(iter(file.shapes))
    if name is None:
        raise ModelError(f"{file.path.name} is not a textual inversion: it should hold one tensor of vectors")
    sizes = file.sizes[name]
    if len(sizes) not in (1, 2) or 0 in sizes or (len(sizes) == 2 and sizes[0] > MOST_VECTORS):
        raise ModelError(
            f"{file.path.name} is not a textual inversion: it holds {name[:60]} of shape {list(sizes)} instead of "
            f"1 to {MOST_VECTORS} vectors"
        )
    if not file.shapes[name].dtype.is_floating_point:
        raise ModelError(f"embedding {file.path.name} holds {file.shapes[name].dtype}; use fp16, bf16 or fp32")
    return name
