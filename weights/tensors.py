"""Read single checkpoint files: names and shapes first, numbers later, and never any code.

The content of a file decides what it is, not its name.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from .model_info import ModelError
from .pickles import open_pickle
from .unsupported_formats import not_tensors

MAX_HEADER = 100 << 20  # bytes of a safetensors header, which is also what the library itself takes
DTYPES = dict(
    F64=torch.float64,
    F32=torch.float32,
    F16=torch.float16,
    BF16=torch.bfloat16,
    F8_E4M3=torch.float8_e4m3fn,
    F8_E5M2=torch.float8_e5m2,
    I64=torch.int64,
    I32=torch.int32,
    I16=torch.int16,
    I8=torch.int8,
    U8=torch.uint8,
    BOOL=torch.bool,
)


@dataclass(frozen=True)
class Shape:
    """A tensor's shape and its dtype."""

    sizes: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class TensorFile:
    """What is known of a checkpoint file before its numbers are read.

    shapes    by the tensor's name
    metadata  texts and numbers beside the tensors
    """

    path: Path
    shapes: Mapping[str, Shape]
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sizes(self) -> dict[str, tuple[int, ...]]:
        """The shapes alone, by name."""
        return {name: shape.sizes for name, shape in self.shapes.items()}


@dataclass(frozen=True)
class OpenTensorFile(TensorFile):
    """A checkpoint file while it is open.

    get      get(name) is a tensor; ModelError where the file has become shorter
    mapped   whether it is mapped from the file, and so only valid as long as that is open
    """

    get: Callable[[str], torch.Tensor] = field(kw_only=True)
    mapped: bool = False


def read_shapes(path: Path) -> TensorFile:
    """Names and shapes of a .safetensors file or of a pickle; no numbers are read. Raises ModelError."""
    with open_tensors(path) as file:
        return TensorFile(path, file.shapes, file.metadata)


@contextmanager
def open_tensors(path: Path) -> Iterator[OpenTensorFile]:
    """An open checkpoint file. Tensors of a pickle are mapped: copy what is kept. Raises ModelError."""
    try:
        size, head = _size(path), _head(path)
        if head[:2] == b"PK":
            tensors, metadata = open_pickle(path, size)
            shapes = {name: Shape(tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
            yield OpenTensorFile(path, shapes, metadata, get=tensors.__getitem__, mapped=True)
        elif _is_safetensors(head):
            with _open_safetensors(path) as file:
                yield file
        else:
            raise not_tensors(path, head)
    except OSError as error:
        raise ModelError(f"{path.name} cannot be read: {error.strerror or error}") from error


def _size(path: Path) -> int:
    size = path.stat().st_size
    if not size:
        raise ModelError(f"{path.name} is empty; the download or the copy failed, fetch it again")
    return size


def _head(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(512)


def _is_safetensors(head: bytes) -> bool:
    # Eight bytes with the length of the JSON that follows them.
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < MAX_HEADER


@contextmanager
def _open_safetensors(path: Path) -> Iterator[OpenTensorFile]:
    from safetensors import SafetensorError, safe_open

    try:
        stream = safe_open(str(path), "pt")
    except SafetensorError as error:
        raise ModelError(_damaged(path, str(error))) from None
    with stream as file, path.open("rb") as numbers:
        shapes = {}
        for name in file.keys():
            part = file.get_slice(name)
            shapes[name] = Shape(tuple(part.get_shape()), _dtype(path, name, part.get_dtype()))
        # The library has checked that tensors lie one after another, without gaps, behind the header.
        places, at = {}, 8 + int.from_bytes(numbers.read(8), "little")
        for name in file.offset_keys():
            places[name] = at
            at += math.prod(shapes[name].sizes) * shapes[name].dtype.itemsize

        def read(name: str) -> torch.Tensor:
            # The library maps the file, and what is mapped counts as memory of the process until it is closed.
            tensor = torch.empty(shapes[name].sizes, dtype=shapes[name].dtype)
            numbers.seek(places[name])
            if numbers.readinto(tensor.view(-1).view(torch.uint8).numpy().data) != tensor.nbytes:
                raise ModelError(f"{path.name} has become shorter while it was read; copy or download it again")
            return tensor

        yield OpenTensorFile(path, shapes, dict(file.metadata() or {}), get=read)


def _damaged(path: Path, error: str) -> str:
    surplus = _surplus(path)
    if surplus:
        few = surplus < 0
        how = "is cut short: it has fewer bytes" if few else f"has {surplus} bytes more"
        return f"{path.name} {how} than its header tells; copy or download it again"
    return f"{path.name} is damaged, its safetensors header cannot be read ({error[:200]}); copy or download it again"


def _surplus(path: Path) -> int:
    """By how many bytes a safetensors file is longer than its header says; 0 also where the header cannot be read."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if 8 + length > size:
            return -1
        try:
            ends = [
                int(part["data_offsets"][1])
                for part in json.loads(stream.read(length)).values()
                if "data_offsets" in part
            ]
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
            return 0
    return size - 8 - length - max(ends, default=0)


def _dtype(path: Path, name: str, code: str) -> torch.dtype:
    if code not in DTYPES:
        raise ModelError(
            f"{path.name}: tensor {name[:100]} is of type {code}, which is not supported; use fp16, bf16 or fp32"
        )
    return DTYPES[code]
