"""Quick decoders for previews and drafts: the tiny autoencoders TAESD and TAESDXL.

Their architecture is diffusers' AutoencoderTiny. Files are diffusers', or the original ones in their usual namings.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from .families.stable_diffusion import SCALE as USUAL_SCALE
from .families.stable_diffusion_xl import SCALE as XL_SCALE
from .model_info import ModelError
from .module_part import ModulePart, Source, check_part, empty_part, fill
from .tensors import TensorFile, read_shapes

# How a decoder's tensors begin in a file, and the number of its first layer there: the original counts a clamp, too.
NAMINGS = (("decoder.layers.", 0), ("taesd_decoder.", 1), ("decoder.", 1), ("", 1))
CPU_SIDE = 64  # latents of a side that a CPU decodes for a preview; larger ones are made smaller before


class PreviewDecoder:
    """A tiny decoder on a device: latents of unit variance (images, 4, h, w) to pictures (images, 3, 8 h, 8 w)."""

    def __init__(self, module: torch.nn.Module, device: torch.device):
        self._module, self._device = module, device

    @torch.inference_mode()
    def __call__(self, latents: torch.Tensor, whole: bool = False) -> torch.Tensor:
        """The pictures in [-1, 1], in float32 on the CPU; those that are large for a CPU are smaller unless `whole`."""
        latents = latents.to(self._device, torch.float32)
        largest = max(latents.shape[-2:])
        if not whole and self._device.type == "cpu" and largest > CPU_SIDE:
            latents = torch.nn.functional.interpolate(latents, scale_factor=CPU_SIDE / largest, mode="area")
        pictures: torch.Tensor = self._module(latents)
        return pictures.float().cpu()


def check_preview(path: Path) -> None:
    """Raises ModelError unless a file is a decoder that can be used; no numbers are read. An encoder alone is none."""
    _check(read_shapes(path))


def open_preview(path: Path, device: torch.device) -> PreviewDecoder:
    """Open a decoder on a device. Raises ModelError."""
    part = _check(read_shapes(path))
    fill(part, device, torch.float32)
    return PreviewDecoder(part.module.eval().requires_grad_(False), device)


def preview_for(scale: float, names: Iterable[str]) -> str | None:
    """The name of the decoder for a VAE whose latents are scaled so; None if there is none, or none is known for it.

    names  of decoders; those for SDXL have "xl" in it
    """
    if scale not in (XL_SCALE, USUAL_SCALE):
        return None
    return next((name for name in sorted(names) if ("xl" in name.lower()) == (scale == XL_SCALE)), None)


def _check(file: TensorFile) -> ModulePart:
    for prefix, first in NAMINGS:
        if f"{prefix}{first}.weight" in file.shapes and f"{prefix}{first + 2}.conv.0.weight" in file.shapes:
            break
    else:
        raise ModelError(f"{file.path.name} is not the decoder of a tiny autoencoder (TAESD)")

    def source(name: str) -> Source:
        _, number, rest = name.split(".", 2)
        return Source(f"{prefix}{int(number) + first}.{rest}")

    def build() -> torch.nn.Module:
        from diffusers import AutoencoderTiny

        decoder: torch.nn.Module = AutoencoderTiny().decoder
        return decoder

    part = empty_part(build, file, source)
    check_part(part)
    return part
