"""Stable Diffusion 1 and 2 (Rombach et al. 2022, arXiv:2112.10752), and small models of the same parts.

The facts are those of the original configurations (v1-inference.yaml, v2-inference.yaml and v2-inference-v.yaml):
shapes do not tell the number of attention heads, activations, and what the network predicts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ..condition import GUIDANCE, TensorCondition
from ..embedding_file import NO_EMBEDDINGS, Embeddings
from ..model_info import ModelError
from ..module_part import ModulePart, Source, empty_part
from ..prompt_encoder import PromptEncoder
from ..tensors import TensorFile
from ..tokenizer import clip_tokenizer
from .clip_text import (
    CLIP_TOKENS,
    HEAD,
    OPEN_CLIP_TOKENS,
    clip_config,
    clip_source,
    open_clip_config,
    open_clip_source,
)
from .family import ConditionedNetwork
from .ldm_file import INPAINTING, LdmFile, missing_tensors_named
from .ldm_unet import UNET, guidance_width, unet_part, with_dotted_averages
from .ldm_vae import own_vae_config, vae_part
from .unsupported_models import INPUTS, extra_input

CLIP, OPEN_CLIP = "cond_stage_model.transformer.", "cond_stage_model.model."  # of versions 1 and 2
SCALE = 0.18215  # of latents, so that they have unit variance
LEVELS, LAYERS = 4, 2  # of the UNet; residual blocks of a level
BASE_STEP = 875_000  # training steps of version 2's base model, which predicts epsilon

Sizes = Mapping[str, tuple[int, ...]]


class StableDiffusion:
    """Versions 1 and 2: one text encoder, whose hidden states the UNet attends to. See `Family`."""

    components: ClassVar[Mapping[str, tuple[str, str]]] = {
        "unet": ("diffusers", "UNet2DConditionModel"),
        "vae": ("diffusers", "AutoencoderKL"),
        "text_encoder": ("transformers", "CLIPTextModel"),
        "tokenizer": ("transformers", "CLIPTokenizer"),
    }

    def recognize(self, file: TensorFile) -> StableDiffusionFile | None:
        """See `Family.recognize`. The prefix of the text encoder tells the version."""
        file = with_dotted_averages(file)
        sizes = {usual_name(name): size for name, size in file.sizes.items()}
        tokens = {1: CLIP + CLIP_TOKENS, 2: OPEN_CLIP + OPEN_CLIP_TOKENS}
        version = next((version for version, name in tokens.items() if name in sizes), None)
        first = sizes.get(f"{UNET}input_blocks.0.0.weight")
        if version is None or first is None:
            return None
        _check_inputs(file, first)
        with missing_tensors_named(file):
            # Version 2 was trained on the last layer but one.
            text = clip_config(sizes, CLIP) if version == 1 else open_clip_config(sizes, OPEN_CLIP, skipped=1)
            vae = own_vae_config(sizes, SCALE)
            unet = unet_config(version, sizes, text["hidden_size"])
        return StableDiffusionFile(file, unet, vae, version, text)

    def build(self, name: str, components: Mapping[str, Any], device: torch.device) -> StableDiffusionNetwork:
        """See `Family.build`."""
        prompts = PromptEncoder(name, components["tokenizer"], components["text_encoder"], device)
        return StableDiffusionNetwork(components["unet"], prompts)


@dataclass(frozen=True, eq=False)
class StableDiffusionFile(LdmFile):
    """A single file. See `Checkpoint`.

    version  1 or 2
    text     the arguments of the text encoder
    """

    version: int
    text: Mapping[str, Any]

    @property
    def prediction(self) -> str | None:
        """Stated by the file, or epsilon for every other file of version 1; None if only the network can tell."""
        is_base = self.version == 1 or str(self.file.metadata.get("global_step")) == str(BASE_STEP)
        return super().prediction or ("epsilon" if is_base else None)

    def size(self, prediction: str) -> int:
        """Version 2 predicts v at 768 pixels and epsilon at 512; names of exceptions say "512"."""
        large = self.version == 2 and prediction == "v_prediction" and "512" not in self.file.path.stem
        return 768 if large else 512

    def parts(self, vae: TensorFile | None) -> dict[str, ModulePart]:
        """See `Checkpoint.parts`."""
        from transformers import CLIPTextConfig, CLIPTextModel

        names = {usual_name(name): name for name in self.file.shapes}

        def text_source(name: str) -> Source:
            source = clip_source(name, CLIP) if self.version == 1 else open_clip_source(name, OPEN_CLIP)
            return Source(names.get(source.name, source.name), source.third)

        return {
            "unet": unet_part(self.file, self.unet, LAYERS),
            "text_encoder": empty_part(lambda: CLIPTextModel(CLIPTextConfig(**self.text)), self.file, text_source),
            "vae": vae_part(self.file, self.vae, vae, SCALE),
        }

    def tokenizers(self) -> dict[str, Any]:
        """CLIP's; the versions fill up prompts with different tokens."""
        return {"tokenizer": clip_tokenizer() if self.version == 1 else clip_tokenizer("!")}


