"""What a family of models is: everything about an architecture that the rest of the program need not know.

A new family is a module with a class of this protocol, named in `FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import Any, Protocol

import torch

from samplers.denoiser import Condition
from samplers.schedule import NoiseSchedule

from ..condition import GUIDANCE, TensorCondition, guidance_embedding
from ..embedding_file import NO_EMBEDDINGS, Embeddings
from ..module_part import ModulePart
from ..tensors import TensorFile

SizeCondition = tuple[int, int, int, int]  # width and height of the original, left and top of its crop, in pixels
OWN_SIZE: SizeCondition = (0, 0, 0, 0)  # neither enlarged nor cropped


class ConditionedNetwork(Protocol):
    """The opened networks of a model but for its VAE: a text encoder or several, and the network of the steps.

    A class that inherits from it has `__call__`.

    unet        the network that every step calls; may be replaced by a compiled one
    components  the modules that a LoRA may change, uncompiled, by the name of their component
    """

    unet: Any
    components: Mapping[str, torch.nn.Module]

    def encode(self, prompt: str, clip_skip: int = 1, embeddings: Embeddings = NO_EMBEDDINGS) -> Condition:
        """The condition that a prompt stands for.

        clip_skip   1 takes the last layer of the text encoder that the model was trained on, 2 the one before
        embeddings  vectors (count, width) that stand for words; left out where there are none
        Raises ModelError for a layer that is not there.
        """
        ...

    def count_tokens(self, prompt: str, embeddings: Embeddings = NO_EMBEDDINGS) -> tuple[int, int]:
        """How many tokens a prompt has and how many its chunks could hold, without the start and end marks."""
        ...

    def told(self, condition: Any, size: SizeCondition, negative: bool = False) -> Any:
        """The condition of a prompt, or of the negative one, that also tells the size and the crop of the original;
        unchanged where the network is not told such things."""
        return condition

    def guided(self, condition: Any, scale: float) -> Any:
        """The condition that tells this guidance scale, where it is an input of the network; unchanged elsewhere.

        Such a network was distilled from guided estimates, see `weights.condition.guidance_embedding`. What `encode`
        makes tells 1, no guidance.
        """
        if not (width := self.unet.config.time_cond_proj_dim):
            return condition
        told = guidance_embedding(scale, width).expand(len(next(iter(condition.tensors.values()))), -1)
        return TensorCondition({**condition.tensors, GUIDANCE: told})

    def inputs(self, scaled: torch.Tensor, timestep: float, condition: Any) -> dict[str, torch.Tensor]:
        """What `step` takes for noised latents under a condition that `encode` made: tensors by name, in one order.

        timestep  may lie between training timesteps
        """
        ...

    def with_unet(self, unet: Any) -> ConditionedNetwork:
        """The same network that calls another in place of `unet`, under the same LoRAs."""
        other = copy(self)
        other.unet = unet
        return other

    def step(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The output of the network of the steps, by torch, in any float type.

        Only tensors go in and come out, so that another backend may take its place (`weights.backends`); it uses `unet`
        and no other module.
        """
        ...

    @torch.no_grad()
    def __call__(self, scaled: torch.Tensor, timestep: float, condition: Any) -> torch.Tensor:
        """The output for noised latents, on their device and in their dtype. See `inputs` and `step`."""
        return self.step(self.inputs(scaled, timestep, condition)).to(scaled)


class Checkpoint(Protocol):
    """A single file that a family recognized by its names and shapes; no weights are read."""

    @property
    def channels(self) -> int:
        """Channels of the latents."""
        ...

    @property
    def factor(self) -> int:
        """How many pixels of a side a latent stands for."""
        ...

    @property
    def inpaints(self) -> bool:
        """Whether the network is made for inpainting, see `weights.inpainting_network`."""
        return False

    @property
    def takes_guidance(self) -> bool:
        """Whether the guidance scale is an input of the network, see `ConditionedNetwork.guided`."""
        return False

    @property
    def has_vae(self) -> bool:
        """Whether the file has a VAE of its own."""
        ...

    @property
    def prediction(self) -> str | None:
        """What the file says that its network predicts, or what every file of its kind does; None if unknown."""
        ...

    @property
    def zero_snr(self) -> bool:
        """Whether the file says that its schedule ends at pure noise (Lin et al. 2023, arXiv:2305.08891)."""
        ...

    def size(self, prediction: str) -> int:
        """Pixels of a side that such a model was trained on."""
        ...

    def schedule(self, zero_snr: bool) -> NoiseSchedule:
        """The noise levels that such a model was trained on."""
        ...

    def takes_vae(self, file: TensorFile) -> bool:
        """Whether a file looks like a VAE that may replace the checkpoint's own."""
        ...

    def parts(self, vae: TensorFile | None) -> dict[str, ModulePart]:
        """The empty modules by the name of their component; ModelError if shapes do not form them.

        vae  a file whose VAE replaces the checkpoint's own
        """
        ...

    def tokenizers(self) -> dict[str, Any]:
        """The tokenizers by the name of their component; no single file holds one. Raises ModelError."""
        ...


class Family(Protocol):
    """One architecture in its two forms, single files and diffusers folders."""

    @property
    def components(self) -> Mapping[str, tuple[str, str]]:
        """Package and class of each part that a model_index.json of the family names, "vae" and "unet" among them.

        Names of tokenizers begin with "tokenizer", and the text encoder of "tokenizer_2" is "text_encoder_2". No other
        class is built, whatever a folder names.
        """
        ...

    def recognize(self, file: TensorFile) -> Checkpoint | None:
        """The checkpoint in a file, None if it is of no kind that this family knows.

        Raises ModelError for one that is of this family and incomplete or not supported.
        """
        ...

    def build(self, name: str, components: Mapping[str, Any], device: torch.device) -> ConditionedNetwork:
        """The networks of a model from its opened components.

        name    of the model, for errors
        device  that computes; weights may rest in host memory until they are called
        """
        ...
