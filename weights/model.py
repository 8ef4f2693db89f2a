"""An opened latent diffusion model: its family's networks and its VAE behind what a run needs of them."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Any

import torch
from PIL import Image

from samplers.denoiser import Condition, Network
from samplers.guidance import Interval, guide
from samplers.sampler import Denoise
from samplers.schedule import NoiseSchedule

from .autoencoder import Autoencoder
from .families import ConditionedNetwork
from .identity import ModelIdentity
from .model_info import ModelInfo

CACHED_PROMPTS = 64
PROBE_SIDE = 16  # of the latents that a network is tried with

log = logging.getLogger(__name__)


class Model:
    """One model on one device (Rombach et al. 2022, arXiv:2112.10752). Latents are float32, scaled to unit variance.

    info      what is known of its files: name, schedule, prediction type and defaults
    identity  everything that shapes its output
    network   text encoder and UNet
    vae       stays float32, which half precision overflows
    """

    def __init__(
        self,
        info: ModelInfo,
        identity: ModelIdentity,
        network: ConditionedNetwork,
        vae: Autoencoder,
        device: torch.device,
    ):
        self.info, self.identity, self.network, self.vae, self.device = info, identity, network, vae, device
        self._prompts: OrderedDict[Hashable, Condition] = OrderedDict()

    @property
    def name(self) -> str:
        """Its name in the menu."""
        return self.info.name

    @property
    def schedule(self) -> NoiseSchedule:
        """The noise levels that it was trained on."""
        return self.info.schedule

    def encode_prompt(self, text: str, clip_skip: int = 1) -> Condition:
        """The condition of a prompt, see `ConditionedNetwork.encode`; the latest ones are kept."""
        key = (self.identity.patches, text, clip_skip)
        if key not in self._prompts:
            self._prompts[key] = self.network.encode(text, clip_skip)
            while len(self._prompts) > CACHED_PROMPTS:
                self._prompts.popitem(last=False)
        self._prompts.move_to_end(key)
        return self._prompts[key]

    def count_tokens(self, text: str) -> tuple[int, int]:
        """See `ConditionedNetwork.count_tokens`."""
        return self.network.count_tokens(text)

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
        positive, negative = (self.encode_prompt(text, clip_skip) for text in (prompt, negative_prompt))
        network = Network(self.network, self.schedule, self.info.prediction)
        interval = Interval(guidance_low, guidance_high)
        return guide(network, positive, negative, guidance, guidance_rescale, interval, on_gap)

    def use_channels_last(self, width: int) -> None:
        """Keep weights of a UNet with so many channels or more in channels-last order; the numbers stay the same."""
        if self.network.unet.config.block_out_channels[0] >= width:
            self.network.unet.to(memory_format=torch.channels_last)

    def compile(self) -> None:
        """Let torch.compile translate the UNet; where that fails, warn and go on without."""
        uncompiled = self.network.unet
        try:
            self.network.unet = torch.compile(uncompiled)
            side = max(PROBE_SIDE, self.info.defaults.size // self.info.factor)
            latents = torch.zeros(1, self.info.channels, side, side, device=self.device)
            self.network(latents, 1.0, self.encode_prompt(""))
            self.identity = replace(self.identity, compiled=True)
        except Exception as error:
            log.warning(
                "--compile does not work here, drawing goes on without it: %s", str(error).strip().split("\n")[0]
            )
            self.network.unet = uncompiled

    def latents_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """(channels, height, width) of the latents of a picture of this size in pixels."""
        return self.info.channels, height // self.info.factor, width // self.info.factor

    def encode(self, image: Image.Image) -> torch.Tensor:
        """See `Autoencoder.encode`."""
        return self.vae.encode(image)

    def decode(self, latents: torch.Tensor) -> list[Image.Image]:
        """See `Autoencoder.decode`."""
        return self.vae.decode(latents)

    def preview(self, latents: torch.Tensor) -> list[Image.Image]:
        """See `Autoencoder.preview`."""
        return self.vae.preview(latents)


@torch.no_grad()
def guess_prediction(
    network: Callable[[torch.Tensor, float, Any], torch.Tensor],
    condition: Condition,
    info: ModelInfo,
    device: torch.device,
) -> str:
    """Find out what a network predicts: on pure noise, epsilon equals its input and v has almost nothing of it.

    At the highest level the state is z = alpha x0 + sqrt(1 - alpha^2) eps with alpha near 0, so the slope of the
    output on z is about 1 for epsilon and about alpha for v = alpha eps - sqrt(1 - alpha^2) x0.
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, info.channels, PROBE_SIDE, PROBE_SIDE, generator=generator).to(device)
    output = network(noise, info.schedule.timestep(info.schedule.sigmas[-1]), condition)
    slope = float((output * noise).sum() / (noise * noise).sum())
    return "epsilon" if slope > 0.5 else "v_prediction"
