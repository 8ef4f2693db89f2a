"""Modules out of single files: built empty, filled tensor by tensor from the mapped file.

Our own names instead of diffusers' from_single_file, which wants configurations from the hub, reads pickles in whole
and says "weights mismatched" where a user has to know which file is what; it is the oracle in the tests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch

from .architecture import Architecture, recognize, usual, vae_config
from .checkpoint_names import VAE, Source, clip_source, ema_source, open_clip_source, unet_source, vae_source
from .model_info import ModelError, ModelInfo
from .shapes import Shape, Tensors
from .tensors import opened, read
from .tokenizer import clip_tokenizer


@dataclass(frozen=True, eq=False)
class ModulePart:
    """An empty module and where each of its tensors lies in which file."""

    module: torch.nn.Module
    file: Tensors
    sources: Mapping[str, Source]


def plan_parts(found: ModelInfo) -> tuple[dict[str, ModulePart], int]:
    """Every module of a single file, still empty, and the version of Stable Diffusion that it is.

    All names and shapes are known to fit afterwards. Raises ModelError; no weights are read.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    file = read(found.path)
    made = recognize(file)
    text_source = clip_source if made.version == 1 else open_clip_source
    layers = made.unet["layers_per_block"]
    parts = {
        "unet": _part(lambda: UNet2DConditionModel(**made.unet), file, lambda name: unet_source(name, layers)),
        "text_encoder": _part(lambda: CLIPTextModel(CLIPTextConfig(**made.text)), file, text_source),
        "vae": _vae_part(AutoencoderKL, found, made, file),
    }
    parts["unet"] = _averaged(parts["unet"])
    for part in parts.values():
        check_part(part)
    return parts, made.version


def fill(parts: Mapping[str, ModulePart], device: torch.device, dtypes: Mapping[str, torch.dtype]) -> None:
    """Read every tensor into its module, on its device and in its dtype, and let go of the files.

    Copied, not mapped: a model in use must not change, or vanish, with its file.
    """
    with ExitStack() as stack:
        files = {}
        for part in parts.values():
            if part.file.path not in files:
                files[part.file.path] = stack.enter_context(opened(part.file.path))[0]
        for name, part in parts.items():
            _fill(part, files[part.file.path].get, device, dtypes[name])


def tokenizer_for(version: int) -> Any:
    """The tokenizer of Stable Diffusion 1 or 2; they fill up differently."""
    return clip_tokenizer() if version == 1 else clip_tokenizer("!")


def _part(build: Callable[[], torch.nn.Module], file: Tensors, source: Callable[[str], Source]) -> ModulePart:
    try:
        with torch.device("meta"):
            module = build()
    except Exception as error:
        # The libraries refuse widths in many ways, and none of them names the file.
        said = (str(error).strip() or type(error).__name__).splitlines()[-1].strip()
        raise ModelError(
            f"{file.path.name} is of another kind than it looks: its shapes do not make a network ({said[:200]})"
        ) from error
    names = {usual(name): name for name in file.shapes}
    sources = {}
    for name in module.state_dict():
        found = source(name)
        sources[name] = Source(names.get(found.name, found.name), found.third)
    return ModulePart(module, file, sources)


def _vae_part(kind: type, found: ModelInfo, made: Architecture, file: Tensors) -> ModulePart:
    """The checkpoint's own VAE, or the one beside it, with or without the prefix that it has in a checkpoint."""
    if found.vae is None:
        return _part(lambda: kind(**made.vae), file, lambda name: _prefixed(name, VAE))
    file = read(found.vae)
    sizes = {name: shape.sizes for name, shape in file.shapes.items()}
    prefix = VAE if f"{VAE}decoder.conv_in.weight" in sizes else ""
    if f"{prefix}encoder.down.0.block.0.conv1.weight" not in sizes:
        raise ModelError(f"{file.path.name} is a VAE with diffusers' names; use the one with the original names")
    try:
        config = vae_config(sizes, prefix)
    except (KeyError, IndexError, ValueError) as error:
        raise ModelError(
            f"{file.path.name} is not a VAE for Stable Diffusion 1 or 2: {error.args[0]} is missing"
        ) from None
    return _part(lambda: kind(**config), file, lambda name: _prefixed(name, prefix))


def _prefixed(name: str, prefix: str) -> Source:
    return Source(prefix + vae_source(name, levels=4).name)


def _averaged(part: ModulePart) -> ModulePart:
    """The UNet from its running average, where the file has all of it: that is what pictures are made with."""
    averaged = {name: ema_source(source) for name, source in part.sources.items()}
    if all(source.name in part.file.shapes for source in averaged.values()):
        return ModulePart(part.module, part.file, averaged)
    return part


def check_part(part: ModulePart) -> None:
    """Raises ModelError unless every tensor of the module is in the file, in its shape and as floating-point numbers."""
    file = part.file
    missing = [source.name for source in part.sources.values() if source.name not in file.shapes]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ModelError(f"{file.path.name} is not complete: {missing[0]}{more} is missing; download it again")
    for name, wanted in part.module.state_dict().items():
        source = part.sources[name]
        shape = file.shapes[source.name]
        if _plain(_shape_of(shape, source)) != _plain(tuple(wanted.shape)):
            what = f"{source.name} has shape {list(shape.sizes)} instead of {list(wanted.shape)}"
            raise ModelError(f"{file.path.name} is of another kind than it looks: {what}")
        if not shape.dtype.is_floating_point:
            raise ModelError(f"{file.path.name} holds {source.name} as {shape.dtype}; use fp16, bf16 or fp32")


def _shape_of(shape: Shape, source: Source) -> tuple[int, ...]:
    if source.third is None or not shape.sizes or shape.sizes[0] % 3:
        return shape.sizes
    return shape.sizes[0] // 3, *shape.sizes[1:]


def _plain(sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Without the ones at the end: a convolution of one pixel and a linear layer are the same numbers."""
    while len(sizes) > 1 and sizes[-1] == 1:
        sizes = sizes[:-1]
    return sizes


def _fill(part: ModulePart, get: Callable[[str], torch.Tensor], device: torch.device, dtype: torch.dtype) -> None:
    state = {}
    for name, wanted in part.module.state_dict().items():
        source = part.sources[name]
        tensor = get(source.name)
        if source.third is not None:
            tensor = tensor.chunk(3)[source.third]
        tensor = tensor.reshape(wanted.shape)
        state[name] = tensor.to(device, dtype, copy=True, memory_format=torch.contiguous_format)
    part.module.load_state_dict(state, assign=True)
    for owner in part.module.modules():
        # The one buffer that is in no file: it was made without memory, too.
        if "position_ids" in owner._buffers:
            owner.position_ids = torch.arange(owner.position_ids.shape[-1], device=device)[None]
