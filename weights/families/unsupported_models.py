"""Identify models that no family supports (LoRA, ControlNet, Flux) so the error can name them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

# A part of a tensor's name, and what a file with such names is. The first that fits counts.
KINDS = (
    (r"lora_|\.lora\.|hada_w1|lokr_w|\.dora_scale", "a LoRA: a change to a checkpoint and not one itself"),
    (r"^control_model\.|^input_hint_block\.|controlnet_", "a ControlNet, which is not supported"),
    (r"^conditioner\.embedders\.", "a part of a Stable Diffusion XL checkpoint; take the whole one"),
    (r"motion_modules?\.|temporal_transformer\.", "an AnimateDiff motion module, which is not supported"),
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
WITHOUT_TEXT = ("model.diffusion_model.", "first_stage_model.")
# Input channels of UNets that want more than the latents.
INPUTS = {
    9: "an inpainting network",
    8: "a network that edits pictures (InstructPix2Pix)",
    5: "a depth network",
    7: "an upscaler",
}
# Inputs of a UNet beside latents, timestep, text and guidance: a part of a tensor's name, the entry of a folder's
# configuration, and what such a network is. Without the input it would draw, and wrongly.
EXTRA_INPUTS = (
    (r"\.label_emb\.", "class_embed_type", "a network with a class input, such as unCLIP"),
    (r"\.label_emb\.", "num_class_embeds", "a network with a class input"),
    (r"scaled_fp8|\.scale_weight$", "", "a checkpoint in scaled 8-bit numbers; take one in 16 or 32 bits"),
)


def extra_input(names: Iterable[str], config: Mapping[str, Any]) -> str:
    """What a UNet is that wants more than latents, timestep, text and guidance; "" for a usual one.

    names   of a checkpoint's tensors
    config  of a diffusers folder's UNet
    """
    given = list(names)
    for pattern, entry, what in EXTRA_INPUTS:
        if config.get(entry) is not None or any(re.search(pattern, name) for name in given):
            return what
    return ""


def describe_unsupported(names: Iterable[str], metadata: Mapping[str, Any]) -> str:
    """What a checkpoint file that no family recognizes contains, as the end of "FILE looks like ..."."""
    given = [*names, *str(metadata.get("names", "")).split()]
    if all(any(name.startswith(prefix) for name in given) for prefix in WITHOUT_TEXT):
        return "a UNet and a VAE without a text encoder; use the full checkpoint"
    for pattern, what in (*KINDS, *PARTS):
        if any(re.search(pattern, name) for name in given):
            return what
    shown = ", ".join(name[:60] for name in given[:3])
    return f"something else (its first names are {shown})" if shown else "nothing: it holds no weights"
