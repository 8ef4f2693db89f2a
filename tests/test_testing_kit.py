"""samplers.testing: every built-in sampler passes, and each way to break the contract is caught by its check."""

import math
import re
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import pytest
import torch

from samplers import Choice, Range, Step, Stopped, sampler, schedule
from samplers.check import check_quickly, check_schedule_quickly
from samplers.noise import Noise
from samplers.registry import discover
from samplers.schedule import stable_diffusion
from samplers.testing import (
    BimodalDenoiser,
    CheckFailed,
    DistilledDenoiser,
    check_sampler,
    check_schedule,
    checks,
    measure_order,
    measure_order_bent,
)

FOUND = discover(Path(__file__).parents[1] / "plugins", packages=False)
# What a sampler honestly is, and what it therefore cannot pass.
HOW = {
    # It goes below the next level as an ordinary network leads, which the toy of a distilled one does not do.
    "TCD": dict(distilled=False, without=("moments_right",)),
    # Its stochastic option puts all noise on anew, which is right for distilled networks alone.
    "diffusers Flow Euler": dict(without=("moments_right",)),
}
NATIVE = [name for name in FOUND.samplers if not name.startswith(("diffusers ", "k-diffusion "))]
BRIDGED = [pytest.param(name, marks=pytest.mark.slow) for name in FOUND.samplers if name not in NATIVE]


# One bridge in eight: what they share is one function, and test_bridges.py compares each with its package.
@pytest.mark.parametrize("name", [*NATIVE, *BRIDGED[::8]])
def test_built_in_samplers_keep_the_contract(name):
    check_sampler(FOUND.sampler(name).item, **HOW.get(name, {}))


@pytest.mark.parametrize(
    "name, options", [("DDIM", {"eta": 1.0}), ("Flow", {"method": "heun"}), ("Heun", {"churn": 10.0})]
)
def test_samplers_keep_the_contract_with_other_options(name, options):
    check_sampler(FOUND.sampler(name).item, options)


@pytest.mark.parametrize("name", FOUND.schedules)
def test_the_schedules_keep_theirs(name):
    check_schedule(FOUND.schedule(name).item)


def euler(denoise, x, sigmas):
    for sigma, lower in pairwise(sigmas):
        denoised = denoise(x, sigma)
        x = x + (lower - sigma) * (x - denoised) / sigma
        yield Step(x, lower, denoised)


def ddpm(denoise, x, sigmas, draw, scale=1.0):
    for sigma, lower in pairwise(sigmas):
        denoised = denoise(x, sigma)
        kept = (lower / sigma) ** 2
        x = (1 - kept) * denoised + kept * x
        if lower > 0:
            x = x + scale * lower * math.sqrt(1 - kept) * draw(x)
        yield Step(x, lower, denoised)


@sampler("Good", order=1, calls=1)
def good(denoise, x, sigmas, noise):
    yield from euler(denoise, x, sigmas)


@sampler("Good SDE", calls=1, stochastic=True)
def good_sde(denoise, x, sigmas, noise):
    yield from ddpm(denoise, x, sigmas, noise)


@sampler("wrong order", order=2)
def wrong_order(denoise, x, sigmas, noise):
    yield from euler(denoise, x, sigmas)


@sampler("calls more often", calls=1)
def calls_more(denoise, x, sigmas, noise):
    for step in euler(denoise, x, sigmas):
        if step.sigma > 0 and len(sigmas) > 5:
            denoise(x, step.sigma)
        yield step


@sampler("changes x")
def changes_x(denoise, x, sigmas, noise):
    for sigma, lower in pairwise(sigmas):
        denoised = denoise(x, sigma)
        x += (lower - sigma) * (x - denoised) / sigma
        yield Step(x.clone(), lower, denoised)


@sampler("changes yielded states")
def changes_yielded(denoise, x, sigmas, noise):
    x = x.clone()
    for sigma, lower in pairwise(sigmas):
        denoised = denoise(x, sigma)
        x += (lower - sigma) * (x - denoised) / sigma
        yield Step(x, lower, denoised)


@sampler("changes what denoise returned")
def changes_denoised(denoise, x, sigmas, noise):
    for sigma, lower in pairwise(sigmas):
        denoised = denoise(x, sigma)
        x = x + (lower - sigma) * (x - denoised) / sigma
        yield Step(x, lower, denoised.clamp_(-5, 5).mul_(1.0001))


@sampler("global generator", stochastic=True)
def global_generator(denoise, x, sigmas, noise):
    yield from ddpm(denoise, x, sigmas, torch.randn_like)


@sampler("same noise for all", stochastic=True)
def same_noise(denoise, x, sigmas, noise):
    yield from ddpm(denoise, x, sigmas, lambda x: noise(x)[:1].expand_as(x))


