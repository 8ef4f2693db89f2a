"""An opened latent diffusion model: text encoder, VAE and UNet behind what a run needs of them."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from PIL import Image

from samplers.denoiser import Denoiser

from .catalog import Found

KEPT_PROMPTS = 64
SMALL_SIDE = 128  # up to this side a full decode is cheap enough for a preview


class Model:
    """One model on one device (Rombach et al. 2022, arXiv:2112.10752). Latents are float32, scaled to unit variance.

    found      its name, schedule, prediction type and defaults
    dtype      the UNet's and the text encoder's; the VAE stays float32, which half precision overflows
    digest     of the UNet's weights
    """

    def __init__(self, found: Found, tokenizer, text_encoder, vae, unet, device: torch.device, dtype: torch.dtype, digest: str):
        self.found, self.device, self.dtype, self.digest = found, device, dtype, digest
        self._tokenizer, self._text_encoder, self._vae, self._unet = tokenizer, text_encoder, vae, unet
        self._prompts: OrderedDict[str, torch.Tensor] = OrderedDict()
        self._projection: torch.Tensor | None = None

    def __getattr__(self, name: str) -> Any:
        # name, schedule, prediction, channels, factor and defaults are the found model's own.
        if name.startswith("_") or name == "found":
            raise AttributeError(name)
        return getattr(self.found, name)

    @torch.inference_mode()
    def encode_prompt(self, text: str) -> torch.Tensor:
        """The text encoder's last hidden states, (1, tokens, width); the latest prompts are kept."""
        if text not in self._prompts:
            length = self._tokenizer.model_max_length
            tokens = self._tokenizer(text, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
            self._prompts[text] = self._text_encoder(tokens.input_ids.to(self.device))[0]
            while len(self._prompts) > KEPT_PROMPTS:
                self._prompts.popitem(last=False)
        self._prompts.move_to_end(text)
        return self._prompts[text]

    def count_tokens(self, text: str) -> tuple[int, int]:
        """How many tokens the prompt has and how many the model reads, both without the start and end marks."""
        return len(self._tokenizer(text).input_ids) - 2, self._tokenizer.model_max_length - 2

    def denoiser(self, prompt: str, negative_prompt: str = "", guidance: float = 1.0) -> Denoiser:
        """denoise(x, sigma) for this prompt, for samplers."""
        positive, negative = self.encode_prompt(prompt), self.encode_prompt(negative_prompt)
        return Denoiser(self._network, self.schedule, self.prediction, positive, negative, guidance)

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
        """The pictures of latents (images, channels, h, w), one at a time: a VAE needs more memory than the UNet."""
        latents = latents.to(self.device, torch.float32) / self._vae.config.scaling_factor
        latents = latents + (self._vae.config.shift_factor or 0.0)
        return [_to_image(self._vae.decode(one[None]).sample[0]) for one in latents]

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
