"""Identify files that are no checkpoints (pictures, web pages, archives, unsafe pickles) so the error can name them."""

from __future__ import annotations

import re
from pathlib import Path

from .model_info import ModelError

# First bytes of a file, and what it is.
SIGNS = (
    (b"version https://git-lfs", "is a Git LFS pointer and not the file itself; fetch it with: git lfs pull"),
    (b"GGUF", "is a GGUF file, which is not supported; use the .safetensors of the same model"),
    (b"\x89PNG", "is a picture (PNG) and no checkpoint"),
    (b"\xff\xd8\xff", "is a picture (JPEG) and no checkpoint"),
    (b"\x1f\x8b", "is a gzip archive; unpack it first"),
    (b"Rar!", "is a RAR archive; unpack it first"),
    (b"7z\xbc\xaf", "is a 7z archive; unpack it first"),
)
MARKUP = re.compile(rb"(\xef\xbb\xbf)?\s*<(!doctype|html|head|\?xml|!--)", re.IGNORECASE)


def not_tensors(path: Path, head: bytes) -> ModelError:
    """The error for a file that is neither safetensors nor a PyTorch archive, by its first bytes."""
    for sign, what in SIGNS:
        if head.startswith(sign):
            return ModelError(f"{path.name} {what}")
    if MARKUP.match(head):
        return ModelError(
            f"{path.name} is a web page and no checkpoint: the download was answered with a page; download it again"
        )
    if head.startswith(b"\x80"):
        return ModelError(
            f"{path.name} is a pickle in the format of PyTorch before 1.6, which cannot be opened without reading all "
            "of it; save it anew as .safetensors"
        )
    if path.suffix == ".safetensors":
        return ModelError(f"{path.name} is damaged: it does not begin as a safetensors file; copy or download it again")
    return ModelError(f"{path.name} is neither a safetensors file nor a PyTorch checkpoint")


def unsafe_pickle(path: Path, error: Exception) -> ModelError:
    """The error for a pickle that torch refuses, with the name of what it asks for."""
    match = re.search(r"GLOBAL ([\w.]+)|Can only \w+ \w+ ([\w.]+)|type (\S+) was not", str(error))
    if not match:
        return ModelError(
            f"{path.name} is damaged or hostile: its pickle has instructions that no checkpoint needs; nothing was run"
        )
    name = next(filter(None, match.groups()))
    return ModelError(
        f"{path.name} asks for {name[:200]}, which may run code, and was refused; nothing was run. "
        "Use the .safetensors file of this model, from a place that you trust"
    )