@sampler("noise of a seed of its own", stochastic=True)
def own_seed(denoise, x, sigmas, noise):
    generator = torch.Generator().manual_seed(3)
    yield from ddpm(denoise, x, sigmas, lambda x: torch.randn(x.shape[1:], generator=generator).to(x).expand_as(x))


@sampler("starting noise again", stochastic=True)
def starting_noise(denoise, x, sigmas, noise):
    again = Noise(noise._seeds, "initial")
    yield from ddpm(denoise, x, sigmas, lambda x: again(x) + 0 * noise(x))


@sampler("too much noise", stochastic=True)
def too_much_noise(denoise, x, sigmas, noise):
    yield from ddpm(denoise, x, sigmas, noise, scale=1.2)


@sampler("undeclared noise", calls=1)
def undeclared_noise(denoise, x, sigmas, noise):
    # Not in the short list of the quick check, which would refuse it at once.
    yield from ddpm(denoise, x, sigmas, noise) if len(sigmas) > 3 else euler(denoise, x, sigmas)


@sampler("a generator of its own", calls=1)
def own_generator(denoise, x, sigmas, noise):
    generator = torch.Generator().manual_seed(0)
    yield from ddpm(denoise, x, sigmas, lambda x: torch.randn(x.shape, generator=generator, dtype=x.dtype))


@sampler("float32 sigmas", calls=1)
def float32_sigmas(denoise, x, sigmas, noise):
    for step in euler(denoise, x, sigmas):
        yield Step(step.x, torch.tensor(step.sigma).item(), step.denoised)


kept_between_runs = []


@sampler("keeps state", calls=1)
def keeps_state(denoise, x, sigmas, noise):
    kept_between_runs.append(1)
    for step in euler(denoise, x, sigmas):
        yield Step(step.x + 1e-3 * len(kept_between_runs), step.sigma, step.denoised)


@sampler("draws in vain", calls=1)
def draws_in_vain(denoise, x, sigmas, noise):
    noise(x)
    yield from euler(denoise, x, sigmas)


@sampler("ignores the last sigma")
def ignores_last(denoise, x, sigmas, noise):
    for step in euler(denoise, x, (*sigmas[:-1], 0.0)):
        yield Step(step.x, step.sigma or sigmas[-1], step.denoised)


@sampler("leaves noise over")
def leaves_noise(denoise, x, sigmas, noise):
    *steps, last = euler(denoise, x, sigmas)
    before = steps[-1] if steps and sigmas[-1] > 0 else last
    yield from steps
    yield Step(before.x, last.sigma, before.denoised)


@sampler("stops early")
def stops_early(denoise, x, sigmas, noise):
    yield from euler(denoise, x, sigmas[:-1] if len(sigmas) > 4 else sigmas)


@sampler("normalises the batch")
def normalises_batch(denoise, x, sigmas, noise):
    for step in euler(denoise, x, sigmas):
        yield Step(step.x * (1 + 0.01 * torch.tanh(step.x.std())), step.sigma, step.denoised)


@sampler("float32 alone")
def float32_alone(denoise, x, sigmas, noise):
    for step in euler(denoise, x, sigmas):
        yield Step(step.x.float(), step.sigma, step.denoised)


@sampler("tensor for a sigma")
def tensor_sigma(denoise, x, sigmas, noise):
    for step in euler(denoise, x, sigmas):
        yield Step(step.x, torch.tensor(step.sigma), step.denoised)


@sampler("NaN with one step")
def nan_with_one_step(denoise, x, sigmas, noise):
    for step in euler(denoise, x, sigmas):
        yield Step(step.x + math.inf * (len(sigmas) == 2), step.sigma, step.denoised)


@sampler("swallows Stopped")
def swallows_stopped(denoise, x, sigmas, noise):
    for sigma, lower in pairwise(sigmas):
        try:
            denoised = denoise(x, sigma)
        except Stopped:
            denoised = x
        x = x + (lower - sigma) * (x - denoised) / sigma
        yield Step(x, lower, denoised)


@sampler("goes on when closed")
def goes_on(denoise, x, sigmas, noise):
    try:
        yield from euler(denoise, x, sigmas)
    finally:
        denoise(x, 1.0)


@sampler("fails at an end")
def fails_at_end(denoise, x, sigmas, noise, *, churn: Annotated[float, Range(0, 1)] = 0.5):
    for step in euler(denoise, x, sigmas):
        yield Step(step.x / churn, step.sigma, step.denoised) if churn == 0 else step


@sampler("fails with a choice")
def fails_with_choice(denoise, x, sigmas, noise, *, kind: Annotated[str, Choice("a", "b")] = "a"):
    yield from euler(denoise, x, {"a": sigmas}[kind])


@sampler("top sigma in the code")
def top_in_code(denoise, x, sigmas, noise):
    yield from euler(denoise, x * (10.0 / sigmas[0]), sigmas)


