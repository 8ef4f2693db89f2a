"""Settings as other programs wrote them, on the way to ours: one shape for A1111, Forge and ComfyUI."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class ExternalMetadata:
    """What another program says about its picture.

    said      everything it says, readable, in its own words and order
    sampler, schedule, model   its own names, "" where it gives none
    values    of a request's other fields by their names here, as texts or numbers, whichever it gives
    comfy     whether the names are ComfyUI's
    unread    what has no counterpart here, one phrase each
    """

    program: str
    prompt: str = ""
    negative_prompt: str = ""
    said: Mapping[str, str] = field(default_factory=dict)
    sampler: str = ""
    schedule: str = ""
    model: str = ""
    values: Mapping[str, object] = field(default_factory=dict)
    comfy: bool = False
    unread: tuple[str, ...] = ()
