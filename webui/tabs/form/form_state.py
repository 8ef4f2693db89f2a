"""The form as plain values: its defaults, and what a browser remembered of it, checked before it is shown.

What a browser sends is untrusted and may be old: a value that no longer fits falls back to its default, alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from samplers.options import Option
from samplers.registry import Registry
from webui.core.fields import form_fields
from webui.core.limits import Limits, size_problem
from webui.core.menus import UPSCALERS
from webui.core.plugin_fields import GUIDANCE, PLUGIN_FIELDS
from webui.core.request import Request, sift
from webui.core.sampler_advice import first_choice
from weights.model_info import ModelInfo


def form_defaults(schema: type[Request] = Request) -> dict[str, Any]:
    """The values of a form before a model is known; a random seed is a seed and a tick."""
    return {field.name: field.default for field in form_fields(schema)} | {"seed": 0, "random_seed": True}


def fresh(registry: Registry, info: ModelInfo | None, schema: type[Request] = Request) -> dict[str, Any]:
    """The values of a form that was never touched."""
    values = form_defaults(schema)
    if values["sampler"] not in registry.samplers:
        values["sampler"] = next(iter(registry.samplers), "")
    if info:
        size = info.defaults.size
        values |= dict(model=info.name, guidance=info.defaults.guidance, width=size, height=size)
        first = first_choice(info.name)
        if first and first["sampler"] in registry.samplers and first["schedule"] in registry.schedules:
            values |= first
    return values


def recall(
    saved: Any,
    registry: Registry,
    models: Mapping[str, ModelInfo],
    limits: Limits,
    schema: type[Request] = Request,
    upscalers: Collection[str] = UPSCALERS,
    styles: Collection[str] = (),
) -> dict[str, Any]:
    """The form's values from what a browser kept, each one valid here and now.

    upscalers, styles  the names of those that are here
    """
    saved = saved if isinstance(saved, dict) else {}
    model = saved.get("model")
    info = models.get(model) if isinstance(model, str) else None
    values = fresh(registry, info or next(iter(models.values()), None), schema)
    info = models.get(values["model"])
    valid, _ = sift({name: saved[name] for name in values if name in saved and name != "random_seed"}, schema)

    def possible(name: str, value: Any) -> bool:
        match name:
            case "model":
                return value == values["model"]
            case "sampler":
                return value in registry.samplers
            case "hires_model" | "refiner":
                return value == "" or value in models
            case "hires_sampler":
                return value == "" or value in registry.samplers
            case GUIDANCE.name:
                return value == "" or value in registry.guidances
            case "schedule" | "hires_schedule":
                return value == "" or value in registry.schedules
            case "upscaler":
                return value == "" or value in upscalers
            case "styles":
                return all(each in styles for each in value)
            case "width" | "height":
                return info is not None and not size_problem(name, value, info)
            case "seed":
                return value >= 0
        return not limits.problem(name, value)

    values |= {name: value for name, value in valid.items() if possible(name, value)}
    if isinstance(saved.get("random_seed"), bool):
        values["random_seed"] = saved["random_seed"]
    return values


def recall_options(saved: Any, registry: Registry) -> dict[str, dict[str, dict[str, Any]]]:
    """{"samplers": {name: {option: value}}, "schedules": ...} with every known option, from what a browser kept."""
    kept = saved.get("options") if isinstance(saved, dict) else None
    return {each.kind: _of_kind(each.entries(registry), kept, each.kind) for each in PLUGIN_FIELDS}


def _of_kind(entries: Mapping[str, Any], kept: Any, kind: str) -> dict[str, dict[str, Any]]:
    kept = kept.get(kind) if isinstance(kept, dict) else None
    kept = kept if isinstance(kept, dict) else {}
    return {name: _valid(entry.item.options, kept.get(name)) for name, entry in entries.items()}


def _valid(options: Iterable[Option], given: Any) -> dict[str, Any]:
    given = given if isinstance(given, dict) else {}
    values = {}
    for option in options:
        try:
            values[option.name] = option.check(given[option.name])
        except (KeyError, ValueError):
            values[option.name] = option.default
    return values


def is_number(value: Any, low: float, high: float) -> bool:
    """Whether a value from outside is a number in a range."""
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
