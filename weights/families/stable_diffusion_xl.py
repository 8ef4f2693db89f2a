"""Stable Diffusion XL (Podell et al. 2023, arXiv:2307.01952): two text encoders, a pooled vector, and sizes.

The facts are those of the original configuration, sd_xl_base.yaml.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ..condition import GUIDANCE, TensorCondition
from ..embedding_file import NO_EMBEDDINGS, Embeddings, does_not_fit
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
from .family import OWN_SIZE, ConditionedNetwork, SizeCondition
from .ldm_file import INPAINTING, LdmFile, missing_tensors_named
from .ldm_unet import UNET, guidance_width, unet_part, with_dotted_averages
from .ldm_vae import own_vae_config, vae_part
from .stable_diffusion import Sizes
from .unsupported_models import INPUTS, extra_input

FIRST, SECOND = "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."
# Models that were trained on the noise levels of Karras et al. 2022 say so.
EDM = ("edm_vpred.sigma_max", "edm_mean", "edm_std")
SCALE = 0.13025  # of latents, so that they have unit variance
LEVELS, LAYERS = 3, 2  # of the UNet; residual blocks of a level
ATTENDED = (0, 1)  # levels of the way up that have attention
ORIGINAL = "original"  # tensor of a condition with the size that is told
AIM = "aim"  # and with what is told in place of the height and width that were aimed at
TIME_WIDTH = 256  # of the embedding of each of the six numbers of sizes


class StableDiffusionXL:
    """The base model and its fine-tunes. See `Family`."""

    components: ClassVar[Mapping[str, tuple[str, str]]] = {
        "unet": ("diffusers", "UNet2DConditionModel"),
        "vae": ("diffusers", "AutoencoderKL"),
        "text_encoder": ("transformers", "CLIPTextModel"),
        "text_encoder_2": ("transformers", "CLIPTextModelWithProjection"),
        "tokenizer": ("transformers", "CLIPTokenizer"),
        "tokenizer_2": ("transformers", "CLIPTokenizer"),
    }

    def recognize(self, file: TensorFile) -> StableDiffusionXLFile | None:
        """See `Family.recognize`. The prefixes of the text encoders tell."""
        file = with_dotted_averages(file)
        sizes, name = file.sizes, file.path.name
        first = sizes.get(f"{UNET}input_blocks.0.0.weight")
        if first is None or FIRST + CLIP_TOKENS not in sizes or SECOND + OPEN_CLIP_TOKENS not in sizes:
            return None
        if any(marker in sizes for marker in EDM):
            raise ModelError(
                f"{name} is a Stable Diffusion XL model on noise levels of its own (EDM), which is not supported"
            )
        check_inputs(file, first)
        with missing_tensors_named(file):
            text = clip_config(sizes, FIRST), second_text_config(sizes, SECOND)
            vae = own_vae_config(sizes, SCALE)
            unet = unet_config(sizes, text[0]["hidden_size"] + text[1]["hidden_size"])
        return StableDiffusionXLFile(file, unet, vae, text)

    def build(self, name: str, components: Mapping[str, Any], device: torch.device) -> StableDiffusionXLNetwork:
        """See `Family.build`."""
        encoders = [
            PromptEncoder(
                name, components[f"tokenizer{end}"], components[f"text_encoder{end}"], device, penultimate=True
            )
            for end in ("", "_2")
        ]
        return StableDiffusionXLNetwork(name, components["unet"], components["vae"], *encoders)


@dataclass(frozen=True, eq=False)
class StableDiffusionXLFile(LdmFile):
    """A single file. See `Checkpoint`.

    text  the arguments of both text encoders
    """

    text: tuple[Mapping[str, Any], Mapping[str, Any]]

    def size(self, prediction: str) -> int:
        """1024 pixels, or the same area in other shapes."""
        return 1024

    def parts(self, vae: TensorFile | None) -> dict[str, ModulePart]:
        """See `Checkpoint.parts`."""
        from transformers import CLIPTextConfig, CLIPTextModel

        first = CLIPTextConfig(**self.text[0])
        return {
            "unet": unet_part(self.file, self.unet, LAYERS, ATTENDED),
            "text_encoder": empty_part(lambda: CLIPTextModel(first), self.file, lambda name: clip_source(name, FIRST)),
            "text_encoder_2": second_text_encoder(self.file, self.text[1], SECOND),
            "vae": vae_part(self.file, self.vae, vae, SCALE),
        }

    def tokenizers(self) -> dict[str, Any]:
        """CLIP's; the encoders fill up prompts with different tokens."""
        return {"tokenizer": clip_tokenizer(), "tokenizer_2": clip_tokenizer("!")}


