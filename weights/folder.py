"""Folders in diffusers' format: what their index names, and where their parts are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .model_info import ModelError

BORROWS = "_borrows"  # of model_index.json; diffusers passes over keys that begin so


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
    """Where a part lies: in the folder itself, else in the one beside it that its index borrows from.

    So a network that was trained on another model's latents and words need not repeat its VAE and text encoder.
    Raises ModelError if the lender is no folder beside it.
    """
    own = path / part
    lender = None if own.is_dir() else read_index(path).get(BORROWS)
    if lender is None:
        return own
    # A name alone: a downloaded folder must not point anywhere else.
    if not isinstance(lender, str) or not _is_plain(lender) or not (path.parent / lender).is_dir():
        raise ModelError(
            f"model {path.name} borrows its {part} from {str(lender)[:100]!r}, which is not a folder beside it"
        )
    return path.parent / lender / part


def _is_plain(name: str) -> bool:
    return name not in ("", ".", "..") and Path(name).name == name and "\\" not in name
