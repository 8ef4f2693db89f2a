"""An opened latent diffusion model: text encoder, VAE and UNet behind what a run needs of them."""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import Any

import torch
from PIL import Image

from samplers.denoiser import Denoiser, guidance_interval

from .found import Found
from .text import Prompts

KEPT_PROMPTS = 64
SMALL_SIDE = 128  # up to this side a full decode is cheap enough for a preview
# Of GPU memory that the decoder takes for a pixel of the picture, in float32: its two widest layers and their copies.
DECODER_BYTES = 10_000
PROBE_SIDE = 16  # of the latents that the network is asked about itself with

log = logging.getLogger(__name__)


class Model:
    """One model on one device (Rombach et al. 2022, arXiv:2112.10752). Latents are float32, scaled to unit variance.

    found       its name, schedule, prediction type and defaults
    dtype       the UNet's and the text encoder's; the VAE stays float32, which half precision overflows
    digest      of the UNet's weights, or of the whole single file
    vae_digest  of the VAE's file, where it takes the place of the model's own
    """

    vae_digest = ""

    def __init__(self, found: Found, tokenizer, text_encoder, vae, unet, device: torch.device, dtype: torch.dtype, digest: str):
        self.found, self.device, self.dtype, self.digest = found, device, dtype, digest
        self._vae, self._unet = vae, unet
        self._text = Prompts(found.name, tokenizer, text_encoder)
        self._prompts: OrderedDict[tuple[str, int], torch.Tensor] = OrderedDict()
        self._projection: torch.Tensor | None = None

    def __getattr__(self, name: str) -> Any:
        # name, schedule, prediction, channels, factor and defaults are the found model's own.
        if name.startswith("_") or name == "found":
            raise AttributeError(name)
        return getattr(self.found, name)

    def encode_prompt(self, text: str, clip_skip: int = 1) -> torch.Tensor:
        """The prompt as the UNet reads it, (1, tokens, width), see `Prompts.encode`; the latest ones are kept."""
        key = (text, clip_skip)
        if key not in self._prompts:
            self._prompts[key] = self._text.encode(text, clip_skip)
            while len(self._prompts) > KEPT_PROMPTS:
                self._prompts.popitem(last=False)
        self._prompts.move_to_end(key)
        return self._prompts[key]

    def count_tokens(self, text: str) -> tuple[int, int]:
        """How many tokens the prompt has and how many its chunks could hold, without the start and end marks."""
        chunks = self._text.chunks(text)
        return sum(len(chunk.tokens) for chunk in chunks), len(chunks) * self._text.size

    def denoiser(
        self,
        prompt: str,
        negative_prompt: str = "",
        guidance: float = 1.0,
        clip_skip: int = 1,
        guidance_rescale: float = 0.0,
        guidance_low: float = 0.0,
        guidance_high: float = 0.0,
    ) -> Denoiser:
        """denoise(x, sigma) for this prompt, for samplers.

        clip_skip         1 is the text encoder's last layer
        guidance_rescale  see `Denoiser`
        guidance_low      guidance is used for sigmas above this one
        guidance_high     and up to this one; 0 is without an end
        """
        positive, negative = self.encode_prompt(prompt, clip_skip), self.encode_prompt(negative_prompt, clip_skip)
        interval = guidance_interval(guidance_low, guidance_high)
        return Denoiser(
            self._network, self.schedule, self.prediction, positive, negative, guidance, rescale=guidance_rescale, interval=interval
        )

    @torch.no_grad()
    def guess_prediction(self) -> str:
        """What the network predicts, asked of itself: on pure noise, epsilon is the input again and v almost nothing of it.

        At the highest level the state is z = alpha x0 + sqrt(1 - alpha^2) eps with alpha near 0, so the slope of the
        output on z is about 1 for epsilon and about alpha for v = alpha eps - sqrt(1 - alpha^2) x0.
        """
        noise = torch.randn(1, self.channels, PROBE_SIDE, PROBE_SIDE, generator=torch.Generator().manual_seed(0)).to(self.device)
        highest = self.schedule.timestep(self.schedule.sigmas[-1])
        output = self._network(noise, highest, self.encode_prompt(""))
        slope = float((output * noise).sum() / (noise * noise).sum())
        return "epsilon" if slope > 0.5 else "v_prediction"

    def lay_out(self, wide: int) -> None:
        """Keep the weights of a UNet with so many channels or more in channels-last order; the numbers stay the same."""
        if self._unet.config.block_out_channels[0] >= wide:
            self._unet.to(memory_format=torch.channels_last)

    def compile(self) -> None:
        """Let torch.compile translate the UNet; where that cannot work, say so and go on without."""
        plain = self._unet
        try:
            self._unet = torch.compile(plain)
            side = max(PROBE_SIDE, self.defaults.size // self.factor)
            self._network(torch.zeros(1, self.channels, side, side, device=self.device), 1.0, self.encode_prompt(""))
        except Exception as error:
            log.warning("--compile does not work here, drawing goes on without it: %s", str(error).strip().split("\n")[0])
            self._unet = plain

    def latents_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """(channels, height, width) of the latents of a picture of this size in pixels."""
        return self.channels, height // self.factor, width // self.factor

    @torch.inference_mode()
    def encode(self, image: Image.Image) -> torch.Tensor:
        """The latents (1, channels, h, w) of a picture: the most probable ones, so that nothing is random."""
        latents = self._vae.encode(_to_tensor(image).to(self.device)).latent_dist.mode()
        return (latents - (self._vae.config.shift_factor or 0.0)) * self._vae.config.scaling_factor

    @torch.inference_mode()
    def decode(self, latents: torch.Tensor) -> list[Image.Image]:
        """The pictures of latents (images, channels, h, w), one at a time: a VAE needs more memory than the UNet.

        Where the GPU's memory is not enough for a picture it is decoded in overlapping tiles, which may show faintly.
        """
        latents = latents.to(self.device, torch.float32) / self._vae.config.scaling_factor
        latents = latents + (self._vae.config.shift_factor or 0.0)
        return [_to_image(self._decode_one(one[None])[0]) for one in latents]

    def _decode_one(self, latents: torch.Tensor) -> torch.Tensor:
        if self._has_room(latents):
            try:
                return self._vae.decode(latents).sample
            except torch.OutOfMemoryError:
                log.info("the VAE's memory was not enough; the picture is decoded in tiles")
        # Outside of the except block: only there are the failed attempt's tensors gone.
        if latents.device.type == "cuda":
            torch.cuda.empty_cache()
        self._vae.enable_tiling()
        try:
            return self._vae.decode(latents).sample
        finally:
            self._vae.disable_tiling()

    def _has_room(self, latents: torch.Tensor) -> bool:
        if latents.device.type != "cuda":
            return True
        free = torch.cuda.mem_get_info(latents.device)[0]
        # What torch has taken and does not use is free, too.
        free += torch.cuda.memory_reserved(latents.device) - torch.cuda.memory_allocated(latents.device)
        return free > DECODER_BYTES * self.factor**2 * latents.shape[-2] * latents.shape[-1]

    @torch.inference_mode()
    def preview(self, latents: torch.Tensor) -> list[Image.Image]:
        """Quick pictures of latents: decoded where that is cheap, else a linear map from latent to colour."""
        if max(latents.shape[-2:]) * self.factor <= SMALL_SIDE:
            return self.decode(latents)
        if self._projection is None:
            self._projection = self._fit_projection()
        values = latents.to("cpu", torch.float32).movedim(1, -1)
        pictures = torch.cat([values, torch.ones_like(values[..., :1])], -1) @ self._projection
        return [_to_image(picture.movedim(-1, 0)).resize((picture.shape[1] * 4, picture.shape[0] * 4)) for picture in pictures]

    @torch.no_grad()
    def _network(self, scaled: torch.Tensor, timestep: float, condition: torch.Tensor) -> torch.Tensor:
        at = torch.tensor([timestep], dtype=torch.float32, device=self.device)
        output = self._unet(scaled.to(self.device, self.dtype), at, encoder_hidden_states=condition).sample
        return output.to(scaled)

    def _fit_projection(self) -> torch.Tensor:
        """The least-squares map (channels + 1, 3) from latents to colour, fitted on one card of plain colours."""
        levels = torch.linspace(-1, 1, 4)
        colours = torch.cartesian_prod(levels, levels, levels).reshape(8, 8, 3)
        card = colours.repeat_interleave(4 * self.factor, 0).repeat_interleave(4 * self.factor, 1)
        latents = self.encode(_to_image(card.movedim(-1, 0)))[0].movedim(0, -1).cpu()
        inner = latents[2::4, 2::4].reshape(64, -1)
        return torch.linalg.lstsq(torch.cat([inner, torch.ones(64, 1)], 1), colours.reshape(64, 3)).solution


def _to_tensor(image: Image.Image) -> torch.Tensor:
    pixels = torch.frombuffer(bytearray(image.convert("RGB").tobytes()), dtype=torch.uint8)
    return (pixels.reshape(1, image.height, image.width, 3).movedim(-1, 1).float() / 127.5) - 1.0


def _to_image(picture: torch.Tensor) -> Image.Image:
    """A picture (3, height, width) in [-1, 1] as 8-bit RGB, rounded."""
    pixels = ((picture.float().cpu() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.frombytes("RGB", (picture.shape[2], picture.shape[1]), pixels.movedim(0, -1).contiguous().numpy().tobytes())
