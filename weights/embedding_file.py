"""Read a textual inversion: vectors that stand for a word (Gal et al. 2022, arXiv:2208.01618).

A1111      {"string_to_param": {"*": (vectors, width)}} in a pickle; "emb_params" in a .safetensors file
diffusers  one tensor (width) or (vectors, width), under the name of its token
SDXL       "clip_l" and "clip_g", for the two text encoders
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
    _tensor_names(read_shapes(path))


def read_embedding(path: Path) -> torch.Tensor:
    """The vectors of a textual inversion, (vectors, width), float32. Raises ModelError."""
    with open_tensors(path) as file:
        # Those of two encoders lie side by side.
        parts = [file.get(name).detach().float() for name in _tensor_names(file)]
        vectors = torch.cat([part.reshape(-1, part.shape[-1]) for part in parts], -1)
    if not vectors.isfinite().all():
        raise ModelError(f"embedding {path.name} holds numbers that are not finite")
    return vectors


def does_not_fit(name: str, vectors: torch.Tensor, model: str) -> ModelError:
    """The error for a textual inversion whose width is not that of a model's text encoder."""
    width = vectors.shape[-1]
    made_for = WIDTHS.get(width, f"a text encoder of width {width}")
    return ModelError(
        f"embedding {name} was made for {made_for} and does not fit model {model}; "
        "choose a model of its kind or another embedding"
    )


def _tensor_names(file: TensorFile) -> tuple[str, ...]:
    if {"clip_l", "clip_g"} <= file.shapes.keys():
        for name in (pair := ("clip_l", "clip_g")):
            _check(file, name)
        counts = {file.sizes[name][:-1] for name in pair}
        if len(counts) > 1:
            raise ModelError(f"embedding {file.path.name} has other numbers of vectors in clip_l and clip_g")
        return pair
    known = next((name for name in NAMES if name in file.shapes), None)
    if known is None and len(file.shapes) == 1:
        known = next(iter(file.shapes))
    if known is None:
        raise ModelError(f"{file.path.name} is not a textual inversion: it should hold one tensor of vectors")
    _check(file, known)
    return (known,)


def _check(file: TensorFile, name: str) -> None:
    sizes = file.sizes[name]
    if len(sizes) not in (1, 2) or 0 in sizes or (len(sizes) == 2 and sizes[0] > MOST_VECTORS):
        raise ModelError(
            f"{file.path.name} is not a textual inversion: it holds {name[:60]} of shape {list(sizes)} instead of "
            f"1 to {MOST_VECTORS} vectors"
        )
    if not file.shapes[name].dtype.is_floating_point:
        raise ModelError(f"embedding {file.path.name} holds {file.shapes[name].dtype}; use fp16, bf16 or fp32")
