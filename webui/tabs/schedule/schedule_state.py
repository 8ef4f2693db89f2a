"""The values of the Schedule tab that a browser keeps, each checked by itself: a wrong one becomes its default."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from samplers.registry import Registry
from webui.core.limits import Limits
from webui.tabs.form.form_state import is_number, recall
from weights.model_info import ModelInfo

from .curves import AGAINST, LOGS, MEASURES
from .forward_process import PRESERVING, PROCESSES
from .run_plot import FIELDS
from .training_curves import HIGHEST, KINDS, LARGEST_SHIFT, LOWEST, SHOWN

WHOLE = {"strength": 1.0}  # defaults that differ from a form's: here, a picture from words
# Defaults of what is kept beside the settings of the run.
LOOKS: Mapping[str, Any] = {"compare": [], "measure": "sigma", "against": "step", "logs": ["vertical"]}
FORWARD: Mapping[str, Any] = {"at": 0.35, "process": PRESERVING}
TRAINING: Mapping[str, Any] = {
    "kinds": ["scaled linear", "cosine", "flow"],
    "start": 0.00085,
    "end": 0.012,
    "zero": False,
    "shift": 1,
    "shown": SHOWN[0],
}
MORE = {**LOOKS, **FORWARD, **TRAINING}


def recall_run(saved: Any, registry: Registry, models: Mapping[str, ModelInfo], limits: Limits) -> dict[str, Any]:
    """The values of FIELDS from what a browser stored, each one valid."""
    saved = {**WHOLE, **saved} if isinstance(saved, dict) else dict(WHOLE)
    values = recall(saved, registry, models, limits)
    # A wrong value becomes this tab's default, not a form's.
    return {name: WHOLE[name] if name in WHOLE and values[name] != saved[name] else values[name] for name in FIELDS}


def recall_more(saved: Any, registry: Registry) -> dict[str, Any]:
    """The values of MORE from what a browser stored, each one valid."""
    saved = saved if isinstance(saved, dict) else {}
    allowed: dict[str, Callable[[Any], bool]] = {
        "compare": lambda v: _some(v, registry.schedules),
        "measure": lambda v: _one(v, MEASURES),
        "against": lambda v: _one(v, AGAINST),
        "logs": lambda v: _some(v, LOGS),
        "at": lambda v: is_number(v, 0, 1),
        "process": lambda v: _one(v, PROCESSES),
        "kinds": lambda v: _some(v, KINDS),
        "start": lambda v: is_number(v, LOWEST, HIGHEST),
        "end": lambda v: is_number(v, LOWEST, HIGHEST),
        "zero": lambda v: isinstance(v, bool),
        "shift": lambda v: is_number(v, 1, LARGEST_SHIFT),
        "shown": lambda v: _one(v, SHOWN),
    }
    return {
        name: saved[name] if name in saved and allowed[name](saved[name]) else start for name, start in MORE.items()
    }


def _one(value: Any, known: Any) -> bool:
    return isinstance(value, str) and value in known


def _some(value: Any, known: Any) -> bool:
    return isinstance(value, list) and all(_one(each, known) for each in value)