class SizedNetwork(ConditionedNetwork):
    """A UNet that is told a pooled vector and the sizes of the picture. See `ConditionedNetwork`.

    vae  the model's; it tells how many pixels of a side a latent stands for, and the sizes are in pixels
    """

    def __init__(self, unet: Any, vae: Any, device: torch.device):
        self.unet, self._device, self._dtype = unet, device, unet.dtype
        self._factor = 2 ** (len(vae.config.block_out_channels) - 1)

    def told(self, condition: TensorCondition, size: SizeCondition, negative: bool = False) -> TensorCondition:
        """See `ConditionedNetwork.told`."""
        if size == OWN_SIZE:
            return condition
        return TensorCondition({**condition.tensors, ORIGINAL: torch.tensor([size], dtype=torch.float32)})

    def inputs(self, scaled: torch.Tensor, timestep: float, condition: TensorCondition) -> dict[str, torch.Tensor]:
        """See `ConditionedNetwork.inputs`. Unless the condition says more, it is told that the picture was neither
        enlarged nor cropped."""
        at = torch.tensor([timestep], dtype=torch.float32, device=self._device)
        told = {name: tensor.to(self._device) for name, tensor in condition.tensors.items()}
        own = torch.tensor([[self._factor * side for side in scaled.shape[-2:]]])
        # One row for all images, or one for each.
        original, aim, own = (
            sizes.to(self._device, self._dtype).expand(len(scaled), -1)
            for sizes in (told.pop(ORIGINAL, torch.zeros(1, 4)), told.pop(AIM, own), own)
        )
        before, crop = original[:, [1, 0]], original[:, [3, 2]]
        # Original height and width, top and left of the crop, height and width that were aimed at.
        sizes = torch.cat([torch.where(before > 0, before, own), crop, aim], 1)
        return {"latents": scaled.to(self._device), "timestep": at, "sizes": sizes, **told}

    def step(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """See `ConditionedNetwork.step`."""
        latents, text, pooled, sizes = (inputs[name].to(self._dtype) for name in ("latents", "text", "pooled", "sizes"))
        more = dict[str, Any](added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes})
        if GUIDANCE in inputs:
            more["timestep_cond"] = inputs[GUIDANCE].to(self._dtype)
        return self.unet(latents, inputs["timestep"], encoder_hidden_states=text, **more).sample


class StableDiffusionXLNetwork(SizedNetwork):
    """The opened UNet and text encoders. See `ConditionedNetwork`."""

    def __init__(self, name: str, unet: Any, vae: Any, first: PromptEncoder, second: PromptEncoder):
        super().__init__(unet, vae, first.device)
        self.first, self.second, self._name = first, second, name
        self.components: Mapping[str, torch.nn.Module] = {
            "unet": unet,
            "text_encoder": first.encoder,
            "text_encoder_2": second.encoder,
        }

    def encode(self, prompt: str, clip_skip: int = 1, embeddings: Embeddings = NO_EMBEDDINGS) -> Any:
        """The hidden states of both encoders side by side, and the pooled vector of the second for the first chunk.

        A prompt without words is all zeros: that is what the model saw in training where the words were left out.
        """
        halves = self._halves(embeddings)
        first = self.first.encode(prompt, clip_skip, halves[0])
        second, pooled = self.second.encode_pooled(prompt, clip_skip, halves[1])
        condition = {"text": torch.cat([first, second], -1), "pooled": pooled}
        if not prompt.strip():
            condition = {name: torch.zeros_like(tensor) for name, tensor in condition.items()}
        return self.guided(TensorCondition(condition), 1.0)

    def count_tokens(self, prompt: str, embeddings: Embeddings = NO_EMBEDDINGS) -> tuple[int, int]:
        """See `PromptEncoder.count_tokens`; both encoders read the same tokens."""
        return self.first.count_tokens(prompt, embeddings)

    def _halves(self, embeddings: Embeddings) -> tuple[Embeddings, Embeddings]:
        """The vectors of each encoder; a textual inversion holds those of both side by side. Raises ModelError."""
        widths = [one.encoder.config.hidden_size for one in (self.first, self.second)]
        for name, vectors in embeddings.items():
            if vectors.shape[-1] != sum(widths):
                raise does_not_fit(name, vectors, self._name)
        return (
            {name: vectors[:, : widths[0]] for name, vectors in embeddings.items()},
            {name: vectors[:, widths[0] :] for name, vectors in embeddings.items()},
        )