class StableDiffusionNetwork(ConditionedNetwork):
    """The opened UNet and text encoder. See `ConditionedNetwork`."""

    def __init__(self, unet: Any, prompts: PromptEncoder):
        self.unet, self.prompts = unet, prompts
        self.components: Mapping[str, torch.nn.Module] = {"unet": unet, "text_encoder": prompts.encoder}
        self._device, self._dtype = prompts.device, unet.dtype

    def encode(self, prompt: str, clip_skip: int = 1, embeddings: Embeddings = NO_EMBEDDINGS) -> Any:
        """The hidden states of the prompt, see `PromptEncoder.encode`."""
        return self.guided(TensorCondition({"text": self.prompts.encode(prompt, clip_skip, embeddings)}), 1.0)

    def count_tokens(self, prompt: str, embeddings: Embeddings = NO_EMBEDDINGS) -> tuple[int, int]:
        """See `PromptEncoder.count_tokens`."""
        return self.prompts.count_tokens(prompt, embeddings)

    def inputs(self, scaled: torch.Tensor, timestep: float, condition: TensorCondition) -> dict[str, torch.Tensor]:
        """See `ConditionedNetwork.inputs`."""
        at = torch.tensor([timestep], dtype=torch.float32, device=self._device)
        told = {name: tensor.to(self._device) for name, tensor in condition.tensors.items()}
        return {"latents": scaled.to(self._device), "timestep": at, **told}

    def step(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """See `ConditionedNetwork.step`."""
        latents, text = (inputs[name].to(self._dtype) for name in ("latents", "text"))
        guidance = inputs[GUIDANCE].to(self._dtype) if GUIDANCE in inputs else None
        return self.unet(latents, inputs["timestep"], encoder_hidden_states=text, timestep_cond=guidance).sample


def usual_name(name: str) -> str:
    """The usual name of a checkpoint's tensor: some files of version 1 leave out "text_model."."""
    if name.startswith(CLIP) and not name.startswith(f"{CLIP}text_model."):
        return f"{CLIP}text_model.{name.removeprefix(CLIP)}"
    return name


def unet_config(version: int, sizes: Sizes, width: int) -> dict[str, Any]:
    """The arguments of diffusers' UNet2DConditionModel; `width` is that of the text encoder."""
    blocks = [1 + level * (LAYERS + 1) for level in range(LEVELS)]
    channels = [sizes[f"{UNET}input_blocks.{block}.0.out_layers.3.weight"][0] for block in blocks]
    return dict(
        sample_size=64,
        time_cond_proj_dim=guidance_width(sizes),
        in_channels=sizes[f"{UNET}input_blocks.0.0.weight"][1],
        out_channels=sizes[f"{UNET}out.2.weight"][0],
        block_out_channels=channels,
        layers_per_block=LAYERS,
        down_block_types=["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        up_block_types=["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
        cross_attention_dim=width,
        # diffusers keeps the number of heads under this name: always 8 in version 1, of 64 channels each in 2.
        attention_head_dim=8 if version == 1 else [max(1, count // HEAD) for count in channels],
        # The attention of 2.1 overflows half precision otherwise.
        upcast_attention=version == 2,
        use_linear_projection=len(sizes[f"{UNET}input_blocks.1.1.proj_in.weight"]) == 2,
    )


def _check_inputs(file: TensorFile, first: tuple[int, ...]) -> None:
    """Raises ModelError unless the UNet takes latents, timestep, text and guidance, or these and a masked picture."""
    if what := extra_input(file.shapes, {}):
        raise ModelError(f"{file.path.name} is {what}, which is not supported yet")
    if len(first) != 4:
        raise ModelError(
            f"{file.path.name} is not a supported checkpoint: its first convolution has shape {list(first)}"
        )
    if first[1] not in (4, INPAINTING):
        what = INPUTS.get(first[1], "a network of another kind")
        raise ModelError(
            f"{file.path.name} is {what} ({first[1]} input channels instead of 4), which is not supported yet"
        )
