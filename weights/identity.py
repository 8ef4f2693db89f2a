"""What identifies an opened model: everything that shapes its output."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch


@dataclass(frozen=True)
class Patch:
    """A LoRA that acts on a model, a textual inversion that a prompt uses, or what else takes part beside the model.

    name          of its file; another name changes nothing
    digest        of its file
    unet, text    a LoRA's strengths on the network of the steps and on the text encoders
    kind          "lora", "embedding", "upscaler", "model" of a second pass, "refiner", or "decoder" of a draft
    """

    name: str = field(compare=False)
    digest: str
    unet: float = 1.0
    text: float = 1.0
    kind: str = "lora"


@dataclass(frozen=True)
class ModelIdentity:
    """Two opened models with equal identities draw equal pictures.

    weights     digest of the single file, or of the UNet's files in a folder
    vae         digest of a VAE file that replaces the model's own; "" if none does
    parts       digest of a folder's vocabulary, text encoder and VAE; "" for a single file, whose digest covers them
    patches     the LoRAs and textual inversions that prompts add to it, in order
    prediction  what the network predicts
    dtype       number format of the network, as "float16"
    device      as torch names it, "cuda:0"
    hardware    which kernels compute, and so how they round: the GPU's name, or the CPU's kind and instruction set
    backend     what computes the network of the steps, see `weights.backends`
    """

    weights: str
    prediction: str
    dtype: str
    device: str
    hardware: str
    vae: str = ""
    parts: str = ""
    patches: tuple[Patch, ...] = ()
    backend: str = "torch"

    @property
    def digest(self) -> str:
        """One text for all weights that take part, whatever computes with them."""
        return weights_digest(self.weights, self.vae, self.parts, self.patches)


def weights_digest(weights: str, vae: str = "", parts: str = "", patches: Iterable[Patch] = ()) -> str:
    """The digest of all weights that take part in a picture, see `ModelIdentity` for the arguments."""
    return weights + vae + parts + "".join(f"+{one.digest}:{one.text!r}:{one.unet!r}" for one in patches)


def hardware_of(device: torch.device) -> str:
    """The kind of hardware behind a device: which kernels are taken depends on it, and their rounding with them."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def file_digest(files: Iterable[Path]) -> str:
    """SHA-256 of files one after another, shortened to ten digits as other programs do."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()[:10]
