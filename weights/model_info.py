"""What is known of a model before it is opened, and the error for models that cannot be used."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from samplers.schedule import NoiseSchedule

from .card import Card


class ModelError(ValueError):
    """A model that cannot be used; the message names it, says what is wrong and what to do."""


@dataclass(frozen=True)
class Defaults:
    """What a form starts with for a model, and what sizes it can make.

    size and multiple are in pixels of a side: width and height are multiples of `multiple` up to `largest`;
    max_batch is how many pictures are made at once; schedule_options go with `schedule` where no schedule is named.
    """

    size: int
    multiple: int
    largest: int
    guidance: float
    schedule: str
    max_batch: int
    schedule_options: tuple[tuple[str, Any], ...] = ()

    @property
    def step(self) -> int:
        """The step of a size's slider: coarser than what the network takes, so that usual sizes are easily met."""
        return max(self.multiple, min(64, self.size // 4))


@dataclass(frozen=True)
class ModelInfo:
    """A model that can be chosen: where it is and what its own configuration says.

    factor      how many pixels of a side a latent stands for
    stamp       changes when its files do
    notes       what its user should know about how it was read, a sentence each
    is_certain  whether the prediction is known; else the network is probed when it is opened
    vae         the file of a VAE that replaces its own
    inpaints    whether its network is made for inpainting, see `weights.inpainting_network`
    takes_guidance  whether the guidance scale is an input of its network, which then makes one estimate alone
    card        what it draws, if that is written beside it, and the file that says so
    """

    name: str
    path: Path
    schedule: NoiseSchedule
    prediction: str
    channels: int
    factor: int
    defaults: Defaults
    stamp: Hashable = None
    notes: tuple[str, ...] = ()
    is_certain: bool = True
    vae: Path | None = None
    inpaints: bool = False
    takes_guidance: bool = False
    card: Card | None = field(default=None, hash=False)
    card_file: Path | None = None


# Of a model that takes guidance: the scale that it is used at.
DISTILLED_GUIDANCE = 8.0
TAKES_GUIDANCE = "It is distilled for few steps and takes the guidance scale as an input: a call makes one estimate."


def input_channels(info: ModelInfo) -> int:
    """Channels that the network of a model takes."""
    return 2 * info.channels + 1 if info.inpaints else info.channels


def describe_error(error: Exception) -> str:
    """An unexpected error in one line: its type and the first line of its text."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"
