"""Checks of a sampler's mathematics against closed forms, one function each; messages are for the author.

On a Gaussian the exact flow and the exact spread at every noise level are known.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from ..check import CheckFailed, check_calls, explained, fail
from ..closed_form import MixtureDenoiser, geometric, measure_order, measure_order_bent
from ..fitting_denoiser import FittingDenoise
from ..noise import Noise
from ..sampler import Schedule
from ..schedule import NoiseSchedule, stable_diffusion
from .sampler_under_test import LIST, PICTURE, SamplerUnderTest, check_flow, check_spread, mixture

FITTED = 16  # pictures that a fit is tried on


def order_as_declared(case: SamplerUnderTest) -> None:
    """The measured order of accuracy is within 0.2 of the declared one."""
    declared = case.sampler.order_of(**case.options)
    if declared is None or case.stochastic:
        return
    with explained(case.sampler):
        measured = measure_order(case.sampler, **case.options)
        # A multistep method's start-up shows its order late: the slope falls to it as the steps become small.
        if abs(measured - declared) > 0.2:
            measured = measure_order(case.sampler, (256, 512, 1024), **case.options)
        # Better than declared may be a gift of the linear flow of one Gaussian.
        if measured - declared > 0.2:
            measured = measure_order_bent(case.sampler, **case.options)
    if not abs(measured - declared) <= 0.2:
        look = f"the coefficients, the first steps of a multistep method, and order= of @sampler, {case.here}"
        fail(f"order {declared:g}, as declared", f"{measured:.2f}", look)


def end_is_reached(case: SamplerUnderTest) -> None:
    """Where the list ends above 0, the last state is at that noise level: nothing is left over."""
    sigmas, std = geometric(10.0, 2.0, 16), torch.linspace(0.3, 1.5, 24, dtype=torch.float64, device=case.device)
    look = f"the last step, which must go to sigmas[-1] also if that is not 0, {case.here}"
    if case.stochastic or case.distilled:
        check_spread(case, sigmas, 0.06, look, only_end=True)
    else:
        check_flow(case, sigmas, std.reshape(PICTURE), 0.04, look)


def moments_right(case: SamplerUnderTest) -> None:
    """A stochastic sampler keeps mean and spread of Gaussian data at every noise level, with its noise on."""
    look = (
        f"the scale of the noise that is added, and what is removed for it, {case.here}; if the bias is meant, "
        'distilled=True of @sampler, or without=("moments_right",) in your test'
    )
    sigmas = (*geometric(10.0, 0.02, 63), 0.0)
    if case.stochastic:
        check_spread(case, sigmas, 0.06, look)
        return
    for variant in case.variants():
        if case.sampler.stochastic_with(**(case.options | variant)):
            # At the end of its range an option may well cost accuracy, but not much of the noise.
            check_spread(case, sigmas, 0.12, look, **variant)


def noise_independent(case: SamplerUnderTest) -> None:
    """Noise is drawn as declared, for each picture, and has nothing to do with the starting noise."""
    start = Noise([1], "initial")(torch.zeros(1, 1, 64, 64, dtype=torch.float64, device=case.device))
    x = 10.0 * start.expand(2, -1, -1, -1)
    first = case.run_checked(case.gaussian(0.7), x, LIST[:-1], (1, 2))
    if bool(first.draws) != case.stochastic:
        declared = "noise to be drawn" if case.stochastic else "no noise to be drawn"
        fail(f"{declared}, as declared", f"{first.draws} draws", f"stochastic= of @sampler, {case.here}")
    if not case.stochastic:
        return
    other = case.run_checked(case.gaussian(0.7), x, LIST[:-1], (3, 4))
    one, two = (first.x - other.x).flatten(1)
    for what, a, b in (("the starting noise", one, start.flatten()), ("the noise of another picture", one, two)):
        correlation = torch.corrcoef(torch.stack([a, b]))[0, 1].item()
        # Five standard errors of 4096 independent pairs.
        if not abs(correlation) < 0.08:
            fail(
                f"step noise independent of {what}",
                f"a correlation of {correlation:.2f}",
                f"noise that is not a fresh noise(x), {case.here}",
            )


def part_runs(case: SamplerUnderTest) -> None:
    """Any lower part of a list runs by itself (that is img2img), and takes its start for what it is."""
    for first in range(len(LIST) - 1):
        part = LIST[first:]
        trace = case.run_checked(mixture(), case.start(part[0], 1) + 0.3, part)
        check_calls(case.sampler, case.sampler.count_calls(part, **case.options), trace)
    if not case.stochastic and not case.distilled:
        std = torch.linspace(0.3, 1.5, 24, dtype=torch.float64, device=case.device).reshape(PICTURE)
        look = f"a start that is taken for pure noise, or a top sigma that is written into the code, {case.here}"
        check_flow(case, geometric(1.0, 0.1, 16), std, 0.04, look)


def own_grid_true(case: SamplerUnderTest) -> None:
    """A sampler with its own grid reports the levels that it visited, and stays within the list."""
    if not case.own_grid:
        return
    sigmas, std = geometric(10.0, 0.1, 20), torch.tensor(0.7, dtype=torch.float64)
    denoise = case.gaussian(std)
    x = 0.3 + math.sqrt(0.7**2 + 100.0) * case.start(1.0, 1)
    trace = case.run_checked(denoise, x, sigmas)
    near = 1e-6
    outside = [sigma for sigma in trace.asked if not sigmas[-1] * (1 - near) <= sigma <= sigmas[0] * (1 + near)]
    if outside:
        fail(
            f"network calls from {sigmas[0]:g} to {sigmas[-1]:g}",
            f"one at {outside[0]:g}",
            f"the ends of the grid, {case.here}",
        )
    for step in trace.steps:
        exact = denoise.flow(x, sigmas[0], step.sigma)
        if not case.stochastic and (step.x - exact).norm() > 0.1 * (exact - 0.3).norm():
            fail(
                "Step.sigma to be the level that Step.x is at",
                f"another state at {step.sigma:g}",
                f"the grid that is reported, {case.here}",
            )


def calibration_helps(case: SamplerUnderTest) -> None:
    """Where it is calibrated: the coefficients are plain JSON data, and on other starts runs end no worse with them."""
    if case.sampler.calibrate is None:
        return
    exact = Levelled()
    sigmas = (*geometric(exact.model.sigma_max, 0.1, 3), 0.0)
    x = case.start(sigmas[0], 2 * FITTED)
    with explained(case.sampler):
        found = case.sampler.calibrate(exact.fitting(), x[:FITTED], sigmas, Noise(range(FITTED), "step"))
    check_plain(found, f"what calibrate= returns, {case.here}")
    goal, errors = exact.fitting().ends(x[FITTED:], sigmas[0]), []
    for given in ({}, {"coefficients": found}):
        with explained(case.sampler):
            noise = Noise(range(FITTED), "step")
            *_, last = case.sampler(exact, x[FITTED:], sigmas, noise, **case.options, **given)
        errors.append((last.x - goal).norm().item())
    before, after = errors
    # What draws noise ends elsewhere each time.
    if not case.stochastic and not after <= before * 1.001:
        fail(f"an error of at most {before:.3g}, as without coefficients", f"{after:.3g}", f"calibrate=, {case.here}")


def check_schedule_fit(schedule: Schedule) -> None:
    """Raise CheckFailed unless a schedule fits, and makes falling sigmas within the trained range of what it found."""
    exact, look = Levelled(), f"calibrate= of schedule {schedule.name}"
    model, calibrate = exact.model, schedule.calibrate
    assert calibrate is not None
    starts = model.sigma_max * Noise(range(FITTED), "initial")(torch.zeros(FITTED, *PICTURE, dtype=torch.float64))
    for steps in (2, 6):
        try:
            found = calibrate(exact.fitting(), starts, steps, Noise(range(FITTED), "step"))
            check_plain(found, f"what it returns, {look}")
            sigmas = schedule(model, steps, coefficients=found)
        except CheckFailed:
            raise
        except Exception as error:
            fail(f"a fit to {steps} steps, and its sigmas", f"{type(error).__name__}: {error}", look)
        if not model.sigma_min * 0.999 <= sigmas[-2] <= sigmas[0] <= model.sigma_max * 1.001:
            fail("sigmas that the model was trained on", f"{sigmas[0]:g} to {sigmas[-2]:g}", look)


@dataclass(frozen=True, eq=False)
class Levelled:
    """The mixture as a model of Stable Diffusion's noise levels."""

    exact: MixtureDenoiser = field(default_factory=mixture)
    model: NoiseSchedule = field(default_factory=stable_diffusion)

    def __call__(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        return self.exact(x, sigma)

    def fitting(self) -> FittingDenoise:
        """What a fit is given."""
        return FittingDenoise(lambda pictures: self, FITTED)


def check_plain(found: Any, look: str) -> None:
    """Raise CheckFailed unless coefficients are a dict that JSON keeps as it is."""
    try:
        kept = json.loads(json.dumps(found, allow_nan=False))
    except (TypeError, ValueError) as error:
        kept = error
    if not isinstance(found, Mapping) or kept != found:
        came = str(kept) if isinstance(kept, Exception) else f"a {type(found).__name__} that comes back as {kept!r}"
        fail("a dict of JSON data, which a picture can carry", came[:200], look)
