"""Weights that rest elsewhere than where they compute: in host memory where the GPU's is short, or in half precision.

accelerate's hooks leave empty weights behind, which LoRAs could not be applied to, and diffusers' take its own classes
alone; neither changes the number format as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

AUTO, NONE, TEXT, LAYERS = OFFLOADS = ("auto", "none", "text", "layers")
# Of GPU memory that drawing takes beside the weights, for a pixel of the picture that a model was trained on.
STEP_BYTES = 2048
LARGE = 1 << 30  # bytes of text encoders from which half of them is worth it on a CPU
HOST = torch.device("cpu")


def choose_offload(sizes: Mapping[str, int], device: torch.device, side: int, wanted: str = AUTO) -> str:
    """What of a model rests in host memory: NONE, TEXT (the text encoders) or LAYERS (they, and the UNet).

    sizes   bytes of each component on the device
    side    in pixels, of the picture that the model was trained on
    wanted  one of OFFLOADS; AUTO takes the fastest that there is memory for
    Only a GPU with memory of its own has anything to gain.
    """
    if device.type != "cuda":
        return NONE
    if wanted != AUTO:
        return wanted
    room = free_memory(device) - STEP_BYTES * side * side
    if sum(sizes.values()) <= room:
        return NONE
    return TEXT if sum(size for name, size in sizes.items() if not is_text_encoder(name)) <= room else LAYERS


def free_memory(device: torch.device) -> int:
    """Bytes of a GPU's memory that can be had; what torch has taken and does not use is free, too."""
    free: int = torch.cuda.mem_get_info(device)[0]
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def is_text_encoder(component: str) -> bool:
    """Whether a component of this name is a text encoder."""
    return component.startswith("text_encoder")


def rests_in_host_memory(component: str, offload: str) -> bool:
    """Whether a component stays in host memory between its calls."""
    return offload in (TEXT, LAYERS) and is_text_encoder(component) or (offload == LAYERS and component == "unet")


def bring_for_calls(module: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Bring the weights of each layer of a module to a device and a number format when it is called, and let them go
    after it. What is kept stays where and as it is; buffers, which are small, go there once.
    """
    for layer in module.modules():
        for name, buffer in layer.named_buffers(recurse=False):
            setattr(layer, name, buffer.to(device, dtype if buffer.is_floating_point() else None))
        if kept := dict(layer.named_parameters(recurse=False)):
            if device.type == "cuda":
                kept = {name: nn.Parameter(one.pin_memory(), requires_grad=False) for name, one in kept.items()}
                _set(layer, kept)
            visit = _Visit(kept, device, dtype)
            layer.register_forward_pre_hook(visit.begin)
            layer.register_forward_hook(visit.end, always_call=True)


class _Visit:
    """The weights of a layer while it is called."""

    def __init__(self, kept: Mapping[str, nn.Parameter], device: torch.device, dtype: torch.dtype):
        self._kept, self._device, self._dtype = kept, device, dtype

    def begin(self, layer: nn.Module, inputs: Any) -> None:
        brought = {name: one.to(self._device, self._dtype, non_blocking=True) for name, one in self._kept.items()}
        _set(layer, {name: nn.Parameter(one, requires_grad=False) for name, one in brought.items()})

    def end(self, layer: nn.Module, inputs: Any, output: Any) -> None:
        _set(layer, self._kept)


def _set(layer: nn.Module, parameters: Mapping[str, nn.Parameter]) -> None:
    for name, parameter in parameters.items():
        setattr(layer, name, parameter)
