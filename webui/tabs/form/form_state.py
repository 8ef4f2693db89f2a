"""The form as plain values: what it starts with, and what a browser remembered of it, checked before it is shown.

What a browser sends is untrusted and may be old: a value that no longer fits falls back to its default, alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from samplers.options import Option
from samplers.registry import Registry
from webui.core.limits import MAX_CLIP_SKIP, MAX_GUIDANCE, MAX_SIGMA, SEEDS, Limits, sides
from weights.catalog import ModelInfo

DEFAULTS: dict[str, Any] = {
    "prompt": "",
    "negative_prompt": "",
    "model": "",
    "sampler": "DDIM",
    "schedule": "",
    "steps": 20,
    "guidance": 5.0,
    "width": 0,
    "height": 0,
    "seed": 0,
    "random_seed": True,
    "count": 1,
    "clip_skip": 1,
    "guidance_rescale": 0.0,
    "guidance_low": 0.0,
    "guidance_high": 0.0,
    "strength": 0.6,
    "strength_as": "steps",
    "fit": "crop",
}
FIELDS = tuple(name for name in DEFAULTS if name not in ("strength", "strength_as", "fit"))
PICTURE_FIELDS = ("strength", "strength_as", "fit")
STRENGTH_AS, FITS = ("steps", "noise"), ("crop", "pad", "stretch")
KINDS = ("samplers", "schedules")
RESTORED = 1.0  # a form's revision as soon as it has what the browser kept, until it is filled anew


def fresh(registry: Registry, found: ModelInfo | None) -> dict[str, Any]:
    """The values of a form that was never touched."""
    values = dict(DEFAULTS)
    if values["sampler"] not in registry.samplers:
        values["sampler"] = next(iter(registry.samplers), "")
    if found:
        size = found.defaults.size
        values |= dict(model=found.name, guidance=found.defaults.guidance, width=size, height=size)
    return values


def recall(saved: Any, registry: Registry, models: Mapping[str, ModelInfo], limits: Limits) -> dict[str, Any]:
    """The form's values from what a browser kept, each one valid here and now."""
    saved = saved if isinstance(saved, dict) else {}
    model = saved.get("model")
    found = models.get(model) if isinstance(model, str) else None
    values = fresh(registry, found or next(iter(models.values()), None))
    found = models.get(values["model"])
    allowed = {
        "prompt": lambda v: _text(v, limits.prompt),
        "negative_prompt": lambda v: _text(v, limits.prompt),
        "model": lambda v: v == values["model"],
        "sampler": lambda v: isinstance(v, str) and v in registry.samplers,
        "schedule": lambda v: isinstance(v, str) and (v == "" or v in registry.schedules),
        "steps": lambda v: _whole(v, 1, limits.steps),
        "guidance": lambda v: is_number(v, 0, MAX_GUIDANCE),
        "width": lambda v: _side(v, found),
        "height": lambda v: _side(v, found),
        "seed": lambda v: _whole(v, 0, SEEDS - 1),
        "random_seed": lambda v: isinstance(v, bool),
        "count": lambda v: _whole(v, 1, limits.count),
        "clip_skip": lambda v: _whole(v, 1, MAX_CLIP_SKIP),
        "guidance_rescale": lambda v: is_number(v, 0, 1),
        "guidance_low": lambda v: is_number(v, 0, MAX_SIGMA),
        "guidance_high": lambda v: is_number(v, 0, MAX_SIGMA),
        "strength": lambda v: is_number(v, 0.01, 1),
        "strength_as": lambda v: v in STRENGTH_AS,
        "fit": lambda v: v in FITS,
    }
    return values | {name: saved[name] for name in DEFAULTS if name in saved and allowed[name](saved[name])}


def recall_options(saved: Any, registry: Registry) -> dict[str, dict[str, dict[str, Any]]]:
    """{"samplers": {name: {option: value}}, "schedules": ...} with every known option, from what a browser kept."""
    kept = saved.get("options") if isinstance(saved, dict) else None
    return {kind: _of_kind(getattr(registry, kind), kept, kind) for kind in KINDS}


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


def _text(value: Any, longest: int) -> bool:
    return isinstance(value, str) and len(value) <= longest


def is_number(value: Any, low: float, high: float) -> bool:
    """Whether a value from outside is a number in a range."""
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _whole(value: Any, low: int, high: int) -> bool:
    return is_number(value, low, high) and value == int(value)


def _side(value: Any, found: ModelInfo | None) -> bool:
    if found is None:
        return False
    smallest, largest, step = sides(found)
    return _whole(value, smallest, largest) and value % step == 0
