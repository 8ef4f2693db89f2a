"""One run: a plan made beforehand, then the sampler's steps. img2img is the same loop, started lower."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from .check import place
from .noise import Noise
from .sampler import Sampler, Schedule, Step, Stopped
from .schedule import NoiseSchedule, cut


@dataclass(frozen=True)
class Plan:
    """What a run will do, known before it starts: the visualizer draws it and the run executes it."""

    sampler: Sampler
    options: Mapping[str, Any]
    sigmas: tuple[float, ...]

    @cached_property
    def calls(self) -> int | None:
        """Denoise calls per image; None for adaptive samplers."""
        return self.sampler.count_calls(self.sigmas, **self.options)

    @cached_property
    def own_grid(self) -> bool:
        """Whether the sampler makes its own grid, which only its steps tell."""
        return self.sampler.own_grid_with(**self.options)


class SamplerFailed(RuntimeError):
    """A sampler broke its contract or raised while drawing; the message names it and the line."""


def plan(
    model: NoiseSchedule,
    sampler: Sampler,
    schedule: Schedule,
    steps: int,
    options: Mapping[str, Any] = {},
    schedule_options: Mapping[str, Any] = {},
    strength: float = 1.0,
    strength_as: str = "steps",
) -> Plan:
    """Resolve options and the exact list of sigmas; ValueError says what is wrong and what is allowed."""
    sigmas = cut(schedule(model, steps, **schedule_options), strength, strength_as)
    return Plan(sampler, sampler.resolve(options), sigmas)


@dataclass
class RunResult:
    """What a finished run leaves: the final state and the sigmas that really ran, the last one 0."""

    x: torch.Tensor
    sigmas: list[float] = field(default_factory=list)


def run(
    plan: Plan,
    denoise: Callable[[torch.Tensor, float], torch.Tensor],
    start: torch.Tensor,
    seeds: Sequence[int],
    on_step: Callable[[Step], None] = lambda step: None,
) -> RunResult:
    """Walk `plan` down from start + sigma * noise and return the end.

    start    (images, channels, height, width): zeros for a picture from words, the clean latents for img2img
    seeds    one per image
    on_step  called with each finished step
    Raises Stopped as it comes from `denoise`, and SamplerFailed, which names the plugin, for anything else.
    """
    x = start + plan.sigmas[0] * Noise(seeds, "initial")(start)
    result = RunResult(x, [plan.sigmas[0]])
    for step in steps(plan, denoise, x, Noise(seeds)):
        result.x = step.x
        result.sigmas.append(step.sigma)
        on_step(step)
    _check_end(plan, result)
    return result


def steps(plan: Plan, denoise, x: torch.Tensor, noise: Noise) -> Iterator[Step]:
    """The sampler's steps, each checked, its failures turned into SamplerFailed."""
    generator = plan.sampler(denoise, x, plan.sigmas, noise, **plan.options)
    while True:
        try:
            step = next(generator)
        except StopIteration:
            return
        except (Stopped, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            name, what = plan.sampler.name, f"{type(error).__name__}: {error}"
            raise SamplerFailed(f"sampler {name} failed ({place(plan.sampler, error)}): {what}") from error
        state = step.x if isinstance(step, Step) else None
        if not isinstance(state, torch.Tensor) or state.shape != x.shape:
            shape = getattr(state, "shape", None)
            got = type(step).__name__ if shape is None else f"x of shape {tuple(shape)}"
            raise SamplerFailed(
                f"sampler {plan.sampler.name} must yield Step with x of shape {tuple(x.shape)}, not {got}"
            )
        yield step


def _check_end(plan: Plan, result: RunResult) -> None:
    name = plan.sampler.name
    if len(result.sigmas) == 1:
        raise SamplerFailed(f"sampler {name} ended without a step; it has to yield Step(x, sigma, denoised)")
    if result.sigmas[-1] != plan.sigmas[-1]:
        raise SamplerFailed(
            f"sampler {name} stopped at sigma {result.sigmas[-1]:g}; it has to go down to {plan.sigmas[-1]:g}"
        )
    # Only the end is checked: looking at every step would make the GPU wait for the CPU.
    if not torch.isfinite(result.x).all():
        raise SamplerFailed(f"sampler {name} ended with numbers that are not finite; try other options or more steps")
