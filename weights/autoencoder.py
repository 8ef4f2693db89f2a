"""Pictures to latents and back, in tiles where memory is short; pictures to tensors and back."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from functools import partial
from typing import Any

import torch
from PIL import Image

from .offload import free_memory
from .oom import out_of_memory

# Up to this work a full decode is cheap enough for a preview: pixels of the picture times the square of the decoder's
# width at full size, as a convolution's work grows. It is that of 128 x 128 pixels at Stable Diffusion's width, 128.
CHEAP_WORK = (128 * 128) ** 2
# Of GPU memory that the decoder takes for a pixel of the picture and a channel of its width at full size, in float32:
# its two widest layers there and their copies. The encoder takes less.
DECODER_BYTES = 80
TILES = (64, 32, 16)  # sides of a tile in latents; the larger, the less it shows

log = logging.getLogger(__name__)


class Autoencoder:
    """A VAE in float32, whose latents are scaled to unit variance (Rombach et al. 2022, arXiv:2112.10752).

    module  diffusers' AutoencoderKL; `Any`, because importing its type would import diffusers
    factor  how many pixels of a side a latent stands for
    Where the GPU's memory is not enough for a picture it is worked on in overlapping tiles, which may show faintly.
    """

    def __init__(self, module: Any, factor: int, device: torch.device):
        self.module, self._factor, self._device = module, factor, device
        self._projection: torch.Tensor | None = None
        self._decoder: Callable[[torch.Tensor], torch.Tensor] = lambda latents: self.module.decode(latents).sample

    @property
    def scale(self) -> float:
        """What its own latents are multiplied by to have unit variance."""
        return float(self.module.config.scaling_factor)

    def decoded_by(self, decode: Callable[[torch.Tensor], torch.Tensor]) -> Autoencoder:
        """The same with another decoder, (1, channels, h, w) -> (1, 3, height, width)."""
        other = copy(self)
        other._decoder = decode
        return other

    @torch.inference_mode()
    def encode(self, image: Image.Image) -> torch.Tensor:
        """The latents (1, channels, h, w) of a picture: the most probable ones, so that nothing is random."""
        pixels = image_to_tensor(image).to(self._device)
        latents = self._with_room(lambda: self.module.encode(pixels).latent_dist.mode(), image.size)
        return (latents - (self.module.config.shift_factor or 0.0)) * self.module.config.scaling_factor

    @torch.inference_mode()
    def decode(self, latents: torch.Tensor) -> list[Image.Image]:
        """The pictures of latents (images, channels, h, w), one at a time: a VAE needs more memory than the UNet."""
        latents = latents.to(self._device, torch.float32) / self.module.config.scaling_factor
        latents = latents + (self.module.config.shift_factor or 0.0)
        size = latents.shape[-1] * self._factor, latents.shape[-2] * self._factor
        return [tensor_to_image(self._with_room(partial(self._decode_one, one), size)) for one in latents]

    def is_cheap(self, width: int, height: int) -> bool:
        """Whether a picture of this size in pixels is decoded fast enough for a preview."""
        return width * height * self._width**2 <= CHEAP_WORK

    @torch.inference_mode()
    def preview(
        self,
        latents: torch.Tensor,
        find_quick: Callable[[], Callable[[torch.Tensor], torch.Tensor] | None] = lambda: None,
    ) -> list[Image.Image]:
        """Quick pictures of latents: decoded where that is cheap, else by a quick decoder if one is found, else a
        linear map from latent to colour.

        find_quick  a decoder from latents to pictures (images, 3, height, width), or None
        """
        if self.is_cheap(latents.shape[-1] * self._factor, latents.shape[-2] * self._factor):
            return self.decode(latents)
        if quick := find_quick():
            return [tensor_to_image(picture) for picture in quick(latents)]
        if self._projection is None:
            self._projection = self._fit_projection()
        values = latents.to("cpu", torch.float32).movedim(1, -1)
        pictures = torch.cat([values, torch.ones_like(values[..., :1])], -1) @ self._projection
        small = (tensor_to_image(picture.movedim(-1, 0)) for picture in pictures)
        return [picture.resize((picture.width * 4, picture.height * 4)) for picture in small]

    def _decode_one(self, latents: torch.Tensor) -> torch.Tensor:
        return self._decoder(latents[None])[0]

    def _with_room(self, work: Callable[[], torch.Tensor], size: tuple[int, int]) -> torch.Tensor:
        """Do it at once if there is room for a picture of this width and height; else, or if that fails, in tiles."""
        if self._free() > DECODER_BYTES * self._width * math.prod(size):
            try:
                return work()
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                log.info("the memory was not enough for the VAE; the picture is worked on in tiles")
        # Outside of the except block: only there are the failed attempt's tensors gone.
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        with self._tiled(max(size) // self._factor):
            return work()

    @property
    def _width(self) -> int:
        """Channels of the decoder at the picture's full size."""
        return int(self.module.config.block_out_channels[0])

    def _free(self) -> float:
        """Bytes of GPU memory that can be had; without end elsewhere, where the machine swaps before it fails."""
        return free_memory(self._device) if self._device.type == "cuda" else math.inf

    @contextmanager
    def _tiled(self, longest: int) -> Iterator[None]:
        """Work in the largest tiles that there is room for, smaller than `longest`, a picture's side in latents."""
        room = math.sqrt(self._free() / (DECODER_BYTES * self._width)) / self._factor
        module, tile = self.module, next((tile for tile in TILES if tile < longest and tile < room), TILES[-1])
        before = module.tile_latent_min_size, module.tile_sample_min_size
        module.tile_latent_min_size, module.tile_sample_min_size = tile, tile * self._factor
        module.enable_tiling()
        try:
            yield
        finally:
            module.disable_tiling()
            module.tile_latent_min_size, module.tile_sample_min_size = before

    def _fit_projection(self) -> torch.Tensor:
        """The least-squares map (channels + 1, 3) from latents to colour, fitted on one card of plain colours."""
        levels = torch.linspace(-1, 1, 4)
        colours = torch.cartesian_prod(levels, levels, levels).reshape(8, 8, 3)
        card = colours.repeat_interleave(4 * self._factor, 0).repeat_interleave(4 * self._factor, 1)
        latents = self.encode(tensor_to_image(card.movedim(-1, 0)))[0].movedim(0, -1).cpu()
        centres = latents[2::4, 2::4].reshape(64, -1)
        return torch.linalg.lstsq(torch.cat([centres, torch.ones(64, 1)], 1), colours.reshape(64, 3)).solution


def image_to_tensor(image: Image.Image) -> torch.Tensor:
    """A picture as (1, 3, height, width) in [-1, 1]."""
    pixels = torch.frombuffer(bytearray(image.convert("RGB").tobytes()), dtype=torch.uint8)
    return pixels.reshape(1, image.height, image.width, 3).movedim(-1, 1).float() / 127.5 - 1.0


def tensor_to_image(picture: torch.Tensor) -> Image.Image:
    """A picture (3, height, width) as 8-bit RGB, rounded; values outside [-1, 1] are cut off."""
    pixels = ((picture.float().cpu() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    size = picture.shape[2], picture.shape[1]
    return Image.frombytes("RGB", size, pixels.movedim(0, -1).contiguous().numpy().tobytes())
