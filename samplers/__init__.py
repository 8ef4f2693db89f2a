"""Samplers of diffusion models: the names here are the ones that a plugin may import."""

# First, because importing a submodule binds its name here: `schedule` has to end up as the decorator.
from .schedule import NoiseSchedule  # isort: skip
from .exponential import multistep_weights
from .options import Choice, Length, Range
from .sampler import Step, Stopped, hookimpl, sampler, schedule

__all__ = [
    "Choice",
    "Length",
    "NoiseSchedule",
    "Range",
    "Step",
    "Stopped",
    "hookimpl",
    "multistep_weights",
    "sampler",
    "schedule",
]
