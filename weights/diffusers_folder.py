"""Folders in diffusers' format: their index, where their parts are, and what their configurations say."""

from __future__ import annotations

import json
from collections.abc import Hashable
from pathlib import Path
from typing import Any

from .card import FILE, Card, CardError, read_card
from .families.unsupported_models import extra_input
from .model_info import DISTILLED_GUIDANCE, TAKES_GUIDANCE, Defaults, ModelError, ModelInfo, describe_error
from .scheduler_config import default_schedule, read_schedule, whole_number

BORROWS = "_borrows"  # key of model_index.json; diffusers ignores keys that begin with an underscore
NONE = [None, None]  # of a part that a folder does without
REFINER_INPUT = 2560  # width of the pooled vector, sizes and score of Stable Diffusion XL's refiner
LARGEST = 4096  # pixels of a side that a model may be made for


def read_index(path: Path) -> dict[str, Any]:
    """The model_index.json of a folder. ModelError if it cannot be read."""
    try:
        index = json.loads((path / "model_index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"model {path.name}: model_index.json cannot be read ({error})") from None
    if not isinstance(index, dict):
        raise ModelError(f"model {path.name}: model_index.json is not a JSON object")
    return index


def part_folder(path: Path, part: str) -> Path:
    """Where a part lies: in the folder itself, else in the folder beside it that its index borrows from.

    A network that was trained on another model's latents and prompts thus needs no copy of its VAE and text encoder.
    Raises ModelError if the lender is no folder beside it.
    """
    own = path / part
    lender = None if own.exists() else read_index(path).get(BORROWS)
    if lender is None:
        return own
    # A name alone: a downloaded folder must not point anywhere else.
    if not isinstance(lender, str) or not _is_plain(lender) or not (path.parent / lender).is_dir():
        raise ModelError(
            f"model {path.name} borrows its {part} from {str(lender)[:100]!r}, which is not a folder beside it"
        )
    return path.parent / lender / part


def read_folder(path: Path, stamp: Hashable = None, name: str = "") -> ModelInfo:
    """What a diffusers folder is, from its configurations. ModelError says which file is wrong and how.

    stamp  see `ModelInfo`
    name   by default that of the folder
    """
    _check_formats(path)
    unet, vae, scheduler = (_config(path, part) for part in ("unet", "vae", "scheduler"))
    try:
        factor = 2 ** (len(vae["block_out_channels"]) - 1)
        latents = whole_number(unet, "sample_size", LARGEST)
        size = latents * factor
        channels, taken = whole_number(vae, "latent_channels", LARGEST), whole_number(unet, "in_channels", LARGEST)
        schedule, prediction = read_schedule(scheduler)
        levels = len(unet["block_out_channels"])
        default = default_schedule(scheduler, schedule.flow)
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise ModelError(f"model {path.name}: its configuration cannot be read ({describe_error(error)})") from None
    if not 1 <= factor <= factor * 2 ** (levels - 1) <= LARGEST or size > LARGEST:
        raise ModelError(
            f"model {path.name}: its configuration is not that of a model for pictures of up to {LARGEST} pixels a side"
        )
    if taken not in (channels, 2 * channels + 1):
        raise ModelError(
            f"model {path.name} is a network of another kind ({taken} input channels, its VAE has {channels}); "
            "it is not supported"
        )
    is_refiner = unet.get("projection_class_embeddings_input_dim") == REFINER_INPUT
    if is_refiner and read_index(path).get("text_encoder") != NONE:
        raise ModelError(f"model {path.name} is another model with the UNet of a Stable Diffusion XL refiner")
    if what := extra_input((), unet):
        raise ModelError(f"model {path.name} is {what}, which is not supported yet")
    # As much work in a batch as one picture of Stable Diffusion 1 is serves small and large models alike.
    max_batch = max(1, min(16, (64 * 64) // (latents * latents)))
    takes_guidance = unet.get("time_cond_proj_dim") is not None
    guidance = DISTILLED_GUIDANCE if takes_guidance else 5.0 if latents < 32 else 7.5
    defaults = Defaults(size, factor, 4 * size, guidance, default.name, max_batch, default.options)
    card_file, card, notes = _card(path)
    notes = (*default.notes, *([TAKES_GUIDANCE] if takes_guidance else []), *notes)
    return ModelInfo(
        name or path.name,
        path,
        schedule,
        prediction,
        channels,
        factor,
        defaults,
        stamp,
        notes,
        inpaints=taken != channels,
        takes_guidance=takes_guidance,
        card=card,
        card_file=card_file,
    )


def card_beside(path: Path) -> Path:
    """The file of a model's card, there or not: in the folder itself, else in the one that it borrows from."""
    return part_folder(path, FILE)


def _card(path: Path) -> tuple[Path | None, Card | None, tuple[str, ...]]:
    """(the file of the card, the card, what is wrong with it as notes)."""
    try:
        file = card_beside(path)
        return (file, read_card(file), ()) if file.is_file() else (None, None, ())
    except (CardError, ModelError) as error:
        return None, None, (f"{error}.",)


def _check_formats(path: Path) -> None:
    """Raises ModelError for weights in pickles alone, which can carry code and are read from single files only."""
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        folder = part_folder(path, part)
        if any(folder.glob("*.bin")) and not any(folder.glob("*.safetensors")):
            raise ModelError(
                f"model {path.name} has its {part} as .bin alone; download its .safetensors files as well, or save it "
                "anew in diffusers with save_pretrained"
            )


def _config(path: Path, part: str) -> dict[str, Any]:
    file = part_folder(path, part) / ("scheduler_config.json" if part == "scheduler" else "config.json")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except OSError:
        raise ModelError(f"model {path.name} has no {part}/{file.name}; copy the whole diffusers folder") from None
    except (ValueError, RecursionError) as error:
        raise ModelError(f"model {path.name}: {part}/{file.name} is not JSON ({error})") from None
    if not isinstance(config, dict):
        raise ModelError(f"model {path.name}: {part}/{file.name} is not a JSON object")
    return config


def _is_plain(name: str) -> bool:
    return name not in ("", ".", "..") and Path(name).name == name and "\\" not in name
