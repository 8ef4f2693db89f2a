"""Families of models, and which of them a file or a folder belongs to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..model_info import ModelError
from ..tensors import TensorFile
from .family import OWN_SIZE as OWN_SIZE
from .family import Checkpoint as Checkpoint
from .family import ConditionedNetwork as ConditionedNetwork
from .family import Family as Family
from .family import SizeCondition as SizeCondition
from .sdxl_refiner import StableDiffusionXLRefiner
from .stable_diffusion import StableDiffusion
from .stable_diffusion_xl import StableDiffusionXL
from .unsupported_models import describe_unsupported

FAMILIES: tuple[Family, ...] = (StableDiffusion(), StableDiffusionXL(), StableDiffusionXLRefiner())


def recognize_file(file: TensorFile, families: Sequence[Family] = FAMILIES) -> tuple[Family, Checkpoint]:
    """The first family that recognizes a single file, and what it recognized. ModelError says what another file is."""
    for family in families:
        if checkpoint := family.recognize(file):
            return family, checkpoint
    raise ModelError(f"{file.path.name} looks like {describe_unsupported(file.shapes, file.metadata)}")


def recognize_folder(components: Iterable[str], families: Sequence[Family] = FAMILIES) -> Family:
    """The family with the most components among those that a folder names; the first if none is complete."""
    named = set(components)
    complete = [family for family in families if family.components.keys() <= named]
    return max(complete or families[:1], key=lambda family: len(family.components))
