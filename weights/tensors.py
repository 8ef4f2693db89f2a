"""Reading single checkpoint files: names and shapes first, numbers later, and never any code.

What a file is, its content decides and not its name. Pickles go through torch.load(weights_only=True) alone.
"""

from __future__ import annotations

import json
import pickle
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from .disguises import not_tensors, unsafe_pickle
from .found import ModelError

MAX_HEADER = 100 << 20  # bytes of a safetensors header, which is also what the library itself takes
MAX_PICKLE = 64 << 20  # bytes of the part of a checkpoint that is not numbers; real ones have less than one
MAX_ENTRIES = 100_000
# Lightning leaves the class of its callback in real Stable Diffusion files, as the key of what it remembers.
LIGHTNING = (
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "lightning.pytorch.callbacks.model_checkpoint.ModelCheckpoint",
)
# torch keeps what it lets through in a list of the whole process, and the page's threads read files, too.
_ALLOWING = threading.Lock()


class Inert:
    """Stands in for a class that a checkpoint names: it takes anything and does nothing."""

    def __init__(self, *arguments: Any, **more: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass


@dataclass(frozen=True)
class Shape:
    """A tensor's shape and its dtype."""

    sizes: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class Tensors:
    """What a checkpoint file holds: shapes by name, and the little facts beside them (texts and numbers by name)."""

    path: Path
    shapes: Mapping[str, Shape]
    facts: Mapping[str, Any] = field(default_factory=dict)


def read(path: Path) -> Tensors:
    """Names and shapes of a .safetensors file or of a pickle; no numbers are read. Raises ModelError."""
    with opened(path) as (held, facts):
        return Tensors(path, held.shapes, facts)


@dataclass(frozen=True)
class Held:
    """An open file: the shapes of its tensors, and `get(name)`, a tensor that is only valid while the file is open."""

    shapes: Mapping[str, Shape]
    get: Callable[[str], torch.Tensor]


@contextmanager
def opened(path: Path) -> Iterator[tuple[Held, dict[str, Any]]]:
    """An open checkpoint file and its facts. Tensors are mapped from the file, not read: copy what is kept."""
    try:
        size, head = _size(path), _head(path)
        if head[:2] == b"PK":
            yield _open_pickle(path, size)
        elif _is_safetensors(head):
            with _open_safetensors(path) as held:
                yield held
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
def _open_safetensors(path: Path) -> Iterator[tuple[Held, dict[str, Any]]]:
    from safetensors import SafetensorError, safe_open

    try:
        stream = safe_open(str(path), "pt")
    except SafetensorError as error:
        raise ModelError(_damaged(path, str(error))) from None
    with stream as file:
        shapes = {}
        for name in file.keys():  # noqa: SIM118: it is no dictionary
            part = file.get_slice(name)
            shapes[name] = Shape(tuple(part.get_shape()), _dtype(path, name, part.get_dtype()))
        yield Held(shapes, file.get_tensor), dict(file.metadata() or {})


def _damaged(path: Path, error: str) -> str:
    if _is_cut(path):
        return f"{path.name} is cut short: it has fewer bytes than its header tells; copy or download it again"
    return f"{path.name} is damaged, its safetensors header cannot be read ({error[:200]}); copy or download it again"


def _is_cut(path: Path) -> bool:
    """Whether a safetensors file ends before its header says; asked only of files that cannot be read."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if 8 + length > size:
            return True
        try:
            ends = [int(part["data_offsets"][1]) for part in json.loads(stream.read(length)).values() if "data_offsets" in part]
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
            return False
    return 8 + length + max(ends, default=0) > size


def _dtype(path: Path, name: str, code: str) -> torch.dtype:
    known = dict(
        F64=torch.float64, F32=torch.float32, F16=torch.float16, BF16=torch.bfloat16, F8_E4M3=torch.float8_e4m3fn,
        F8_E5M2=torch.float8_e5m2, I64=torch.int64, I32=torch.int32, I16=torch.int16, I8=torch.int8, U8=torch.uint8,
        BOOL=torch.bool,
    )  # fmt: skip
    if code not in known:
        raise ModelError(f"{path.name}: tensor {name[:100]} is of type {code}, which is not supported; use fp16, bf16 or fp32")
    return known[code]


def _open_pickle(path: Path, size: int) -> tuple[Held, dict[str, Any]]:
    if path.suffix == ".safetensors":
        raise ModelError(
            f"{path.name} is a PyTorch pickle under the name of a safetensors file; "
            "if you trust where it comes from, rename it to .ckpt"
        )
    _check_zip(path, size)
    content = _unpickle(path)
    nested = content.get("state_dict")
    weights = nested if isinstance(nested, Mapping) else content
    tensors = {name: value for name, value in weights.items() if isinstance(name, str) and isinstance(value, torch.Tensor)}
    facts = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, str | int | float)}
    shapes = {name: Shape(tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    # A textual inversion, for one, has its only tensor deeper down; the names tell what it is.
    if not tensors:
        facts["names"] = " ".join(str(name)[:100] for name in list(content)[:20])
    return Held(shapes, tensors.__getitem__), facts


def _check_zip(path: Path, size: int) -> None:
    """Refuse archives that are damaged, no checkpoint, or that would become larger than the file is."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError):
        raise ModelError(f"{path.name} is cut short or damaged: its list of contents is missing; copy or download it again") from None
    if len(entries) > MAX_ENTRIES or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        if not any(entry.filename.endswith("data.pkl") for entry in entries):
            raise ModelError(f"{path.name} is an ordinary zip archive; unpack it and put what is in it into weights/")
        raise ModelError(f"{path.name} is packed, which PyTorch never does: it may be a zip bomb and was not opened")
    if sum(entry.file_size for entry in entries) > size:
        raise ModelError(f"{path.name} claims to hold more than its own size: it may be a zip bomb and was not opened")
    pickles = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ModelError(f"{path.name} is an ordinary zip archive; unpack it and put what is in it into weights/")
    if pickles[0].file_size > MAX_PICKLE:
        raise ModelError(f"{path.name} has {pickles[0].file_size >> 20} MB that are not weights, and was not opened")


def _unpickle(path: Path) -> Mapping[Any, Any]:
    stand_ins = [(type("ModelCheckpoint", (Inert,), {}), name) for name in LIGHTNING]
    try:
        with _ALLOWING, torch.serialization.safe_globals(stand_ins):
            content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        raise unsafe_pickle(path, error) from None
    except (RuntimeError, ValueError, TypeError, AttributeError, LookupError, EOFError, RecursionError, MemoryError) as error:
        what = str(error).strip().split("\n")[0][:200] or type(error).__name__
        raise ModelError(f"{path.name} is damaged ({what}); copy or download it again") from None
    if not isinstance(content, Mapping):
        raise ModelError(f"{path.name} holds a {type(content).__name__} where a checkpoint has names with weights")
    return content

