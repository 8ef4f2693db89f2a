"""Opening a model from disk: the only place that imports diffusers and transformers, and only when called."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch

from .catalog import Found, ModelError
from .model import Model

# Only these classes are ever built, whatever a folder names; code from a folder is never run.
PARTS = {
    "unet": ("diffusers", "UNet2DConditionModel"),
    "vae": ("diffusers", "AutoencoderKL"),
    "text_encoder": ("transformers", "CLIPTextModel"),
    "tokenizer": ("transformers", "CLIPTokenizer"),
}
DEVICES = ("auto", "cuda", "mps", "cpu")


def pick_device(name: str = "auto") -> torch.device:
    """The device of this name, or the best one here for "auto"; ModelError if there is none."""
    if name not in DEVICES:
        raise ModelError(f"device {name!r} is unknown; allowed are {', '.join(DEVICES)}")
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(device for device, there in here.items() if there))
    if not here[name]:
        there = ", ".join(device for device, is_there in here.items() if is_there)
        raise ModelError(f"device {name!r} is not available here; use auto, or one of {there}")
    return torch.device(name)


def open_model(found: Found, device: str = "auto") -> Model:
    """Open a diffusers folder on a device: half precision on CUDA, float32 elsewhere.

    Raises ModelError that names the folder and the part; nothing is fetched, no code of the folder is run.
    """
    target = pick_device(device)
    dtype = torch.float16 if target.type == "cuda" else torch.float32
    _refuse_other_classes(found)
    try:
        parts = {name: _open_part(found.path / name, name, dtype) for name in PARTS}
    except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
        raise ModelError(f"model {found.name} cannot be opened: {_first_line(error)}") from error
    for name in ("unet", "vae", "text_encoder"):
        parts[name].eval().requires_grad_(False).to(target)
    return Model(found, device=target, dtype=dtype, digest=_digest(found.path / "unet"), **parts)


def _open_part(path: Path, name: str, dtype: torch.dtype):
    import diffusers
    import transformers

    # The status line tells of loading; a bar for each part would only clutter the console.
    transformers.utils.logging.disable_progress_bar()
    diffusers.utils.logging.disable_progress_bar()
    package, class_name = PARTS[name]
    kind = getattr({"diffusers": diffusers, "transformers": transformers}[package], class_name)
    if name == "tokenizer":
        return kind.from_pretrained(path, local_files_only=True)
    # Published folders often have half-precision files only, under this variant name.
    variant = None if any(path.glob("*model.safetensors")) else "fp16"
    wanted = torch.float32 if name == "vae" else dtype
    return kind.from_pretrained(path, torch_dtype=wanted, variant=variant, use_safetensors=True, local_files_only=True)


def _refuse_other_classes(found: Found) -> None:
    index = json.loads((found.path / "model_index.json").read_text(encoding="utf-8"))
    for name, (package, class_name) in PARTS.items():
        named = index.get(name)
        if named != [package, class_name]:
            wanted = f"{package}.{class_name}"
            raise ModelError(f"model {found.name}: its {name} is {named}, and only {wanted} is supported")


def _digest(folder: Path) -> str:
    """SHA-256 of the weights, shortened as other programs do."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()[:10]


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
