"""The refiner of Stable Diffusion XL (Podell et al. 2023, arXiv:2307.01952, section 2.5): draws details into pictures.

It has the second text encoder alone, and is told an aesthetic score in place of the size that was aimed at. The facts
are those of the original configuration, sd_xl_refiner.yaml.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ..condition import TensorCondition
from ..embedding_file import NO_EMBEDDINGS, Embeddings
from ..module_part import ModulePart, empty_part
from ..prompt_encoder import PromptEncoder
from ..tensors import TensorFile
from ..tokenizer import clip_tokenizer
from .clip_text import OPEN_CLIP_TOKENS, open_clip_config
from .family import ConditionedNetwork, SizeCondition
from .ldm_file import LdmFile, missing_tensors_named
from .ldm_unet import UNET, averaged, unet_source, with_dotted_averages
from .ldm_vae import VAE, vae_config, vae_part
from .stable_diffusion_xl import SCALE, check_inputs, projection_name, second_text_encoder, unet_config

TEXT = "conditioner.embedders.0.model."
LEVELS, LAYERS = 4, 2  # of the UNet; residual blocks of a level
ATTENDED = (1, 2)  # levels of the way up that have attention
SCORES = {False: 6.0, True: 2.5}  # told of the prompt and of the negative one, as in other programs


class StableDiffusionXLRefiner:
    """See `Family`."""

    components: ClassVar[Mapping[str, tuple[str, str]]] = {
        "unet": ("diffusers", "UNet2DConditionModel"),
        "vae": ("diffusers", "AutoencoderKL"),
        "text_encoder_2": ("transformers", "CLIPTextModelWithProjection"),
        "tokenizer_2": ("transformers", "CLIPTokenizer"),
    }

    def recognize(self, file: TensorFile) -> RefinerFile | None:
        """See `Family.recognize`. The prefix of the text encoder tells."""
        file = with_dotted_averages(file)
        sizes = file.sizes
        first = sizes.get(f"{UNET}input_blocks.0.0.weight")
        if first is None or TEXT + OPEN_CLIP_TOKENS not in sizes:
            return None
        check_inputs(file, first)
        with missing_tensors_named(file):
            text = open_clip_config(sizes, TEXT)
            text["projection_dim"] = sizes[projection_name(sizes, TEXT)][-1]
            vae = vae_config(sizes, VAE, SCALE) if f"{VAE}decoder.conv_in.weight" in sizes else None
            unet = unet_config(sizes, text["hidden_size"], LEVELS, ATTENDED)
        return RefinerFile(file, unet, vae, text)

    def build(self, name: str, components: Mapping[str, Any], device: torch.device) -> RefinerNetwork:
        """See `Family.build`."""
        prompts = PromptEncoder(name, components["tokenizer_2"], components["text_encoder_2"], device, penultimate=True)
        factor = 2 ** (len(components["vae"].config.block_out_channels) - 1)
        return RefinerNetwork(components["unet"], prompts, factor)


@dataclass(frozen=True, eq=False)
class RefinerFile(LdmFile):
    """A single file. See `Checkpoint`.

    text  the arguments of the text encoder
    """

    text: Mapping[str, Any]

    def size(self, prediction: str) -> int:
        """That of the base model."""
        return 1024

    def parts(self, vae: TensorFile | None) -> dict[str, ModulePart]:
        """See `Checkpoint.parts`."""
        from diffusers import UNet2DConditionModel

        unet = empty_part(
            lambda: UNet2DConditionModel(**self.unet), self.file, lambda name: unet_source(name, LAYERS, ATTENDED)
        )
        return {
            "unet": averaged(unet),
            "text_encoder_2": second_text_encoder(self.file, self.text, TEXT),
            "vae": vae_part(self.file, self.vae, vae, SCALE),
        }

    def tokenizers(self) -> dict[str, Any]:
        """That of the base model's second text encoder."""
        return {"tokenizer_2": clip_tokenizer("!")}


class RefinerNetwork(ConditionedNetwork):
    """The opened UNet and text encoder. See `ConditionedNetwork`.

    factor  pixels of a side that a latent stands for; the UNet is told the size of the picture in pixels
    """

    def __init__(self, unet: Any, prompts: PromptEncoder, factor: int):
        self.unet, self.prompts, self._factor = unet, prompts, factor
        self.components: Mapping[str, torch.nn.Module] = {"unet": unet, "text_encoder_2": prompts.encoder}
        self._device, self._dtype = prompts.device, unet.dtype

    def encode(self, prompt: str, clip_skip: int = 1, embeddings: Embeddings = NO_EMBEDDINGS) -> TensorCondition:
        """The hidden states, and the pooled vector of the first chunk."""
        text, pooled = self.prompts.encode_pooled(prompt, clip_skip, embeddings)
        return TensorCondition({"text": text, "pooled": pooled})

    def count_tokens(self, prompt: str, embeddings: Embeddings = NO_EMBEDDINGS) -> tuple[int, int]:
        """See `PromptEncoder.count_tokens`."""
        return self.prompts.count_tokens(prompt, embeddings)

    def told(self, condition: TensorCondition, size: SizeCondition, negative: bool = False) -> TensorCondition:
        """See `ConditionedNetwork.told`; the score as well."""
        facts = {"original": torch.tensor([[*size]], dtype=torch.float32), "score": torch.tensor([[SCORES[negative]]])}
        return TensorCondition({**condition.tensors, **facts})

    def inputs(self, scaled: torch.Tensor, timestep: float, condition: TensorCondition) -> dict[str, torch.Tensor]:
        """See `ConditionedNetwork.inputs`; a condition that was not told anything is that of a prompt."""
        told = dict(condition.tensors)
        original = told.pop("original", torch.zeros(1, 4)).to(self._device, self._dtype)
        score = told.pop("score", torch.tensor([[SCORES[False]]])).to(self._device, self._dtype)
        height, width = (self._factor * side for side in scaled.shape[-2:])
        own = torch.tensor([[height, width]], dtype=self._dtype, device=self._device)
        before = torch.where(original[:, [1, 0]] > 0, original[:, [1, 0]], own)
        # Original height and width, top and left of the crop, and the score.
        sizes = torch.cat([before, original[:, [3, 2]], score], 1)
        at = torch.tensor([timestep], dtype=torch.float32, device=self._device)
        return {"latents": scaled.to(self._device), "timestep": at, "sizes": sizes.expand(len(scaled), -1), **told}

    def step(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """See `ConditionedNetwork.step`."""
        latents, text, pooled, sizes = (inputs[name].to(self._dtype) for name in ("latents", "text", "pooled", "sizes"))
        added = {"text_embeds": pooled, "time_ids": sizes}
        return self.unet(latents, inputs["timestep"], encoder_hidden_states=text, added_cond_kwargs=added).sample
