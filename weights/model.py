"""An opened latent diffusion model: text encoder, VAE and UNet behind what a run needs of them."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from PIL import Image

from samplers.denoiser import Network
from samplers.guidance import Interval, guide
from samplers.sampler import Denoise
from samplers.schedule import NoiseSchedule

from .autoencoder import Autoencoder
from .condition import TextCondition
from .identity import ModelIdentity
from .model_info import ModelInfo
from .prompt_encoder import Prompts

KEPT_PROMPTS = 64
PROBE_SIDE = 16  # of the latents that the network is asked about itself with

log = logging.getLogger(__name__)


class Model:
    """One model on one device (Rombach et al. 2022, arXiv:2112.10752). Latents are float32, scaled to unit variance.

    info      what is known of its files: name, schedule, prediction type and defaults
    identity  everything that shapes its output
    dtype     the UNet's and the text encoder's; the VAE stays float32, which half precision overflows
    """

    def __init__(
        self,
        info: ModelInfo,
        identity: ModelIdentity,
        tokenizer: Any,
        text_encoder: torch.nn.Module,
        vae: torch.nn.Module,
        unet: torch.nn.Module,
        device: torch.device,
        dtype: torch.dtype,
    ):
        self.info, self.identity, self.device, self.dtype = info, identity, device, dtype
        self._vae, self._unet = Autoencoder(vae, info.factor, device), unet
        self._text = Prompts(info.name, tokenizer, text_encoder)
        self._prompts: OrderedDict[tuple[str, int], torch.Tensor] = OrderedDict()

    @property
    def name(self) -> str:
        """Its name in the menu."""
        return self.info.name

    @property
    def schedule(self) -> NoiseSchedule:
        """The noise levels that it was trained on."""
        return self.info.schedule

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
        on_gap: Callable[[float, torch.Tensor], None] | None = None,
    ) -> Denoise:
        """denoise(x, sigma) for this prompt, for samplers.

        clip_skip         1 is the text encoder's last layer
        guidance_rescale  see `samplers.guidance.Guided`
        guidance_low      guidance is used for sigmas above this one
        guidance_high     and up to this one; 0 is without an end
        on_gap            listens to guidance, see `samplers.guidance.Guided`
        """
        positive, negative = (TextCondition(self.encode_prompt(text, clip_skip)) for text in (prompt, negative_prompt))
        network = Network(self._network, self.schedule, self.info.prediction)
        interval = Interval(guidance_low, guidance_high)
        return guide(network, positive, negative, guidance, guidance_rescale, interval, on_gap)

    @torch.no_grad()
    def guess_prediction(self) -> str:
        """What the network predicts, asked of itself: on pure noise, epsilon is the input again and v almost nothing of it.

        At the highest level the state is z = alpha x0 + sqrt(1 - alpha^2) eps with alpha near 0, so the slope of the
        output on z is about 1 for epsilon and about alpha for v = alpha eps - sqrt(1 - alpha^2) x0.
        """
        noise = torch.randn(
            1, self.info.channels, PROBE_SIDE, PROBE_SIDE, generator=torch.Generator().manual_seed(0)
        ).to(self.device)
        highest = self.schedule.timestep(self.schedule.sigmas[-1])
        output = self._network(noise, highest, TextCondition(self.encode_prompt("")))
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
            side = max(PROBE_SIDE, self.info.defaults.size // self.info.factor)
            latents = torch.zeros(1, self.info.channels, side, side, device=self.device)
            self._network(latents, 1.0, TextCondition(self.encode_prompt("")))
            self.identity = replace(self.identity, compiled=True)
        except Exception as error:
            log.warning(
                "--compile does not work here, drawing goes on without it: %s", str(error).strip().split("\n")[0]
            )
            self._unet = plain

    def latents_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """(channels, height, width) of the latents of a picture of this size in pixels."""
        return self.info.channels, height // self.info.factor, width // self.info.factor

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
    def _network(self, scaled: torch.Tensor, timestep: float, condition: TextCondition) -> torch.Tensor:
        at = torch.tensor([timestep], dtype=torch.float32, device=self.device)
        output = self._unet(scaled.to(self.device, self.dtype), at, encoder_hidden_states=condition.states).sample
        return output.to(scaled)
