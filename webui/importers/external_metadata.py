"""The settings that another program wrote into a picture, in one form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class ExternalMetadata:
    """The settings of another program's picture.

    shown     all of its settings as text, by its own names and in its order
    sampler, schedule, model   its own names; "" where it has none
    values    of a request's other fields by their names here, as texts or numbers, whichever it gives
    comfy     whether the names are ComfyUI's
    unnamed_is_uniform  whether a sampler without a schedule has the uniform one
    all_steps_run  whether `steps` are those that run at the strength, and not those of a whole run
    all_hires_steps_run  the same for the second pass
    unread    settings that have no counterpart here, one phrase each
    """

    program: str
    prompt: str = ""
    negative_prompt: str = ""
    shown: Mapping[str, str] = field(default_factory=dict)
    sampler: str = ""
    schedule: str = ""
    model: str = ""
    values: Mapping[str, object] = field(default_factory=dict)
    comfy: bool = False
    unnamed_is_uniform: bool = False
    all_steps_run: bool = False
    all_hires_steps_run: bool = False
    unread: tuple[str, ...] = ()
