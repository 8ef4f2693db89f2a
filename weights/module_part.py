"""Modules from files: built empty, then filled tensor by tensor.

diffusers' from_single_file asks its hub for configurations, reads pickles whole, takes longer, and reports "weights
mismatched" where a user has to know what is wrong with which file; from_pretrained fills up with random numbers what is
missing. The tests compare with both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any

import torch

from .model_info import ModelError
from .tensors import OpenTensorFile, Shape, TensorFile, open_tensors


@dataclass(frozen=True)
class Source:
    """Where a tensor lies in a checkpoint.

    third       which third of it is meant, where three are stored as one
    transposed  whether it is stored with rows for columns
    """

    name: str
    third: int | None = None
    transposed: bool = False


@dataclass(frozen=True, eq=False)
class ModulePart:
    """An empty module and the source of each of its tensors in a file.

    places  the files of tensors that are not in `file` itself, by their names there
    """

    module: torch.nn.Module
    file: TensorFile
    sources: Mapping[str, Source]
    places: Mapping[str, Path] = field(default_factory=dict)

    @property
    def dtype(self) -> torch.dtype:
        """The number format that holds all of its tensors as they are in the file."""
        return reduce(torch.promote_types, {self.file.shapes[source.name].dtype for source in self.sources.values()})

    def size(self, dtype: torch.dtype) -> int:
        """Its bytes in a number format."""
        return sum(tensor.numel() for tensor in self.module.state_dict().values()) * dtype.itemsize


def empty_part(build: Callable[[], Any], file: TensorFile, source: Callable[[str], Source]) -> ModulePart:
    """Build a module without memory.

    build   constructs it; `Any`, because diffusers does not type its modules as torch's
    source  the source of one of its tensors, by the tensor's name in the module
    Raises ModelError that names the file if its shapes do not form a module.
    """
    try:
        with torch.device("meta"):
            module = build()
    except Exception as error:
        # The libraries refuse widths in many ways, and none of them names the file.
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1].strip()
        raise ModelError(
            f"{file.path.name} is not a supported checkpoint: its tensor shapes do not form a valid UNet, VAE or text "
            f"encoder ({reason[:200]})"
        ) from error
    return ModulePart(module, file, {name: source(name) for name in module.state_dict()})


def fill(part: ModulePart, device: torch.device, dtype: torch.dtype) -> None:
    """Read every tensor into its module, on a device and in a number format, and close the files.

    No tensor is there twice, and none is mapped: a model in use must not change, or vanish, with its file.
    """
    state = part.module.state_dict()
    targets: dict[str, list[str]] = {}
    for name in state:
        targets.setdefault(part.sources[name].name, []).append(name)
    with ExitStack() as stack:
        files: dict[Path, OpenTensorFile] = {}
        for stored, names in targets.items():
            path = part.places.get(stored, part.file.path)
            if path not in files:
                files[path] = stack.enter_context(open_tensors(path))
            tensor, shared = files[path].get(stored), files[path].mapped or len(names) > 1
            for name in names:
                state[name] = _placed(tensor, part.sources[name], state[name].shape, device, dtype, shared)
    part.module.load_state_dict(state, assign=True)
    for owner in part.module.modules():
        # The one buffer that is in no file was built without memory, too.
        if (ids := owner._buffers.get("position_ids")) is not None:
            owner._buffers["position_ids"] = torch.arange(ids.shape[-1], device=device)[None]


def check_part(part: ModulePart) -> None:
    """Raise ModelError unless the file has every tensor of the module, in its shape, as floating-point numbers."""
    file = part.file
    missing = [source.name for source in part.sources.values() if source.name not in file.shapes]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ModelError(f"{file.path.name} is not complete: {missing[0]}{more} is missing; download it again")
    for name, tensor in part.module.state_dict().items():
        source = part.sources[name]
        shape = file.shapes[source.name]
        if _plain(_shape_of(shape, source)) != _plain(tuple(tensor.shape)):
            what = f"{source.name} has shape {list(shape.sizes)} instead of {list(tensor.shape)}"
            raise ModelError(f"{file.path.name} is not a supported checkpoint: {what}")
        if not shape.dtype.is_floating_point:
            raise ModelError(f"{file.path.name} holds {source.name} as {shape.dtype}; use fp16, bf16 or fp32")


def _shape_of(shape: Shape, source: Source) -> tuple[int, ...]:
    if source.transposed:
        return shape.sizes[::-1]
    if source.third is None or not shape.sizes or shape.sizes[0] % 3:
        return shape.sizes
    return shape.sizes[0] // 3, *shape.sizes[1:]


def _plain(sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Without the ones at the end: a convolution of one pixel and a linear layer are the same numbers."""
    while len(sizes) > 1 and sizes[-1] == 1:
        sizes = sizes[:-1]
    return sizes


def _placed(
    tensor: torch.Tensor, source: Source, shape: torch.Size, device: torch.device, dtype: torch.dtype, copy: bool
) -> torch.Tensor:
    """A stored tensor as its module takes it."""
    if source.third is not None:
        tensor = tensor.chunk(3)[source.third]
    if source.transposed:
        tensor = tensor.T
    # Kernels round by the order in memory, so it is the same whatever the file's is.
    return tensor.reshape(shape).contiguous().to(device, dtype, copy=copy)