@sampler("hidden grid")
def hidden_grid(denoise, x, sigmas, noise):
    yield from euler(denoise, x, (sigmas[0], (sigmas[0] * max(sigmas[-1], 0.01)) ** 0.5, sigmas[-1]))


@sampler("untrue grid", own_grid=True)
def untrue_grid(denoise, x, sigmas, noise):
    middle = [(sigma + below) / 2 for sigma, below in pairwise(sigmas[1:-1])]
    for step, told in zip(euler(denoise, x, (sigmas[0], *middle, sigmas[-1])), [*sigmas[1:-2], sigmas[-1]]):
        yield Step(step.x, told, step.denoised)


@sampler("grid beyond the list", own_grid=True)
def grid_beyond(denoise, x, sigmas, noise):
    denoise(x, sigmas[0] * 1.5)
    yield from euler(denoise, x, sigmas)


@sampler("never yields")
def never_yields(denoise, x, sigmas, noise):
    if denoise is None:
        yield Step(x, 0.0, x)


def scaled(denoise, x, sigmas, gain=1.0):
    for step in euler(denoise, x, sigmas):
        yield Step(step.x * gain, step.sigma, step.denoised)


@sampler("coefficients that are tensors", calibrate=lambda *given: {"gain": torch.ones(1)})
def tensors_fitted(denoise, x, sigmas, noise, *, coefficients=None):
    yield from scaled(denoise, x, sigmas, **(coefficients or {}))


@sampler("a fit that makes it worse", calibrate=lambda *given: {"gain": 1.5})
def worse_fitted(denoise, x, sigmas, noise, *, coefficients=None):
    yield from scaled(denoise, x, sigmas, **(coefficients or {}))


MUTANTS = [
    (wrong_order, "order_as_declared", r"expected order 2, as declared; got 1\.0"),
    (calls_more, "calls_as_declared", "expected 5 network calls, as declared; got 9"),
    (changes_x, "inputs_unchanged", "expected x to stay"),
    (changes_yielded, "inputs_unchanged", "a state already yielded"),
    (changes_denoised, "inputs_unchanged", "what denoise returned"),
    (global_generator, "global_state", "torch's generator"),
    (global_generator, "repeatable", "the same result from the same seeds"),
    (same_noise, "noise_independent", "the noise of another picture"),
    (same_noise, "batch_invariant", "a picture alone"),
    (own_seed, "repeatable", "declared stochastic; got the same result"),
    (starting_noise, "noise_independent", "independent of the starting noise"),
    (too_much_noise, "moments_right", "expected a spread of"),
    (undeclared_noise, "repeatable", "declared deterministic; got another result"),
    (draws_in_vain, "quick", r"no noise to be drawn, as declared; got 1 draws; look at stochastic="),
    (own_generator, "quick", r"expected noise\(x\) to be the only source of randomness; got Generator in its code"),
    (float32_sigmas, "sigmas_fall", r"got one at 0.2000000029\d+ for 0.2; look at sigmas in float32"),
    (keeps_state, "repeatable", "anything kept from the run before"),
    (draws_in_vain, "noise_independent", "no noise to be drawn, as declared; got 1 draw"),
    (ignores_last, "end_is_reached", "expected the exact end at sigma 2"),
    (leaves_noise, "end_is_reached", "expected the exact end at sigma 2"),
    (stops_early, "sigmas_fall", "the last step at sigma"),
    (normalises_batch, "batch_invariant", "a picture alone"),
    (float32_alone, "form_kept", "float32"),
    (tensor_sigma, "sigmas_fall", "a Python number"),
    (nan_with_one_step, "finite", "NaN or infinity"),
    (swallows_stopped, "stops", "Stopped, raised by network call 1, to end the run"),
    (goes_on, "closes", "no network call after the run was closed; got 1"),
    (fails_at_end, "options_at_ends", "with churn=0"),
    (fails_with_choice, "options_at_ends", "with kind='b'.*KeyError"),
    (top_in_code, "part_runs", "expected the exact end at sigma 0.1"),
    (hidden_grid, "sigmas_fall", "own_grid=True"),
    (untrue_grid, "own_grid_true", "Step.sigma to be the level that Step.x is at"),
    (grid_beyond, "own_grid_true", "network calls from 10 to 0.1; got one at 15"),
    (tensors_fitted, "calibration_helps", "a dict of JSON data"),
    (worse_fitted, "calibration_helps", "as without coefficients"),
    (never_yields, "quick", "no step at all"),
]


