"""Read checkpoints that are pickles: with torch.load(weights_only=True) alone, and only if the archive is sound."""

from __future__ import annotations

import pickle
import threading
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .model_info import ModelError
from .pickle_bomb import check_pickle_size
from .unsupported_formats import unsafe_pickle

MAX_PICKLE = 64 << 20  # bytes of the part of a checkpoint that is not numbers; real ones have less than one
MAX_ENTRIES = 100_000
NESTED = ("state_dict", "params_ema", "params-ema", "params", "model_state_dict")  # where training code puts weights
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


def open_pickle(path: Path, size: int) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors of a PyTorch archive of `size` bytes, mapped and not read, and the texts and numbers beside them.

    Raises ModelError for an archive that is damaged, larger than it may be, or that would run code.
    """
    if path.suffix == ".safetensors":
        raise ModelError(
            f"{path.name} is a PyTorch pickle under the name of a safetensors file; "
            "if you trust where it comes from, rename it to .ckpt"
        )
    content = _unpickle(path, _check_zip(path, size))
    nested = next((content[name] for name in NESTED if isinstance(content.get(name), Mapping)), content)
    inversion = content.get("string_to_param")
    weights: Mapping[Any, Any] = nested
    if isinstance(inversion, Mapping):
        weights = {f"string_to_param.{name}": value for name, value in inversion.items()}
    tensors = {
        name: value for name, value in weights.items() if isinstance(name, str) and isinstance(value, torch.Tensor)
    }
    metadata = {
        name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, str | int | float)
    }
    _check_tensors(path, size, tensors)
    # What has its tensors deeper down is told by its names.
    if not tensors:
        metadata["names"] = " ".join(str(name)[:100] for name in list(content)[:20])
    return tensors, metadata


def _check_tensors(path: Path, size: int, tensors: Mapping[str, torch.Tensor]) -> None:
    """Refuse tensors that are no plain numbers in the file, or that would become far more than the file has."""
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.device.type != "cpu":
            kind = "without numbers" if tensor.is_meta else f"of layout {tensor.layout}"
            raise ModelError(f"{path.name} holds {name[:100]} as a tensor {kind}; save it anew with dense tensors")
        if tensor.nbytes > tensor.untyped_storage().nbytes():
            raise ModelError(f"{path.name} claims more numbers for {name[:100]} than it holds, and was not opened")
    # Twice, for a running average may be the very tensors that it is an average of.
    if sum(tensor.nbytes for tensor in tensors.values()) > 2 * size:
        raise ModelError(f"{path.name} would become several times as large as the file is, and was not opened")


def _check_zip(path: Path, size: int) -> str:
    """The name of the pickle in an archive.

    Refuse archives that are damaged, no checkpoint, or that would become larger than the file is.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError):
        raise ModelError(
            f"{path.name} is cut short or damaged: its list of contents is missing; copy or download it again"
        ) from None
    if len(entries) > MAX_ENTRIES or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        if not any(entry.filename.endswith("data.pkl") for entry in entries):
            raise ModelError(f"{path.name} is an ordinary zip archive; unpack it and put what is in it into weights/")
        raise ModelError(f"{path.name} is packed, which PyTorch never does: it may be a zip bomb and was not opened")
    if sum(entry.file_size for entry in entries) > size:
        raise ModelError(f"{path.name} claims to hold more than its own size: it may be a zip bomb and was not opened")
    # PyTorch finds it in capital letters, too.
    pickles = [entry for entry in entries if entry.filename.lower().endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ModelError(f"{path.name} is an ordinary zip archive; unpack it and put what is in it into weights/")
    if pickles[0].file_size > MAX_PICKLE:
        raise ModelError(f"{path.name} has {pickles[0].file_size >> 20} MB that are not weights, and was not opened")
    return pickles[0].filename


def _unpickle(path: Path, entry: str) -> Mapping[Any, Any]:
    stand_ins: list[Any] = [(type("ModelCheckpoint", (Inert,), {}), name) for name in LIGHTNING]
    try:
        with zipfile.ZipFile(path) as archive:
            check_pickle_size(archive.read(entry))
        with _ALLOWING, torch.serialization.safe_globals(stand_ins):
            content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        raise unsafe_pickle(path, error) from None
    except (
        RuntimeError,
        ValueError,
        TypeError,
        AttributeError,
        LookupError,
        EOFError,
        AssertionError,
        RecursionError,
        MemoryError,
        zipfile.BadZipFile,
    ) as error:
        what = str(error).strip().split("\n")[0][:200] or type(error).__name__
        raise ModelError(f"{path.name} is damaged ({what}); copy or download it again") from None
    if not isinstance(content, Mapping):
        raise ModelError(f"{path.name} holds a {type(content).__name__} where a checkpoint has names with weights")
    return content
