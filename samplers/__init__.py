"""Samplers of diffusion models: the names here are the ones that a plugin may import."""

# First, because importing a submodule binds its name here: `schedule` and `guidance` have to end up as the decorators.
from .schedule import NoiseSchedule  # isort: skip
from .guidance import CFG as CFG  # isort: skip
from .exponential import multistep_weights
from .options import Choice, Former, Length, Range
from .reference import solve_flow
from .sampler import Step, Stopped, guidance, hookimpl, sampler, schedule

__all__ = [
    "Choice",
    "Former",
    "Length",
    "NoiseSchedule",
    "Range",
    "Step",
    "Stopped",
    "guidance",
    "hookimpl",
    "multistep_weights",
    "sampler",
    "schedule",
    "solve_flow",
]