@pytest.mark.parametrize("mutant, name, message", MUTANTS, ids=[f"{m.name}-{n}" for m, n, _ in MUTANTS])
def test_each_mutant_is_caught_by_the_right_check(mutant, name, message):
    (check,) = [check for check in checks(mutant) if check.name == name]
    with pytest.raises(CheckFailed, match=message) as caught:
        check()
    # Every failure says what was expected, what came, and where to look.
    assert re.search(rf"^{mutant.name}, {name}: .*expected .+; got .+; look at .+", str(caught.value))


@pytest.mark.parametrize("check", [*checks(good), *checks(good_sde)], ids=str)
def test_what_the_mutants_were_made_of_passes(check):
    check()


def test_check_sampler_lists_all_failures_and_returns_what_passed():
    assert check_sampler(good) == tuple(str(check) for check in checks(good))
    with pytest.raises(CheckFailed) as caught:
        check_sampler(undeclared_noise)
    assert {line.split(": ")[0] for line in str(caught.value).splitlines()} >= {
        "undeclared noise, repeatable",
        "undeclared noise, noise_independent",
    }


def test_checks_can_be_left_out_by_name_and_only_by_a_known_one():
    assert "order_as_declared" not in check_sampler(wrong_order, without=("order_as_declared",))
    with pytest.raises(ValueError, match="there is no check 'order'; known are quick"):
        checks(good, without=("order",))


def test_an_option_may_make_a_run_give_up_if_the_message_names_it():
    @sampler("gives up")
    def gives_up(denoise, x, sigmas, noise, *, max_calls: Annotated[int, Range(1, 100)] = 50):
        if len(sigmas) > max_calls:
            raise RuntimeError("raise max_calls")
        yield from euler(denoise, x, sigmas)

    check_sampler(gives_up)


def test_the_order_of_a_method_that_one_gaussian_flatters_is_measured_on_two():
    @sampler("midpoint in sigma", order=2, calls=2)
    def midpoint(denoise, x, sigmas, noise):
        for sigma, lower in pairwise(sigmas):
            between = (sigma + lower) / 2
            ahead = x + (between - sigma) * (x - denoise(x, sigma)) / sigma
            denoised = denoise(ahead, between)
            x = x + (lower - sigma) * (ahead - denoised) / between
            yield Step(x, lower, denoised)

    assert measure_order(midpoint) == pytest.approx(3, abs=0.1)
    assert measure_order_bent(midpoint) == pytest.approx(2, abs=0.1)
    check_sampler(midpoint)


def test_the_flow_of_two_gaussians_solves_its_equation():
    denoise, x, sigma, small = BimodalDenoiser(), torch.linspace(-3, 3, 7, dtype=torch.float64), 1.3, 1e-4
    slope = (denoise.flow(x, sigma, sigma + small) - denoise.flow(x, sigma, sigma - small)) / (2 * small)
    assert torch.allclose(slope, (x - denoise(x, sigma)) / sigma, atol=1e-7)


def test_a_distilled_network_answers_with_the_end_of_the_flow():
    denoise, x = DistilledDenoiser(0.3, 0.7), torch.linspace(-3, 3, 7)
    assert torch.allclose(denoise(x, 2.0), denoise.flow(x, 2.0, 0.0))


def test_the_quick_check_says_what_passed():
    assert check_quickly(good).startswith("steps, tensors, sigmas, calls, inputs and global state passed in ")


def test_a_bad_schedule_is_caught_with_the_case():
    @schedule("Stops at four")
    def stops_at_four(model, steps):
        return [model.sigma_max / 2**i for i in range(min(steps, 4))]

    with pytest.raises(CheckFailed, match="Stops at four with 7 steps and its defaults on Stable Diffusion"):
        check_schedule(stops_at_four)

    @schedule("Too low")
    def too_low(model, steps):
        return [model.sigma_max / 10**i for i in range(steps)]

    with pytest.raises(CheckFailed, match="sigmas that Stable Diffusion was trained on"):
        check_schedule(too_low)


def test_a_forgotten_decorator_is_named():
    with pytest.raises(TypeError, match=r"a Sampler is needed, not function euler: put @sampler\(...\) above it"):
        check_sampler(euler)


@schedule("Too high")
def too_high(model, steps):
    return [2 * model.sigma_max / (i + 1) for i in range(steps)]


@schedule("Two at least")
def two_at_least(model, steps):
    return [model.sigma_max * (1 - i / (steps - 1)) + model.sigma_min for i in range(steps)]


@pytest.mark.parametrize(
    "wrong, message",
    [
        (too_high, r"sigmas that a model of 1000 timesteps was trained on, 0.02917 to 14.61; got 29.23 to"),
        (two_at_least, "one sigma for one step on a model of 1000 timesteps; got ZeroDivisionError"),
    ],
)
def test_schedules_are_tried_with_one_step_and_against_the_trained_range(wrong, message):
    with pytest.raises(CheckFailed, match=message):
        check_schedule_quickly(wrong, (stable_diffusion(),))
