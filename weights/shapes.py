"""What is known of a checkpoint file before its numbers are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Shape:
    """A tensor's shape and its dtype."""

    sizes: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class Tensors:
    """What a checkpoint file holds: shapes by name, and the little facts beside them (texts and numbers by name)."""

    path: Path
    shapes: Mapping[str, Shape]
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Held:
    """An open file: the shapes of its tensors, and `get(name)`, a tensor that is only valid while the file is open."""

    shapes: Mapping[str, Shape]
    get: Callable[[str], torch.Tensor]
