"""An opened latent diffusion model: its family's networks and its VAE behind what a run needs of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from copy import copy
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from PIL import Image

from samplers.denoiser import Combined, Condition, Network, Scheduled
from samplers.guidance import PLAIN_CFG, Interval, Method, guide
from samplers.sampler import Denoise
from samplers.schedule import NoiseSchedule
from samplers.tiles import Function

from .autoencoder import Autoencoder, tensor_to_image
from .backends.backend import Backend, BackendNetwork
from .embedding_file import Embeddings
from .extra_networks import PREVIEWS, ExtraNetworks
from .families import OWN_SIZE, ConditionedNetwork, SizeCondition
from .feature_reuse import Reusing, ReusingUNet
from .identity import ModelIdentity, Patch
from .inpainting_network import GREY, Hole, Inpainting
from .lora import PatchedNetwork, Strength, changes_of
from .model_info import ModelError, ModelInfo
from .offload import NONE
from .prompt_schedule import COUNTED, Clock, changes, stages, subprompts
from .prompt_syntax import LoraTag, PromptError, lora_tags, without_tags
from .step_weights import StepWeights

CACHED_PROMPTS = 64


class Model:
    """One model on one device (Rombach et al. 2022, arXiv:2112.10752). Latents are float32, scaled to unit variance.

    info      what is known of its files: name, schedule, prediction type and defaults
    identity  everything that shapes its output; a prompt may add LoRAs, see `identity_for`
    network   text encoder and UNet
    vae       stays float32, which half precision overflows
    extra     the LoRAs that prompts may name; by default those beside its file
    weights   those of the network of the steps, where they may be let go while another backend computes
    offload   what of it rests in host memory, see `offload.OFFLOADS`
    """

    def __init__(
        self,
        info: ModelInfo,
        identity: ModelIdentity,
        network: ConditionedNetwork,
        vae: Autoencoder,
        device: torch.device,
        extra: ExtraNetworks | None = None,
        weights: StepWeights | None = None,
        offload: str = NONE,
    ):
        self.info, self.identity, self.network, self.vae, self.device = info, identity, network, vae, device
        self.weights, self.offload = weights, offload
        self.extra = extra or ExtraNetworks(info.path.parent)
        self._plain: Model | None = None
        self._patched: Model | None = None
        self._prompts: OrderedDict[Hashable, Condition] = OrderedDict()
        self._blanks: dict[tuple[int, int], Hole] = {}

    @property
    def name(self) -> str:
        """Its name in the menu."""
        return self.info.name

    @property
    def schedule(self) -> NoiseSchedule:
        """The noise levels that it was trained on."""
        return self.info.schedule

    def identity_for(self, prompt: str, negative_prompt: str = "", feature_reuse: int = 1) -> ModelIdentity:
        """The identity of the model as a request uses it, with LoRAs and textual inversions. Raises ModelError for
        LoRAs that are not there."""
        loras = tuple(map(self.extra.patch, _tags(prompt)))
        words = self.extra.embeddings_in(f"{without_tags(prompt)}\n{negative_prompt}")
        patches = loras + tuple(map(self.extra.embedding_patch, words))
        return replace(self.able_to_draw(prompt, feature_reuse).identity, patches=patches)

    def able_to_draw(self, prompt: str, feature_reuse: int = 1) -> Model:
        """The model that draws a prompt: itself, or torch's where it names LoRAs or uses features again, both of which
        need torch's layers."""
        return self.by_torch if _tags(prompt) or feature_reuse > 1 else self

    @property
    def by_torch(self) -> Model:
        """The model as torch computes it, which other backends fall back to."""
        return self._plain or self

    @property
    def lacks_weights(self) -> bool:
        """Whether its weights have to be read again before it draws, because another backend drew meanwhile."""
        return self._plain is None and self.weights is not None and not self.weights.held

    def restore(self) -> None:
        """Have the weights in memory that it draws with. Raises ModelError where they cannot be read again."""
        if self.lacks_weights and self.weights is not None:
            self.weights.restore()

    def computed_by(self, backend: Backend) -> Model:
        """The model with its steps computed by a backend. It shares all else with this one."""
        model = copy(self.by_torch)
        model._plain = self.by_torch
        model.network = BackendNetwork(model._plain.network, backend)
        if backend.decode is not None:
            model.vae = self.vae.decoded_by(backend.decode)
        model.identity = replace(self.identity, backend=backend.name, dtype=backend.dtype)
        return model

    def for_prompt(self, prompt: str) -> Model:
        """The model with the LoRAs that a prompt names applied: itself if there are none.

        It shares everything with this one and changes nothing in it; the last such model is kept. Raises ModelError
        for a LoRA that is not there, cannot be read or does not fit.
        """
        tags = _tags(prompt)
        if not tags:
            return self
        if self._plain is not None:
            return self._plain.for_prompt(prompt)
        identity = replace(self.identity, patches=tuple(map(self.extra.patch, tags)))
        self.restore()
        if self._patched is None or self._patched.identity != identity:
            loras = [(self.extra.read(tag.name), Strength(tag.unet, tag.text)) for tag in tags]
            changes = changes_of(loras, self.network.components, self.name)
            self._patched = None
            self._patched = copy(self)
            self._patched.identity = identity
            self._patched.network = PatchedNetwork(self.network, changes)
        return self._patched

    def encode_prompt(self, text: str, clip_skip: int = 1) -> Condition:
        """The condition of a prompt without its LoRAs, see `ConditionedNetwork.encode`; the latest ones are kept."""
        text = without_tags(text)
        words = self.extra.embeddings_in(text)
        used = tuple(map(self.extra.embedding_patch, words))
        key = (self.identity.patches, used, text, clip_skip)
        if key not in self._prompts:
            self._prompts[key] = self.network.encode(text, clip_skip, *self._vectors(words))
            while len(self._prompts) > CACHED_PROMPTS:
                self._prompts.popitem(last=False)
        self._prompts.move_to_end(key)
        return self._prompts[key]

    def count_tokens(self, text: str) -> tuple[int, int]:
        """See `ConditionedNetwork.count_tokens`; of a prompt that changes, or of several, the one with the most."""
        found = [stage for part in subprompts(without_tags(text)) for _, stage in stages(part.text, COUNTED)]
        vectors = self._vectors(self.extra.embeddings_in(text))
        return max(self.network.count_tokens(each, *vectors) for each in dict.fromkeys(found))

    def _vectors(self, words: list[str]) -> tuple[Embeddings, ...]:
        # Left out where there are none: a family need not know of them.
        return ({word: self.extra.vectors(word) for word in words},) if words else ()

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
        method: Method = PLAIN_CFG,
        around: Callable[[Function], Function] = lambda network: network,
        prompt_syntax: str = "full",
        clock: Clock | None = None,
        hole: Hole | None = None,
        size_condition: SizeCondition = OWN_SIZE,
        feature_reuse: int = 1,
    ) -> Denoise:
        """denoise(x, sigma) for this prompt, for samplers.

        clip_skip         1 is the text encoder's last layer
        guidance_rescale  see `samplers.guidance.Guided`
        guidance_low      guidance is used for sigmas above this one
        guidance_high     and up to this one; 0 is without an end
        on_gap            listens to guidance, see `samplers.guidance.Guided`
        method            how the estimates with the two prompts become one
        around            makes the network another one, such as `samplers.tiles.Tiled`
        prompt_syntax     "weights" takes brackets as weights alone; anything else also reads `weights.prompt_schedule`
        clock             the steps of the pass, by which prompts change; not needed for those that do not
        hole              what a network made for inpainting is shown; by default nothing is known of the picture
        size_condition    see `ConditionedNetwork.told`
        feature_reuse     one call in so many is whole, see `ReusingUNet`; not with tiles, which have features each
        The LoRAs that the prompt names act on both prompts. A network that takes the guidance scale as an input is told
        it, and makes one estimate. Raises ModelError, see `for_prompt`.
        """
        model = self.able_to_draw(prompt, feature_reuse).for_prompt(prompt)
        model.restore()
        positive: Any
        negative: Any
        encode = partial(model._condition, clip_skip=clip_skip, size=size_condition, guidance=guidance)
        if prompt_syntax == "weights":
            positive, negative = encode(prompt), encode(negative_prompt, negative=True)
        else:
            negative = _scheduled(negative_prompt, partial(encode, negative=True), clock)
            parts = subprompts(without_tags(prompt))
            weighted = [(part.weight, _scheduled(part.text, encode, clock)) for part in parts]
            positive = Combined.of(weighted, negative) if len(parts) > 1 else weighted[0][1]
        unet, computing = model._reusing(feature_reuse)
        function = around(computing)
        if self.info.inpaints:
            function = Inpainting(function, hole.at if hole else self.blank_hole)
        network = Network(function, self.schedule, self.info.prediction)
        interval, scale = Interval(guidance_low, guidance_high), 1.0 if self.info.takes_guidance else guidance
        denoise = guide(network, positive, negative, scale, guidance_rescale, interval, on_gap, method)
        return Reusing(denoise, unet) if unet else denoise

    def denoiser_of_each(self, prompts: Sequence[str], guidance: float = 1.0, feature_reuse: int = 1) -> Denoise:
        """denoise(x, sigma) of as many pictures as prompts, or of a whole multiple of them, with an empty negative
        prompt.

        Raises ModelError for prompts that are not of one length in chunks, and for a network made for inpainting.
        """
        if self.info.inpaints:
            raise ModelError("a network made for inpainting draws no picture from words alone")
        model = self.able_to_draw("", feature_reuse)
        model.restore()
        joined: Any = None
        for prompt in prompts:
            condition = self._condition(prompt, guidance)
            joined = condition if joined is None else joined.join(condition)
            if joined is None:
                raise ModelError("the prompts are not of one length; take short ones")
        unet, computing = model._reusing(feature_reuse)
        network = Network(computing, self.schedule, self.info.prediction)
        scale = 1.0 if self.info.takes_guidance else guidance
        denoise = guide(network, joined, self._condition("", guidance, negative=True), scale)
        return Reusing(denoise, unet) if unet else denoise

    def _condition(
        self, text: str, guidance: float, clip_skip: int = 1, size: SizeCondition = OWN_SIZE, negative: bool = False
    ) -> Any:
        """The condition of a prompt, or of the negative one, with all that the network is told."""
        condition = self.network.told(self.encode_prompt(text, clip_skip), size, negative)
        return self.network.guided(condition, guidance) if self.info.takes_guidance else condition

    def _reusing(self, every: int) -> tuple[ReusingUNet | None, ConditionedNetwork]:
        """(a UNet of which one call in `every` is whole, the network with it); None for 1, with the network itself."""
        if every == 1:
            return None, self.network
        unet = ReusingUNet(self.network.unet, every)
        return unet, self.network.with_unet(unet)

    def blank_hole(self, size: tuple[int, int]) -> Hole:
        """The hole of a picture of which nothing is known, for latents of a (height, width)."""
        if size not in self._blanks:
            # The last size only: a picture's passes follow one another.
            self._blanks.clear()
            grey = Image.new("RGB", (size[1] * self.info.factor, size[0] * self.info.factor), GREY)
            self._blanks[size] = Hole(torch.ones(1, 1, *size), self.encode(grey))
        return self._blanks[size]

    def latents_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """(channels, height, width) of the latents of a picture of this size in pixels."""
        return self.info.channels, height // self.info.factor, width // self.info.factor

    def encode(self, image: Image.Image) -> torch.Tensor:
        """See `Autoencoder.encode`."""
        return self.vae.encode(image)

    def decode(self, latents: torch.Tensor) -> list[Image.Image]:
        """See `Autoencoder.decode`."""
        return self.vae.decode(latents)

    def is_cheap_to_decode(self, width: int, height: int) -> bool:
        """See `Autoencoder.is_cheap`."""
        return self.vae.is_cheap(width, height)

    def preview(self, latents: torch.Tensor) -> list[Image.Image]:
        """See `Autoencoder.preview`; by a quick decoder of weights/previews/ where there is one for this VAE."""
        return self.vae.preview(latents, lambda: self.extra.preview_decoder(self.vae.scale, self.device))

    def decode_quickly(self, latents: torch.Tensor) -> list[Image.Image]:
        """The pictures of latents by the quick decoder: drafts. ModelError without one for this model."""
        decoder = self.extra.preview_decoder(self.vae.scale, self.device)
        if decoder is None:
            raise self._without_quick_decoder()
        return [tensor_to_image(picture) for picture in decoder(latents, whole=True)]

    @property
    def quick_decoder(self) -> Patch:
        """The quick decoder as part of what makes a draft. ModelError without one for this model."""
        name = self.extra.preview_name(self.vae.scale)
        if name is None:
            raise self._without_quick_decoder()
        return self.extra.decoder_patch(name)

    def _without_quick_decoder(self) -> ModelError:
        return ModelError(
            f"weights/{PREVIEWS}/ has no quick decoder for model {self.name}; put TAESD or TAESDXL there, or have the "
            "picture decoded by the model's VAE"
        )


def _scheduled(text: str, encode: Callable[[str], Condition], clock: Clock | None) -> Any:
    """The condition of a prompt, or its conditions in turn."""
    text = without_tags(text)
    if clock is None:
        if changes(text):
            raise ModelError("a prompt that changes during the run needs to know its steps")
        return encode(text)
    found = stages(text, clock)
    conditions = tuple(encode(stage) for _, stage in found)
    return Scheduled(conditions, tuple(clock.sigmas[last] for last, _ in found[:-1])) if found[1:] else conditions[0]


def _tags(prompt: str) -> tuple[LoraTag, ...]:
    try:
        return lora_tags(prompt)
    except PromptError as error:
        raise ModelError(str(error)) from None
