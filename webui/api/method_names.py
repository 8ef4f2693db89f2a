"""Samplers, schedules, upscalers and models by the names of A1111, of ComfyUI and of this program, for its APIs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from samplers.registry import Registry
from webui.core.menus import in_order, schedules_in_order
from webui.core.request import RequestError
from webui.importers.external_request import model_named
from webui.importers.sampler_names import ALIASES, COMFY_LEVELS, COMFY_METHODS, LEVELS, METHODS, levels, method, split
from webui.importers.upscaler_names import match_upscaler

AUTOMATIC = ("", "automatic")
# The names in METHODS as A1111 writes them in its menus.
WRITTEN = (
    *("Euler", "Euler a", "Heun", "LMS", "DPM2", "DPM2 a", "DPM++ 2M", "DPM++ 2S a", "DPM++ SDE", "DPM++ 2M SDE"),
    *("DPM++ 2M SDE Heun", "DPM++ 3M SDE", "DPM fast", "DPM adaptive", "LCM", "DDIM", "DDPM", "DDIM CFG++"),
)


def method_fields(sampler: str, scheduler: str, registry: Registry) -> dict[str, Any]:
    """The fields of a request for a sampler and a schedule; nothing for what is not named. Raises RequestError.

    A name of A1111 or ComfyUI means its method, with the options that make ours equal to it.
    """
    first, second, comfy = split(sampler, "" if scheduler.casefold() in AUTOMATIC else scheduler, False)
    fields: dict[str, Any] = {}
    if first:
        ours = method(first)
        if ours and ours.name in registry.samplers:
            fields |= {"sampler": ours.name, "options": dict(ours.options)}
        else:
            fields["sampler"] = _own(first, registry.samplers) or _own(sampler, registry.samplers)
            if not fields["sampler"]:
                raise RequestError(f"Unknown sampler {sampler!r}; known are {', '.join(sampler_names(registry))}.")
    if second:
        found = levels(second, comfy) or levels(second, True)
        if found and found.name in registry.schedules:
            fields |= {"schedule": found.name, "schedule_options": dict(found.options)}
        else:
            fields["schedule"] = _own(second, registry.schedules)
            if not fields["schedule"]:
                raise RequestError(f"Unknown scheduler {second!r}; known are {', '.join(scheduler_names(registry))}.")
    return fields


def sampler_names(registry: Registry) -> dict[str, list[str]]:
    """The names of samplers, A1111's first, each with its other names."""
    names: dict[str, list[str]] = {}
    others = [*COMFY_METHODS.items(), *ALIASES.items()]
    for name in WRITTEN:
        if METHODS[name.casefold()].name in registry.samplers:
            names[name] = [each for each, means in others if means == name.casefold() != each]
    known = {name.casefold() for name in names}
    return names | {name: [] for name in in_order(registry.samplers) if name.casefold() not in known}


def scheduler_names(registry: Registry) -> dict[str, str]:
    """The names of schedules with their labels: A1111's and ComfyUI's, then ours."""
    theirs = {name: ours for name, ours in {**LEVELS, **COMFY_LEVELS}.items() if ours.name in registry.schedules}
    names = {"automatic": "Automatic"} | {name: name.replace("_", " ").title() for name in theirs}
    return names | {name: name for name in schedules_in_order(registry.schedules) if name.casefold() not in names}


def upscaler_named(name: str, names: Sequence[str]) -> str:
    """Our upscaler, among these names, for a name of another program; "" for none. Raises RequestError."""
    if name.casefold() in ("", "none", "use same upscaler"):
        return ""
    found = match_upscaler(name, names)
    if not found:
        raise RequestError(f"Unknown upscaler {name!r}; known are {', '.join(names)}.")
    return found


def known_model(name: str, models: Mapping[str, Any]) -> str:
    """Our model for a title of A1111's list, with its hash in brackets or not. Raises RequestError."""
    found = model_named(name, models) or model_named(name.partition(" [")[0], models)
    if found is None:
        raise RequestError(f"Unknown model {name!r}; known are {', '.join(models)}.")
    return found


def _own(name: str, names: Iterable[str]) -> str:
    return next((each for each in names if each.casefold() == name.strip().casefold()), "")
