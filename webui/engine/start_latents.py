"""The latents that a pass starts from, what of them it keeps, and how they are enlarged from the pass before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from samplers.noise import Noise, spherical
from samplers.sampler import Denoise
from samplers.wrappers import SoftlyMasked
from webui.core.images import fit_picture
from webui.core.inpainting import FREE, KEPT, InputPicture
from webui.core.menus import LATENT
from webui.core.request import Request, RequestError
from weights.inpainting_network import GREY, Hole
from weights.model import Model
from weights.upscaler import Upscaler, enlarged

from .job_context import JobContext


@dataclass(frozen=True, eq=False)
class StartLatents:
    """Where a run starts, without its noise.

    clean   (1, channels, height, width): the encoded input picture, or zeros for a picture from words
    filled  as `clean`, with what takes the place of the masked part at the start
    mask    (1, 1, height, width): 1 is drawn anew from the start, 0 kept to the end; None draws all
    noise   whether noise, of each picture's own seed, takes the place of the masked part
    """

    clean: torch.Tensor
    filled: torch.Tensor
    mask: torch.Tensor | None = None
    noise: bool = False

    def of(self, seeds: Sequence[int]) -> torch.Tensor:
        """The start of a picture of each seed."""
        start = self.filled.repeat(len(seeds), 1, 1, 1)
        if self.mask is None or not self.noise:
            return start
        return torch.where(self.mask >= 1, Noise(seeds, "fill")(start), start)

    def masked(self, denoise: Denoise, top: float) -> Denoise:
        """The denoiser that keeps what the mask keeps, in a run that starts at the sigma `top`."""
        return denoise if self.mask is None else SoftlyMasked(denoise, self.clean, self.mask, top)


def start_latents(request: Request, source: InputPicture | None, model: Any) -> StartLatents:
    """The start of a resolved request's run on an opened model."""
    if source is None:
        zeros = torch.zeros(1, *model.latents_shape(*request.drawn_size), device=model.device)
        return StartLatents(zeros, zeros)
    clean = model.encode(source.drawn)
    if source.drawn_mask is None:
        return StartLatents(clean, clean)
    mask = latent_mask(source.drawn_mask, model.info.factor).to(clean)
    filled = clean
    if request.mask_fill == "flat":
        filled = torch.where(mask >= 1, model.encode(source.filled), clean)
    return StartLatents(clean, filled, mask, request.mask_fill == "noise")


def hole_of(source: InputPicture | None, model: Any) -> Hole | None:
    """What a network made for inpainting is shown of an input picture with a mask; None where all is drawn anew."""
    if source is None or source.drawn_mask is None or not model.info.inpaints:
        return None
    masked = source.drawn_mask.point(lambda value: FREE if value > FREE // 2 else KEPT)
    shown = Image.composite(Image.new("RGB", masked.size, GREY), source.drawn, masked)
    return Hole(latent_mask(masked, model.info.factor), model.encode(shown))


def initial_noise(request: Request, images: range) -> Callable[[torch.Tensor], torch.Tensor]:
    """The starting noise of these images of a resolved request: of their seeds, led away for variations."""
    own = Noise([request.seeds[i] for i in images], "initial")
    if not request.is_varied:
        return own
    other = Noise([request.own_seeds[i] for i in images], "initial")

    def varied(x: torch.Tensor) -> torch.Tensor:
        # On the CPU in float32 like all noise, so that it is the same everywhere.
        here = torch.zeros(x.shape)
        return spherical(own(here), other(here), request.variation_strength).to(x)

    return varied


def latent_mask(mask: Image.Image, factor: int) -> torch.Tensor:
    """A mask as (1, 1, height, width) from 0 to 1: a latent is as free as the freest of its factor x factor pixels."""
    pixels = torch.from_numpy(np.array(mask, np.float32))[None, None] / 255
    return torch.nn.functional.max_pool2d(pixels, factor)


def enlarged_input(source: InputPicture, context: JobContext) -> InputPicture:
    """The input picture of a request that is drawn in tiles, with its mask, at the size that it is drawn at."""
    size = source.request.tiled_size(source.picture.size)
    picture = _enlarged(source.picture, size, context.upscalers.open(source.request.upscaler), context)
    mask = None if source.mask is None else fit_picture(source.mask, *size, "stretch")
    return replace(source, picture=picture, mask=mask, multiple=context.model.info.defaults.multiple)


def enlarge(
    x: torch.Tensor, size: tuple[int, int], name: str, context: JobContext, second: Model | None = None
) -> torch.Tensor:
    """Latents (images, channels, height, width) enlarged for a picture of this width and height, by a known upscaler.

    Latents are interpolated; a picture is decoded, enlarged and encoded again, which blurs less and costs more. What
    has its size already stays.

    second  encodes it for itself; check before with `check_latents`
    """
    model = context.model
    second = second or model
    shape = second.latents_shape(*size)
    if tuple(x.shape[1:]) == shape and of_one_kind(model, second):
        return x
    if mode := LATENT.get(name):
        return torch.nn.functional.interpolate(x, size=shape[1:], mode=mode)
    pictures, upscaler = [model.decode(one[None])[0] for one in x], context.upscalers.open(name)
    return torch.cat([second.encode(_enlarged(picture, size, upscaler, context)) for picture in pictures])


def of_one_kind(model: Model, second: Model) -> bool:
    """Whether the latents of one model mean the same to the other: SDXL's mean the same to its refiner."""
    kinds = ((each.info.channels, each.info.factor, each.vae.scale) for each in (model, second))
    return second is model or len(set(kinds)) == 1


def check_latents(model: Model, second: Model, upscaler: str) -> None:
    """Raises RequestError for an upscaler of latents between models whose latents differ."""
    if upscaler in LATENT and not of_one_kind(model, second):
        raise RequestError(
            f"The latents of {model.name} mean something else to {second.name}, so that {upscaler} cannot be used "
            "between them; choose an upscaler of pictures."
        )


def check_refiner_latents(model: Model, refiner: Model) -> None:
    """Raises RequestError for a refiner that could not go on with the latents of a model."""
    if not of_one_kind(model, refiner):
        raise RequestError(
            f"The latents of {model.name} mean something else to {refiner.name}, so that it cannot be its refiner; "
            "choose one of the same family, or have it draw the second pass of hires fix."
        )


def _enlarged(image: Image.Image, size: tuple[int, int], upscaler: Upscaler | None, context: JobContext) -> Image.Image:
    return enlarged(image, size, upscaler, lambda done, tiles: context.raise_if_stopped())
