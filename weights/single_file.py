"""Single files of Stable Diffusion as models: what lies beside them, and what the user says about them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from itertools import accumulate
from operator import mul
from pathlib import Path
from typing import Any

from samplers.schedule import NoiseSchedule, betas, from_alphas, stable_diffusion, zero_terminal_snr

from .architecture import recognize
from .folder import part_folder
from .model_info import Defaults, ModelError, ModelInfo
from .shapes import Tensors
from .tensors import read
from .unsupported_formats import foreign

VAES = (".vae.safetensors", ".vae.pt", ".vae.ckpt")
OVERRIDES = ".sigmalab.json"
NOT_READ = (".yaml", ".yml", ".json")
PREDICTIONS = ("epsilon", "v_prediction", "sample")
FACTOR, LARGEST = 8, 2048
BASE_STEP = 875_000  # training steps of Stable Diffusion 2's base model, which predicts epsilon
SIZES = (64, 1024)  # pixels of a side that an override may name as the usual one


@dataclass(frozen=True)
class Override:
    """What NAME.sigmalab.json says; None is what the file itself tells.

    prediction  "epsilon", "v_prediction" or "sample"
    zero_snr    whether the schedule was rescaled to end at pure noise (Lin et al. 2023, arXiv:2305.08891)
    size        pixels of a side that the model was trained on
    vae         name of a file in the same folder
    """

    prediction: str | None = None
    zero_snr: bool | None = None
    size: int | None = None
    vae: str | None = None


def is_companion(path: Path) -> bool:
    """Whether a file belongs to a checkpoint beside it."""
    return path.name.endswith(VAES)


def stamp_of(path: Path) -> Any:
    """Something that changes when a model's files do, also those that it names or borrows, there or not yet."""
    if path.is_dir():
        parts = [_part(path, part) for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler")]
        files = [path / "model_index.json", *parts]
        files += [file for part in parts for file in sorted(part.glob("*.[js]*"))]  # .json, .safetensors
    else:
        files = [path, *(path.with_name(path.stem + ending) for ending in (*VAES, OVERRIDES, *NOT_READ))]
        files += _named_vae(path)
    return tuple(_stat(file) for file in files)


def read_single(path: Path, name: str = "") -> ModelInfo:
    """What a .safetensors or .ckpt file is, from its names and shapes. ModelError names the file and what is wrong."""
    override = read_override(path)
    file = read(path)
    made = recognize(file)
    vae = _vae(path, override)
    if made.vae is None and vae is None:
        raise ModelError(f"{path.name} has no VAE; put one beside it as {path.stem}{VAES[0]}")
    prediction = override.prediction or stated_prediction(file, made.version)
    zero_snr = "ztsnr" in file.shapes if override.zero_snr is None else override.zero_snr
    guess = prediction or "v_prediction"
    size = override.size or (768 if made.version == 2 and guess == "v_prediction" and "512" not in path.stem else 512)
    spacing = "Uniform trailing" if zero_snr else "Uniform leading"
    defaults = Defaults(size, FACTOR * 8, max(LARGEST, size), 7.5, spacing, 1)
    notes = [
        f"{path.stem}{ending} is not read; what is wrong about the model can be said in {path.stem}{OVERRIDES}."
        for ending in NOT_READ
        if path.with_name(path.stem + ending).exists()
    ]
    if vae:
        notes.append(f"Its VAE is {vae.name}.")
    if prediction is None:
        notes.append(
            f"Whether it predicts epsilon or v is asked of the network when it is opened; {path.stem}{OVERRIDES} can say it."
        )
    schedule = _zero_snr() if zero_snr else stable_diffusion()
    return ModelInfo(
        name or path.stem,
        path,
        schedule,
        guess,
        4,
        FACTOR,
        defaults,
        stamp_of(path),
        tuple(notes),
        prediction is not None,
        vae,
    )


def stated_prediction(file: Tensors, version: int) -> str | None:
    """What a file says that its network predicts, or what every file of its kind does; None if that is open."""
    facts = {name: str(value).lower() for name, value in file.facts.items()}
    stated = facts.get("modelspec.prediction_type", "")
    if "v_pred" in file.shapes or stated in ("v", "v_prediction") or "768-v" in facts.get("modelspec.architecture", ""):
        return "v_prediction"
    if version == 1 or stated == "epsilon" or facts.get("global_step") == str(BASE_STEP):
        return "epsilon"
    return None


def read_override(path: Path) -> Override:
    """What NAME.sigmalab.json beside a checkpoint says. ModelError says what in it is wrong and what is allowed."""
    file = path.with_name(path.stem + OVERRIDES)
    try:
        given = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Override()
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{file.name} cannot be read as JSON: {error}") from None
    known = [one.name for one in fields(Override)]
    if not isinstance(given, dict) or set(given) - set(known):
        raise ModelError(f"{file.name} must be a JSON object with some of {', '.join(known)}, and nothing else")
    _check_override(file.name, given)
    return Override(**given)


def _check_override(name: str, given: Mapping[str, Any]) -> None:
    if "prediction" in given and given["prediction"] not in PREDICTIONS:
        raise ModelError(f"{name}: prediction is {given['prediction']!r}; allowed are {', '.join(PREDICTIONS)}")
    if "zero_snr" in given and not isinstance(given["zero_snr"], bool):
        raise ModelError(f"{name}: zero_snr must be true or false")
    size = given.get("size", 512)
    if type(size) is not int or size % 64 or not SIZES[0] <= size <= SIZES[1]:
        raise ModelError(f"{name}: size must be a multiple of 64 from {SIZES[0]} to {SIZES[1]}")
    vae = given.get("vae", "x")
    # A name alone: a file that came with a checkpoint must not point anywhere else.
    if not isinstance(vae, str) or not vae.isprintable() or Path(vae).name != vae or vae in ("", "..") or "\\" in vae:
        raise ModelError(f"{name}: vae must be the name of a file in the same folder")


def _vae(path: Path, override: Override) -> Path | None:
    """The VAE that takes the place of the file's own, if any. ModelError if it is none."""
    beside = (path.with_name(path.stem + ending) for ending in VAES)
    vae = path.with_name(override.vae) if override.vae else next((file for file in beside if file.is_file()), None)
    if vae is None:
        return None
    if not vae.is_file():
        raise ModelError(f"{path.stem}{OVERRIDES} names the VAE {vae.name}, which is not in the folder")
    file = read(vae)
    if not any(name.removeprefix("first_stage_model.").startswith("decoder.conv_in") for name in file.shapes):
        raise ModelError(f"{vae.name} should be a VAE and looks like {foreign(file.shapes, file.facts)}")
    return vae


def _zero_snr() -> NoiseSchedule:
    steps = betas("scaled_linear", 0.00085, 0.012, 1000)
    return from_alphas(zero_terminal_snr(list(accumulate((1.0 - beta for beta in steps), mul))))


def _named_vae(path: Path) -> list[Path]:
    try:
        vae = read_override(path).vae
    except ModelError:
        return []
    return [path.with_name(vae)] if vae else []


def _part(path: Path, part: str) -> Path:
    try:
        return part_folder(path, part)
    except ModelError:
        return path / part


def _stat(file: Path) -> tuple[int, int] | None:
    try:
        known = file.stat()
    except (OSError, ValueError):
        return None
    return known.st_size, known.st_mtime_ns
