"""What a file looks like that is no Stable Diffusion checkpoint, so that its error can say it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .model_info import ModelError

# First bytes of a file, and what it is.
SIGNS = (
    (b"version https://git-lfs", "is a Git LFS pointer and not the file itself; fetch it with: git lfs pull"),
    (b"GGUF", "is a GGUF file, which is not supported; use the .safetensors of the same model"),
    (b"\x89PNG", "is a picture (PNG) and no checkpoint"),
    (b"\xff\xd8\xff", "is a picture (JPEG) and no checkpoint"),
    (b"\x1f\x8b", "is a gzip archive; unpack it first"),
    (b"Rar!", "is a RAR archive; unpack it first"),
    (b"7z\xbc\xaf", "is a 7z archive; unpack it first"),
)
MARKUP = re.compile(rb"(\xef\xbb\xbf)?\s*<(!doctype|html|head|\?xml|!--)", re.IGNORECASE)

# A part of a tensor's name, and what a file with such names is. The first that fits counts.
KINDS = (
    (r"lora_|\.lora\.|hada_w1|lokr_w|\.dora_scale", "a LoRA: a change to a checkpoint and not one itself"),
    (r"^control_model\.|^input_hint_block\.|controlnet_", "a ControlNet, which is not supported"),
    (r"^conditioner\.embedders\.", "a Stable Diffusion XL checkpoint, which is not supported yet"),
    (r"joint_blocks\.", "a Stable Diffusion 3 checkpoint, which is not supported"),
    (r"double_blocks\.", "a Flux checkpoint, which is not supported"),
    (r"^emb_params$|string_to_param", "a textual inversion, which is not supported"),
    (r"^(1280|768|640|320)\.", "a hypernetwork, which is not supported"),
)
PARTS = (
    (
        r"^(first_stage_model\.)?(encoder|decoder)\.",
        "a VAE alone; beside a checkpoint it is named NAME.vae.safetensors (or .pt), where NAME is the checkpoint's",
    ),
    (r"^(down_blocks|mid_block|up_blocks)\.", "the UNet of a diffusers folder; put the whole folder into weights/"),
    (r"^model\.diffusion_model\.", "a UNet alone, without VAE and text encoder; use the full checkpoint"),
    (r"^(text_model|cond_stage_model|transformer\.text_model)\.", "a text encoder alone"),
)
# Input channels of UNets that want more than the latents.
INPUTS = {
    9: "an inpainting network",
    8: "a network that edits pictures (InstructPix2Pix)",
    5: "a depth network",
    7: "an upscaler",
}


def not_tensors(path: Path, head: bytes) -> ModelError:
    """The error for a file that is neither safetensors nor a PyTorch archive, by its first bytes."""
    for sign, what in SIGNS:
        if head.startswith(sign):
            return ModelError(f"{path.name} {what}")
    if MARKUP.match(head):
        return ModelError(
            f"{path.name} is a web page and no checkpoint: the download was answered with a page; download it again"
        )
    if head.startswith(b"\x80"):
        return ModelError(
            f"{path.name} is a pickle in the format of PyTorch before 1.6, which cannot be opened without reading all of it; "
            "save it anew as .safetensors"
        )
    if path.suffix == ".safetensors":
        return ModelError(f"{path.name} is damaged: it does not begin as a safetensors file; copy or download it again")
    return ModelError(f"{path.name} is neither a safetensors file nor a PyTorch checkpoint")


def unsafe_pickle(path: Path, error: Exception) -> ModelError:
    """The error for a pickle that torch refuses, with the name of what it asks for."""
    found = re.search(r"GLOBAL ([\w.]+)|Can only \w+ \w+ ([\w.]+)|type (\S+) was not", str(error))
    if not found:
        return ModelError(
            f"{path.name} is damaged or hostile: its pickle has instructions that no checkpoint needs; nothing was run"
        )
    name = next(filter(None, found.groups()))
    return ModelError(
        f"{path.name} asks for {name[:200]}, which may run code, and was refused; nothing was run. "
        "Use the .safetensors file of this model, from a place that you trust"
    )


def foreign(names: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """What a checkpoint file that is no Stable Diffusion 1 or 2 looks like, as the end of "FILE looks like ..."."""
    given = [*names, *str(facts.get("names", "")).split()]
    for pattern, what in (*KINDS, *PARTS):
        if any(re.search(pattern, name) for name in given):
            return what
    shown = ", ".join(name[:60] for name in given[:3])
    return f"something else (its first names are {shown})" if shown else "nothing: it holds no weights"
