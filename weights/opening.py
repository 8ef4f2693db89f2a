"""Opening a model from disk: the only place that imports diffusers and transformers, and only when called."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import torch

from .folder_parts import MODULES, check_folder, open_module, open_tokenizer, other_files, refuse_other_classes
from .identity import ModelIdentity, file_digest, hardware_of
from .model import Model
from .model_info import ModelError, ModelInfo

DEVICES = ("auto", "cuda", "mps", "cpu")
# Channels of the UNet's first level from which channels-last pays: a tenth of a step on a CPU at Stable Diffusion's
# width of 320, nothing at the embedded model's 64.
WIDE = 256

log = logging.getLogger(__name__)


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


def check_model(info: ModelInfo) -> None:
    """Look at everything about a model that can be known without reading its weights. Raises ModelError.

    For the time before another model is let go: what is wrong with a file should not cost the one in use.
    """
    if not info.path.is_dir():
        from .assembly import plan_parts

        plan_parts(info)
        return
    check_folder(info)


def open_model(info: ModelInfo, device: str = "auto", compiled: bool = False) -> Model:
    """Open a diffusers folder or a single file on a device: half precision on CUDA, float32 elsewhere.

    compiled  have torch.compile translate the UNet, which takes minutes at the first run of each size
    Raises ModelError that names the model and what is wrong; nothing is fetched, no code of a model is run.
    """
    target = pick_device(device)
    model = _open_folder(info, target) if info.path.is_dir() else _open_file(info, target)
    model.lay_out(WIDE)
    if compiled:
        model.compile()
    return model


def dtypes(device: torch.device) -> dict[str, torch.dtype]:
    """The number format of each part on a device: half precision on CUDA, but for the VAE, which would overflow."""
    fast = torch.float16 if device.type == "cuda" else torch.float32
    return dict(unet=fast, text_encoder=fast, vae=torch.float32)


def _open_folder(info: ModelInfo, target: torch.device) -> Model:
    formats = dtypes(target)
    refuse_other_classes(info)
    with ThreadPoolExecutor(1) as pool:
        # Hashing does not hold up the reading.
        weights = pool.submit(file_digest, sorted((info.path / "unet").glob("*.safetensors")))
        parts = pool.submit(lambda: file_digest(other_files(info)))
        modules = {name: open_module(info, name, formats[name]) for name in MODULES}
        tokenizer = open_tokenizer(info)
        for module in modules.values():
            module.eval().requires_grad_(False).to(target)
        identity = _identity(info, target, weights.result(), parts=parts.result())
    return Model(info, identity, tokenizer, device=target, dtype=formats["unet"], **modules)


def _open_file(info: ModelInfo, target: torch.device) -> Model:
    from .assembly import fill, plan_parts, tokenizer_for

    formats = dtypes(target)
    with ThreadPoolExecutor(1) as pool:
        # Of the whole file, as other programs do.
        weights = pool.submit(file_digest, [info.path])
        parts, version = plan_parts(info)
        fill(parts, target, formats)
        modules = {name: part.module.eval().requires_grad_(False) for name, part in parts.items()}
        tokenizer = tokenizer_for(version)
        identity = _identity(info, target, weights.result(), vae=file_digest([info.vae]) if info.vae else "")
    model = Model(info, identity, tokenizer, device=target, dtype=formats["unet"], **modules)
    if not info.is_certain:
        prediction = model.guess_prediction()
        model.info = replace(info, prediction=prediction, is_certain=True)
        model.identity = replace(identity, prediction=prediction)
        log.info("%s was recognized as %s", info.path.name, prediction)
    return model


def _identity(info: ModelInfo, device: torch.device, weights: str, vae: str = "", parts: str = "") -> ModelIdentity:
    dtype = str(dtypes(device)["unet"]).removeprefix("torch.")
    return ModelIdentity(weights, info.prediction, dtype, str(device), hardware_of(device), vae, parts)