def check_inputs(file: TensorFile, first: tuple[int, ...]) -> None:
    """Raises ModelError unless the UNet takes latents, or what inpainting takes, timestep, text, sizes and guidance.

    first  the shape of its first convolution
    """
    # A class input is SDXL's own: the pooled vector and the sizes.
    if what := extra_input((each for each in file.shapes if ".label_emb." not in each), {}):
        raise ModelError(f"{file.path.name} is {what}, which is not supported yet")
    if len(first) != 4 or first[1] not in (4, INPAINTING):
        what = INPUTS.get(first[1] if len(first) > 1 else 0, "a network of another kind")
        raise ModelError(f"{file.path.name} is Stable Diffusion XL and {what}, which is not supported yet")


def second_text_config(sizes: Sizes, prefix: str) -> dict[str, Any]:
    """Arguments of transformers' CLIPTextConfig for the OpenCLIP text encoder with its projection under a prefix.

    Raises KeyError, IndexError or ValueError with the name of what is missing.
    """
    return open_clip_config(sizes, prefix) | {"projection_dim": sizes[_projection(sizes, prefix)][-1]}


def second_text_encoder(file: TensorFile, config: Mapping[str, Any], prefix: str) -> ModulePart:
    """The OpenCLIP text encoder with its projection under a prefix, still empty."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    projection = _projection(file.shapes, prefix)

    def source(name: str) -> Source:
        if name == "text_projection.weight":
            # The original multiplies from the other side.
            return Source(projection, transposed=not projection.endswith(".weight"))
        return open_clip_source(name, prefix)

    return empty_part(lambda: CLIPTextModelWithProjection(CLIPTextConfig(**config)), file, source)


def unet_config(sizes: Sizes, width: int, levels: int = LEVELS, attended: Collection[int] = ATTENDED) -> dict[str, Any]:
    """The arguments of diffusers' UNet2DConditionModel.

    width     of all text encoders together
    attended  levels of the way up that have attention
    Raises KeyError, IndexError or ValueError with the name of what is missing.
    """
    blocks = [1 + level * (LAYERS + 1) for level in range(levels)]
    up = ["CrossAttnUpBlock2D" if level in attended else "UpBlock2D" for level in range(levels)]
    down = [kind.replace("Up", "Down") for kind in reversed(up)]
    depths = [
        _depth(sizes, f"{UNET}input_blocks.{block}.1") if "Attn" in kind else 1
        for block, kind in zip(blocks, down, strict=True)
    ]
    channels = [sizes[f"{UNET}input_blocks.{block}.0.out_layers.3.weight"][0] for block in blocks]
    return dict(
        sample_size=128,
        time_cond_proj_dim=guidance_width(sizes),
        in_channels=sizes[f"{UNET}input_blocks.0.0.weight"][1],
        out_channels=sizes[f"{UNET}out.2.weight"][0],
        block_out_channels=channels,
        layers_per_block=LAYERS,
        down_block_types=down,
        up_block_types=up,
        # As many as the first block of a level has; the middle has those of the last entry.
        transformer_layers_per_block=[*depths[:-1], _depth(sizes, f"{UNET}middle_block.1")],
        cross_attention_dim=width,
        # diffusers keeps the number of heads under this name.
        attention_head_dim=[max(1, count // HEAD) for count in channels],
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=TIME_WIDTH,
        projection_class_embeddings_input_dim=sizes[f"{UNET}label_emb.0.0.weight"][1],
    )


def _depth(sizes: Sizes, prefix: str) -> int:
    """How many transformer blocks are at a place. ValueError if there is none."""
    depth = 0
    while f"{prefix}.transformer_blocks.{depth}.norm1.weight" in sizes:
        depth += 1
    if not depth:
        raise ValueError(f"{prefix}.transformer_blocks.0.norm1.weight")
    return depth


def _projection(sizes: Mapping[str, Any], prefix: str) -> str:
    """The name of the projection of the pooled vector; some files keep it as a layer's weight."""
    name = f"{prefix}text_projection"
    return f"{name}.weight" if f"{name}.weight" in sizes else name
