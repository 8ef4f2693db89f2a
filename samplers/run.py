"""A run: a plan that is made beforehand, then the sampler's steps. It has one pass or several, each with a plan.

img2img is the same loop started lower; hires fix is two passes, the second from the enlarged result of the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from .check import place
from .noise import Noise
from .sampler import COEFFICIENTS, Denoise, GuidanceFailed, Sampler, Schedule, Step, Stopped
from .schedule import NoiseSchedule, cut


@dataclass(frozen=True)
class Plan:
    """What a run will do, known before it starts: the visualizer draws it and the run executes it.

    coefficients  those of a sampler that is calibrated, {} for none; None where nobody has looked for them yet
    schedule_coefficients  likewise those of the schedule that the sigmas came from
    """

    sampler: Sampler
    options: Mapping[str, Any]
    sigmas: tuple[float, ...]
    coefficients: Mapping[str, Any] | None = None
    schedule_coefficients: Mapping[str, Any] | None = None

    @cached_property
    def calls(self) -> int | None:
        """Denoise calls per image; None for adaptive samplers."""
        return self.sampler.count_calls(self.sigmas, **self.options)

    @cached_property
    def own_grid(self) -> bool:
        """Whether the sampler makes its own grid, which only its steps tell."""
        return self.sampler.own_grid_with(**self.options)


class SamplerFailed(RuntimeError):
    """A sampler or a guidance broke its contract or raised while drawing; the message names it and the line."""


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


@dataclass(frozen=True, eq=False)
class RunResult:
    """The final state of a finished run, and the sigmas that really ran, from the first one to the last."""

    x: torch.Tensor
    sigmas: tuple[float, ...]


def run(
    plan: Plan,
    denoise: Denoise,
    start: torch.Tensor,
    seeds: Sequence[int],
    on_step: Callable[[Step], None] = lambda step: None,
    streams: str = "",
    initial: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> RunResult:
    """Follow `plan` down from start + sigma * noise and return the end.

    start    (images, channels, height, width): zeros for a picture from words, the clean latents for img2img
    seeds    one per image
    on_step  called with each finished step
    streams  a prefix of the noise's purposes; runs with the same seeds and another prefix draw independent noise
    initial  the noise that is added to a start of this shape; by default that of the seeds
    Raises Stopped as it comes from `denoise`, and SamplerFailed, which names the plugin, for anything else.
    """
    x = start + plan.sigmas[0] * (initial or Noise(seeds, f"{streams}initial"))(start)
    sigmas = [plan.sigmas[0]]
    for step in steps(plan, denoise, x, Noise(seeds, f"{streams}step")):
        x = step.x
        sigmas.append(step.sigma)
        on_step(step)
    result = RunResult(x, tuple(sigmas))
    _check_end(plan, result)
    return result


@dataclass(frozen=True, eq=False)
class Pass:
    """One pass of a run: what it does, and the clean latents that it starts from.

    start  (images, channels, height, width), or a function from the final state of the pass before to them, such as an
           enlargement
    """

    plan: Plan
    start: torch.Tensor | Callable[[torch.Tensor], torch.Tensor]


def run_passes(
    passes: Sequence[Pass],
    denoise: Denoise,
    seeds: Sequence[int],
    on_step: Callable[[Step], None] = lambda step: None,
    initial: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> tuple[RunResult, ...]:
    """Run passes one after another, see `run`, and return what each of them left.

    The first pass draws the noise of a run of one pass, or starts from `initial`; pass n has its own streams
    ("pass n/initial", "pass n/step").
    """
    results: list[RunResult] = []
    for number, each in enumerate(passes, start=1):
        if isinstance(each.start, torch.Tensor):
            start = each.start
        elif results:
            start = each.start(results[-1].x)
        else:
            raise ValueError("the first pass has to start from latents: there is no pass before it")
        streams = f"pass {number}/" if number > 1 else ""
        results.append(run(each.plan, denoise, start, seeds, on_step, streams, None if results else initial))
    return tuple(results)


def steps(plan: Plan, denoise: Denoise, x: torch.Tensor, noise: Noise) -> Iterator[Step]:
    """The sampler's steps, each checked, its failures turned into SamplerFailed."""
    fitted = {COEFFICIENTS: plan.coefficients} if plan.coefficients else {}
    generator = plan.sampler(denoise, x, plan.sigmas, noise, **fitted, **plan.options)
    while True:
        try:
            step = next(generator)
        except StopIteration:
            return
        except (Stopped, MemoryError, torch.OutOfMemoryError):
            raise
        except GuidanceFailed as error:
            raise SamplerFailed(str(error)) from error
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
