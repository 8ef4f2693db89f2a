"""Open a model from disk. diffusers and transformers are imported only when one is."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from samplers.denoiser import Condition

from .autoencoder import Autoencoder
from .companion_files import stamp_of
from .families import FAMILIES, Checkpoint, Family, recognize_file
from .folder_parts import Folder
from .identity import ModelIdentity, file_digest, hardware_of
from .inpainting_network import Inpainting, empty_hole
from .model import Model
from .model_info import ModelError, ModelInfo
from .module_part import ModulePart, check_part, fill
from .offload import AUTO, HOST, LARGE, bring_for_calls, choose_offload, is_text_encoder, rests_in_host_memory
from .step_weights import StepWeights
from .tensors import read_shapes

DEVICES = ("auto", "cuda", "mps", "cpu")
DTYPES = {"auto": None, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Channels of the UNet's first level from which channels-last pays: a tenth of a step on a CPU at Stable Diffusion's
# width of 320, nothing at the embedded model's 64.
WIDE = 256
PROBE_SIDE = 16  # of the latents that a network is tried with

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


def check_model(info: ModelInfo, families: Sequence[Family] = FAMILIES) -> None:
    """Check everything about a model that can be known without reading its weights. Raises ModelError.

    To be called before another model is closed: what is wrong with a file should not cost the one in use.
    """
    if info.path.is_dir():
        Folder(info, families).check()
    else:
        checked_parts(info, recognize_file(read_shapes(info.path), families)[1])


def open_model(
    info: ModelInfo,
    device: str = "auto",
    dtype: str = "auto",
    families: Sequence[Family] = FAMILIES,
    offload: str = AUTO,
) -> Model:
    """Open a diffusers folder or a single file on a device, to be computed by torch.

    dtype    number format of the network of the steps, one of DTYPES; "auto" is half precision on CUDA, else float32
    offload  what rests in host memory, one of `offload.OFFLOADS`
    Raises ModelError that names the model and what is wrong; nothing is fetched, no code of a model is run.
    """
    target = pick_device(device)
    formats = partial(dtype_of, device=target, unet=pick_dtype(dtype, target))
    folder = Folder(info, families) if info.path.is_dir() else None
    with ThreadPoolExecutor(1) as pool:
        # Hashing does not hold up the reading.
        hashing = pool.submit(_digests, info, folder)
        family, parts, tokenizers = _folder_parts(folder) if folder else _file_parts(info, families)
        sizes = {name: part.size(formats(name)) for name, part in parts.items()}
        offload = choose_offload(sizes, target, info.defaults.size, offload)
        modules = {name: _opened(name, part, target, formats(name), offload) for name, part in parts.items()}
        network = family.build(info.name, modules | tokenizers, target)
        vae = Autoencoder(modules["vae"], info.factor, target)
        digests = hashing.result()
    if not info.is_certain:
        asked = Inpainting(network, partial(empty_hole, info.channels)) if info.inpaints else network
        prediction = guess_prediction(asked, network.encode(""), info, target)
        info = replace(info, prediction=prediction, is_certain=True)
        log.info("%s was recognized as %s", info.path.name, prediction)
    identity = ModelIdentity(
        weights=digests["weights"],
        vae=digests.get("vae", ""),
        parts=digests.get("parts", ""),
        prediction=info.prediction,
        dtype=str(formats("unet")).removeprefix("torch."),
        device=str(target),
        hardware=hardware_of(target),
    )
    wide = network.unet.config.block_out_channels[0] >= WIDE
    if wide:
        _order_channels_last(network.unet)

    def read_again() -> None:
        if info.stamp is not None and stamp_of(info.path, families) != info.stamp:
            raise ModelError(f"the files of model {info.name} have changed; open it anew")
        fill(parts["unet"], target, formats("unet"))
        network.unet.requires_grad_(False)
        if wide:
            _order_channels_last(network.unet)

    return Model(info, identity, network, vae, target, None, StepWeights(network.unet, read_again), offload)


def checked_parts(info: ModelInfo, checkpoint: Checkpoint) -> dict[str, ModulePart]:
    """Every module of a single file, still empty, by component; all names and shapes are known to fit.

    Raises ModelError; no weights are read.
    """
    parts = checkpoint.parts(read_shapes(info.vae) if info.vae else None)
    for part in parts.values():
        check_part(part)
    return parts


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The number format of this name for the network of the steps, or the usual one on a device for "auto".

    Raises ModelError for float16 on a CPU, which has no fast arithmetic for it and overflows.
    """
    if name not in DTYPES:
        raise ModelError(f"dtype {name!r} is unknown; allowed are {', '.join(DTYPES)}")
    chosen = DTYPES[name]
    if chosen is None:
        return torch.float16 if device.type == "cuda" else torch.float32
    if name == "float16" and device.type == "cpu":
        raise ModelError("dtype float16 needs a GPU; on a CPU use auto, float32 or bfloat16")
    return chosen


