"""Enlarge the result of a pass for the next one: the latents themselves, or the picture that they stand for."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image

from webui.core.menus import LATENT


def enlarge(x: torch.Tensor, size: tuple[int, int], upscaler: str, model: Any) -> torch.Tensor:
    """Latents (images, channels, height, width) enlarged for a picture of this width and height, by a known upscaler.

    Latents are interpolated; a picture is decoded, enlarged and encoded again, which blurs less and costs more.
    """
    if mode := LATENT.get(upscaler):
        shape = model.latents_shape(*size)[1:]
        return torch.nn.functional.interpolate(x, size=shape, mode=mode)
    pictures = [model.decode(one[None])[0] for one in x]
    return torch.cat([model.encode(picture.resize(size, Image.Resampling.LANCZOS)) for picture in pictures])
