"""Tiny upscalers of random weights, of two architectures, as files in the two formats that people have."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from spandrel.architectures.Compact import Compact
from spandrel.architectures.ESRGAN import ESRGAN


def compact(scale: int = 2, seed: int = 0) -> torch.nn.Module:
    """Real-ESRGAN's compact network: it sees 3 pixels far."""
    torch.manual_seed(seed)
    return Compact(num_in_ch=3, num_out_ch=3, num_feat=4, num_conv=1, upscale=scale)


def esrgan(scale: int = 2, seed: int = 0) -> torch.nn.Module:
    """ESRGAN's network with one block: it sees less than 30 pixels far."""
    torch.manual_seed(seed)
    return ESRGAN(num_filters=4, num_blocks=1, scale=scale)


def as_safetensors(module: torch.nn.Module, path: Path) -> Path:
    """The weights as a .safetensors file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in module.state_dict().items()}, path)
    return path


def as_pickle(module: torch.nn.Module, path: Path) -> Path:
    """The weights as training code leaves them: a pickle with names in a dictionary."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"params_ema": {f"module.{name}": tensor for name, tensor in module.state_dict().items()}}, path)
    return path