def dtype_of(component: str, device: torch.device, unet: torch.dtype | None = None) -> torch.dtype:
    """Number format of a component on a device.

    unet  that of the network of the steps; None is the usual one
    Text encoders have half precision on CUDA only, for they cost a CPU little; the VAE never has, which would overflow.
    """
    if component == "unet" and unet is not None:
        return unet
    return torch.float16 if device.type == "cuda" and component != "vae" else torch.float32


def _opened(name: str, part: ModulePart, device: torch.device, dtype: torch.dtype, offload: str) -> torch.nn.Module:
    """A component with its weights, which computes on a device in a number format."""
    rests, kept = rests_in_host_memory(name, offload), dtype
    if device == HOST and is_text_encoder(name) and part.size(dtype) > LARGE:
        # Half precision in the file is float32 in the call, exactly.
        kept = min(dtype, part.dtype, key=lambda each: each.itemsize)
    fill(part, HOST if rests else device, kept)
    module = part.module.eval().requires_grad_(False)
    if rests or kept != dtype:
        bring_for_calls(module, device, dtype)
    return module


def _folder_parts(folder: Folder) -> tuple[Family, dict[str, ModulePart], dict[str, Any]]:
    parts = folder.parts()
    return folder.family, parts, {name: folder.open_tokenizer(name) for name in folder.tokenizers}


def _file_parts(info: ModelInfo, families: Sequence[Family]) -> tuple[Family, dict[str, ModulePart], dict[str, Any]]:
    family, checkpoint = recognize_file(read_shapes(info.path), families)
    return family, checked_parts(info, checkpoint), checkpoint.tokenizers()


def _order_channels_last(unet: torch.nn.Module) -> None:
    """Keep weights in channels-last order; the numbers stay the same."""
    unet.to(memory_format=torch.channels_last)


def _digests(info: ModelInfo, folder: Folder | None) -> dict[str, str]:
    """The digests of `ModelIdentity`; that of a single file covers all of it, as in other programs."""
    files: dict[str, list[Path]] = {"weights": [info.path], "vae": [info.vae] if info.vae else []}
    if folder is not None:
        files = {"weights": folder.unet_files(), "parts": folder.other_files()}
    return {name: file_digest(paths) for name, paths in files.items() if paths}


@torch.no_grad()
def guess_prediction(
    network: Callable[[torch.Tensor, float, Any], torch.Tensor],
    condition: Condition,
    info: ModelInfo,
    device: torch.device,
) -> str:
    """Find out what a network predicts: on pure noise, epsilon equals its input and v has almost nothing of it.

    At the highest level the state is z = alpha x0 + sqrt(1 - alpha^2) eps with alpha near 0, so the slope of the
    output on z is about 1 for epsilon and about alpha for v = alpha eps - sqrt(1 - alpha^2) x0.
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, info.channels, PROBE_SIDE, PROBE_SIDE, generator=generator).to(device)
    output = network(noise, info.schedule.timestep(info.schedule.sigmas[-1]), condition)
    slope = float((output * noise).sum() / (noise * noise).sum())
    return "epsilon" if slope > 0.5 else "v_prediction"
