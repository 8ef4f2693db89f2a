"""Files beside a checkpoint: its VAE, what the user says about it, and what has to be looked at for changes."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, fields
from glob import escape
from pathlib import Path
from typing import Any

from .card import FILE
from .diffusers_folder import part_folder
from .families import Family
from .model_info import ModelError

VAES = (".vae.safetensors", ".vae.sft", ".vae.pt", ".vae.ckpt")
OVERRIDES = ".sigmalab.json"
NOT_READ = (".yaml", ".yml", ".json")  # settings of other programs
PREDICTIONS = ("epsilon", "v_prediction", "sample")
SIZES = (64, 1024)  # pixels of a side that an override may name as the usual one


@dataclass(frozen=True)
class Override:
    """What NAME.sigmalab.json says; None leaves it to the file itself.

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
    """Whether a file is a VAE that belongs to a checkpoint beside it."""
    ending = next((ending for ending in VAES if path.name.lower().endswith(ending)), None)
    if ending is None:
        return False
    stem = path.name[: -len(ending)]
    return any(file != path and file.name.startswith(stem) for file in path.parent.glob(f"{escape(stem)}*"))


def vae_beside(path: Path, override: Override) -> Path | None:
    """The file of the VAE that replaces a checkpoint's own, if any. ModelError if a named one is missing."""
    if override.vae is None:
        return next(iter(_vaes_beside(path)), None)
    vae = path.with_name(override.vae)
    if not vae.is_file():
        raise ModelError(f"{path.stem}{OVERRIDES} names the VAE {vae.name}, which is not in the folder")
    return vae


def stamp_of(path: Path, families: Iterable[Family]) -> Hashable:
    """A value that changes when a model's files do, also those that it names or borrows, there or not yet."""
    if path.is_dir():
        names = sorted({"scheduler", *(name for family in families for name in family.components)})
        parts = [_part(path, name) for name in names]
        files = [path / "model_index.json", _part(path, FILE), *parts]
        files += [file for part in parts for file in sorted(part.glob("*.[js]*"))]  # .json, .safetensors
    else:
        files = [path, *(path.with_name(path.stem + ending) for ending in (OVERRIDES, *NOT_READ))]
        files += [*_vaes_beside(path), *_named_vae(path)]
    return tuple((file.name, _stat(file)) for file in files)


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


def _vaes_beside(path: Path) -> list[Path]:
    """The files beside a checkpoint that are its VAE by their names, in any case; the preferred one first."""
    names = [f"{path.stem}{ending}".lower() for ending in VAES]
    beside = (file for file in path.parent.glob(f"{escape(path.stem)}.*") if file.name.lower() in names)
    return sorted((file for file in beside if file.is_file()), key=lambda file: (names.index(file.name.lower()), file))


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
