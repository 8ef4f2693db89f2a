"""A model that can be chosen, and what goes wrong with models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samplers.schedule import NoiseSchedule


class ModelError(ValueError):
    """A model that cannot be used; the message names it, says what is wrong and what to do."""


@dataclass(frozen=True)
class Defaults:
    """What a form starts with for a model, and what sizes it can make.

    size and multiple are in pixels of a side: width and height are multiples of `multiple` up to `largest`;
    max_batch is how many pictures are made at once.
    """

    size: int
    multiple: int
    largest: int
    guidance: float
    schedule: str
    max_batch: int


@dataclass(frozen=True)
class ModelInfo:
    """A model that can be chosen: where it is and what its own configuration says.

    stamp       changes when its files do
    notes       what its user should know about how it was read, a sentence each
    is_certain  whether the prediction is known; else only the network itself can tell, when it is opened
    vae         the file of a VAE that is used instead of its own
    """

    name: str
    path: Path
    schedule: NoiseSchedule
    prediction: str
    channels: int
    factor: int
    defaults: Defaults
    stamp: Any = None
    notes: tuple[str, ...] = ()
    is_certain: bool = True
    vae: Path | None = None
