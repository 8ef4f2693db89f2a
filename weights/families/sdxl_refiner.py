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
from ..module_part import ModulePart
from ..prompt_encoder import PromptEncoder
from ..tensors import TensorFile
from ..tokenizer import clip_tokenizer
from .clip_text import OPEN_CLIP_TOKENS
from .family import SizeCondition
from .ldm_file import LdmFile, missing_tensors_named
from .ldm_unet import UNET, unet_part, with_dotted_averages
from .ldm_vae import own_vae_config, vae_part
from .stable_diffusion_xl import (
    AIM,
    SCALE,
    SizedNetwork,
    check_inputs,
    second_text_config,
    second_text_encoder,
    unet_config,
)

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
            text = second_text_config(sizes, TEXT)
            vae = own_vae_config(sizes, SCALE)
            unet = unet_config(sizes, text["hidden_size"], LEVELS, ATTENDED)
        return RefinerFile(file, unet, vae, text)

    def build(self, name: str, components: Mapping[str, Any], device: torch.device) -> RefinerNetwork:
        """See `Family.build`."""
        prompts = PromptEncoder(name, components["tokenizer_2"], components["text_encoder_2"], device, penultimate=True)
        return RefinerNetwork(components["unet"], components["vae"], prompts)


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
        return {
            "unet": unet_part(self.file, self.unet, LAYERS, ATTENDED),
            "text_encoder_2": second_text_encoder(self.file, self.text, TEXT),
            "vae": vae_part(self.file, self.vae, vae, SCALE),
        }

    def tokenizers(self) -> dict[str, Any]:
        """That of the base model's second text encoder."""
        return {"tokenizer_2": clip_tokenizer("!")}


class RefinerNetwork(SizedNetwork):
    """The opened UNet and text encoder. See `ConditionedNetwork`."""

    def __init__(self, unet: Any, vae: Any, prompts: PromptEncoder):
        super().__init__(unet, vae, prompts.device)
        self.prompts = prompts
        self.components: Mapping[str, torch.nn.Module] = {"unet": unet, "text_encoder_2": prompts.encoder}

    def encode(self, prompt: str, clip_skip: int = 1, embeddings: Embeddings = NO_EMBEDDINGS) -> Any:
        """The hidden states, the pooled vector of the first chunk, and the score of a prompt.

        A textual inversion of the base model holds the vectors of its first encoder and then those of this one.
        """
        width = self.prompts.encoder.config.hidden_size
        own = {name: vectors[:, -width:] for name, vectors in embeddings.items()}
        text, pooled = self.prompts.encode_pooled(prompt, clip_skip, own)
        return self.guided(TensorCondition({"text": text, "pooled": pooled, AIM: torch.tensor([[SCORES[False]]])}), 1.0)

    def count_tokens(self, prompt: str, embeddings: Embeddings = NO_EMBEDDINGS) -> tuple[int, int]:
        """See `PromptEncoder.count_tokens`."""
        return self.prompts.count_tokens(prompt, embeddings)

    def told(self, condition: TensorCondition, size: SizeCondition, negative: bool = False) -> TensorCondition:
        """See `ConditionedNetwork.told`; the score as well."""
        tensors = super().told(condition, size, negative).tensors
        return TensorCondition({**tensors, AIM: torch.tensor([[SCORES[negative]]])})
