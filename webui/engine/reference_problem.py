"""The problem that samplers are measured on, its reference solution, and the runs of each sampler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from samplers.closed_form import BimodalDenoiser
from samplers.noise import Noise
from samplers.options import NumberOption
from samplers.reference import solve_flow
from samplers.run import Plan, plan
from samplers.sampler import Denoise, Sampler, Schedule
from samplers.schedule import NoiseSchedule, stable_diffusion

TOLERANCES = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)  # for samplers that choose their own steps
IMAGES = 64  # starting points on the mixture
MIXTURE = BimodalDenoiser(place=1.0, std=0.5)


@dataclass(frozen=True)
class Candidate:
    """A sampler that can be measured, with the options for it and its label in the plot."""

    label: str
    sampler: Sampler
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Excluded:
    """A sampler, or one of its runs, that is not in the plot, and why."""

    label: str
    reason: str


@dataclass(frozen=True, eq=False)
class Problem:
    """Find the end of the probability flow that starts from sigma max times the unit noise of `seeds`.

    zeros  a tensor of the state's shape, dtype and device
    """

    denoise: Denoise
    levels: NoiseSchedule
    zeros: torch.Tensor
    seeds: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class MixtureProblem(Problem):
    """A problem whose flow has a closed form."""

    denoise: BimodalDenoiser


def mixture_problem(seed: int = 0) -> MixtureProblem:
    """64 points of 16 numbers, each from a mixture of two Gaussians, in float64, at Stable Diffusion's noise levels."""
    zeros = torch.zeros(IMAGES, 1, 4, 4, dtype=torch.float64)
    return MixtureProblem(MIXTURE, stable_diffusion(), zeros, tuple(range(seed, seed + IMAGES)))


def exact_end(problem: MixtureProblem) -> torch.Tensor:
    """The end of the mixture's flow, exact to rounding, after the denoising that every run ends with."""
    x = problem.levels.sigma_max * _noise(problem)
    low = problem.levels.sigma_min
    return problem.denoise(problem.denoise.flow(x, problem.levels.sigma_max, low), low)


def solved_end(problem: Problem, steps: int) -> torch.Tensor:
    """The end of the flow by Runge-Kutta after the same denoising: 4 * steps + 1 calls."""
    high, low = problem.levels.sigma_max, problem.levels.sigma_min
    x = solve_flow(problem.denoise, high * _noise(problem), high, low, steps)
    return problem.denoise(x, low)


def relative_error(end: torch.Tensor, exact: torch.Tensor) -> float:
    """The median over images of |end - exact| / |exact|."""
    return ((end - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)).double().median().item()


def candidate(sampler: Sampler, options: Mapping[str, Any]) -> Candidate | Excluded:
    """A sampler with its own noise switched off, since only the flow has one end for one starting noise."""
    resolved = sampler.resolve(options)
    if not sampler.stochastic_with(**resolved):
        return Candidate(sampler.name, sampler, resolved)
    for name in ("eta", "churn", "s_churn", "tau", "s_noise"):
        numbers = (option for option in sampler.options if isinstance(option, NumberOption))
        quiet = next((resolved | {name: 0} for option in numbers if option.name == name and option.low == 0), None)
        if quiet and not sampler.stochastic_with(**quiet):
            return Candidate(f"{sampler.name} ({name} 0)", sampler, sampler.resolve(quiet))
    return Excluded(sampler.name, "draws fresh noise, so that its end is another picture each time")


def runs_of(
    one: Candidate, levels: NoiseSchedule, schedule: Schedule, options: Mapping[str, Any], budgets: Sequence[int]
) -> list[tuple[str, Plan]]:
    """The runs of a sampler, (setting, plan): the most steps within each budget of calls, or each tolerance."""
    make = partial(plan, levels, one.sampler, schedule, schedule_options=options)
    if one.sampler.own_grid_with(**one.options) and "tolerance" in one.options:
        option = next(option for option in one.sampler.options if option.name == "tolerance")
        assert isinstance(option, NumberOption)
        allowed = [value for value in TOLERANCES if option.low <= value <= option.high]
        return [
            (f"tolerance {value:g}", make(steps=20, options={**one.options, "tolerance": value})) for value in allowed
        ]
    if one.sampler.own_grid_with(**one.options) and make(steps=20, options=one.options).calls is None:
        return [("its own steps", make(steps=20, options=one.options))]
    counts: dict[int, Plan] = {}
    for budget in budgets:
        # Most samplers make one or two calls a step, so the first fit is close to these numbers of steps.
        for steps in (budget, *range(budget // 2 + 1, 0, -1)):
            made = make(steps=steps, options=one.options)
            if made.calls is None or made.calls <= budget:
                counts.setdefault(steps, made)
                break
    return [(f"{steps} step{'s' * (steps != 1)}", made) for steps, made in counts.items()]


def _noise(problem: Problem) -> torch.Tensor:
    return Noise(problem.seeds, "initial")(problem.zeros)
