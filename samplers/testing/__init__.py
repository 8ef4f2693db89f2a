"""For authors of plugins: whether a sampler keeps the contract, and closed forms to measure one against.

from samplers.testing import check_sampler, checks

def test_contract():
    check_sampler(my_sampler)

@pytest.mark.parametrize("check", checks(my_sampler), ids=str)
def test_contract_in_parts(check):
    check()
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..check import CheckFailed
from ..closed_form import (
    BimodalDenoiser,
    DistilledDenoiser,
    GaussianDenoiser,
    MixtureDenoiser,
    end_of,
    geometric,
    measure_order,
    measure_order_bent,
)
from ..guidance_check import check_guidance_quickly
from ..sampler import Guidance, Sampler, Schedule
from ..schedule import flow, stable_diffusion
from . import accuracy_checks, contract_checks
from .sampler_under_test import SamplerUnderTest, ends

__all__ = [
    "BimodalDenoiser",
    "Check",
    "CheckFailed",
    "DistilledDenoiser",
    "GaussianDenoiser",
    "MixtureDenoiser",
    "check_guidance",
    "check_sampler",
    "check_schedule",
    "checks",
    "end_of",
    "geometric",
    "measure_order",
    "measure_order_bent",
]

CHECKS: tuple[Callable[[SamplerUnderTest], None], ...] = (
    contract_checks.quick,
    contract_checks.sigmas_fall,
    contract_checks.form_kept,
    contract_checks.finite,
    contract_checks.repeatable,
    contract_checks.batch_invariant,
    contract_checks.inputs_unchanged,
    contract_checks.global_state,
    contract_checks.stops,
    contract_checks.closes,
    contract_checks.options_at_ends,
    contract_checks.calls_as_declared,
    accuracy_checks.order_as_declared,
    accuracy_checks.end_is_reached,
    accuracy_checks.moments_right,
    accuracy_checks.noise_independent,
    accuracy_checks.part_runs,
    accuracy_checks.own_grid_true,
    accuracy_checks.calibration_helps,
)


@dataclass(frozen=True)
class Check:
    """One check of one sampler: call it, and CheckFailed says what was expected, what came, and where to look."""

    name: str
    about: str
    run: Callable[[SamplerUnderTest], None]
    case: SamplerUnderTest

    def __call__(self) -> None:
        try:
            self.run(self.case)
        except CheckFailed as failure:
            raise CheckFailed(f"{self.case.sampler.name}, {self.name}: {failure}") from failure

    def __str__(self) -> str:
        return self.name


def checks(
    sampler: Sampler,
    options: Mapping[str, Any] = {},
    *,
    device: str = "cpu",
    distilled: bool | None = None,
    without: tuple[str, ...] = (),
) -> list[Check]:
    """Every check of a sampler, to be parametrized over: each has a name, and is called without arguments.

    options    what it is checked with; the others are at their defaults, and each also at its ends
    device     where the tensors are
    distilled  it is for networks that answer with the end of the flow instead of the mean; as declared, if not given
    without    names of checks that are left out; say in your test why
    """
    if not isinstance(sampler, Sampler):
        name = getattr(sampler, "__name__", sampler)
        raise TypeError(f"a Sampler is needed, not {type(sampler).__name__} {name}: put @sampler(...) above it")
    case = SamplerUnderTest(sampler, dict(options), device, sampler.distilled if distilled is None else distilled)
    made = [Check(run.__name__, " ".join((run.__doc__ or "").split()), run, case) for run in CHECKS]
    unknown = set(without) - {check.name for check in made}
    if unknown:
        raise ValueError(f"there is no check {min(unknown)!r}; known are {', '.join(map(str, made))}")
    return [check for check in made if check.name not in without]


def check_sampler(sampler: Sampler, options: Mapping[str, Any] = {}, **how: Any) -> tuple[str, ...]:
    """Run every check and return their names; CheckFailed lists all that failed. Arguments are those of `checks`.

    If the quick check fails, the others do not run: they would only repeat it.
    """
    failures: list[str] = []
    passed: list[str] = []
    for check in checks(sampler, options, **how):
        try:
            check()
        except Exception as failure:
            failures.append(
                str(failure) if isinstance(failure, CheckFailed) else f"{sampler.name}, {check}: {failure!r}"
            )
            if check.name == "quick":
                break
        else:
            passed.append(check.name)
    if failures:
        raise CheckFailed("\n".join(failures))
    return tuple(passed)


def check_schedule(schedule: Schedule, steps: tuple[int, ...] = (1, 2, 3, 7, 20, 50)) -> None:
    """Make a schedule on an eps and a flow model with every option at its ends; CheckFailed names the case.

    One that is calibrated is also fitted to a mixture of Gaussians, for two and for six steps.
    """
    variants = [{}, *({option.name: value} for option in schedule.options for value in ends(option))]
    for model, kind in ((stable_diffusion(), "Stable Diffusion"), (flow(), "a flow model")):
        for count, options in ((count, options) for count in steps for options in variants):
            try:
                sigmas = schedule(model, count, **options)
            except Exception as error:
                case = f"{schedule.name} with {count} steps and {options or 'its defaults'} on {kind}"
                raise CheckFailed(
                    f"{case}: expected {count} falling sigmas; got {type(error).__name__}: {error}"
                ) from error
            # A rounding error outside of the trained range is no harm.
            if not model.sigma_min * 0.999 <= min(sigmas[:-1]) <= max(sigmas) <= model.sigma_max * 1.001:
                raise CheckFailed(
                    f"{schedule.name}: expected sigmas that {kind} was trained on; got {sigmas[0]:g} to {sigmas[-2]:g}"
                )

    if schedule.calibrate:
        accuracy_checks.check_schedule_fit(schedule)


def check_guidance(guidance: Guidance, shapes: tuple[tuple[int, ...], ...] = ((2, 4, 8, 8), (3, 1, 5, 3))) -> None:
    """Guide pictures of these shapes with every option at its ends; CheckFailed names the case.

    See `samplers.guidance_check.check_guidance_quickly` for what is checked.
    """
    variants = [{}, *({option.name: value} for option in guidance.options for value in ends(option))]
    for shape, options in ((shape, options) for shape in shapes for options in variants):
        try:
            check_guidance_quickly(guidance, shape, **options)
        except CheckFailed as failure:
            raise CheckFailed(f"{guidance.name} on {shape} with {options or 'its defaults'}: {failure}") from failure
