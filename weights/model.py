"""An opened latent diffusion model: text encoder, VAE and UNet behind what a run needs of them."""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import Any

import torch
from PIL import Image

from samplers.denoiser import Denoiser, guidance_interval

from .autoencoder import Autoencoder
from .model_info import ModelInfo
from .prompt_encoder import Prompts

KEPT_PROMPTS = 64
PROBE_SIDE = 16  # of the latents that the network is asked about itself with

log = logging.getLogger(__name__)


class Model:
    """One model on one device (Rombach et al. 2022, arXiv:2112.10752). Latents are float32, scaled to unit variance.

    found         its name, schedule, prediction type and defaults
    dtype         the UNet's and the text encoder's; the VAE stays float32, which half precision overflows
    digest        of the UNet's weights, or of the whole single file
    vae_digest    of the VAE's file, where it takes the place of the model's own
    parts_digest  of a folder's vocabulary, text encoder and VAE, which `digest` leaves out
    compiled      whether torch.compile has translated the UNet
    """

    vae_digest = parts_digest = ""
    compiled = False

    def __init__(
        self,
        found: ModelInfo,
        tokenizer,
        text_encoder,
        vae,
        unet,
        device: torch.device,
        dtype: torch.dtype,
        digest: str,
    ):
        self.found, self.device, self.dtype, self.digest = found, device, dtype, digest
        self._vae, self._unet = Autoencoder(vae, found.factor, device), unet
        self._text = Prompts(found.name, tokenizer, text_encoder)
        self._prompts: OrderedDict[tuple[str, int], torch.Tensor] = OrderedDict()

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
            self._network,
            self.schedule,
            self.prediction,
            positive,
            negative,
            guidance,
            rescale=guidance_rescale,
            interval=interval,
        )

    @torch.no_grad()
    def guess_prediction(self) -> str:
        """What the network predicts, asked of itself: on pure noise, epsilon is the input again and v almost nothing of it.

        At the highest level the state is z = alpha x0 + sqrt(1 - alpha^2) eps with alpha near 0, so the slope of the
        output on z is about 1 for epsilon and about alpha for v = alpha eps - sqrt(1 - alpha^2) x0.
        """
        noise = torch.randn(1, self.channels, PROBE_SIDE, PROBE_SIDE, generator=torch.Generator().manual_seed(0)).to(
            self.device
        )
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
            self.compiled = True
        except Exception as error:
            log.warning(
                "--compile does not work here, drawing goes on without it: %s", str(error).strip().split("\n")[0]
            )
            self._unet = plain

    def latents_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """(channels, height, width) of the latents of a picture of this size in pixels."""
        return self.channels, height // self.factor, width // self.factor

    def encode(self, image: Image.Image) -> torch.Tensor:
        """See `Autoencoder.encode`."""
        return self._vae.encode(image)

    def decode(self, latents: torch.Tensor) -> list[Image.Image]:
        """See `Autoencoder.decode`."""
        return self._vae.decode(latents)

    def preview(self, latents: torch.Tensor) -> list[Image.Image]:
        """See `Autoencoder.preview`."""
        return self._vae.preview(latents)

    @torch.no_grad()
    def _network(self, scaled: torch.Tensor, timestep: float, condition: torch.Tensor) -> torch.Tensor:
        at = torch.tensor([timestep], dtype=torch.float32, device=self.device)
        output = self._unet(scaled.to(self.device, self.dtype), at, encoder_hidden_states=condition).sample
        return output.to(scaled)
