"""What is true of every sampler: order, identities, moments, invariance, inputs; and of the loop that drives them."""

import functools
import math
import random
import re
import statistics
from itertools import pairwise

import numpy as np
import pytest
import torch
from oracles import (
    Recorded,
    Replay,
    Silence,
    all_variants,
    builtin,
    end,
    mixture,
    named,
    normal,
    run_all,
    sampler,
    schedule,
    sd,
)

from samplers import Step, Stopped
from samplers import sampler as make_sampler
from samplers.noise import Noise
from samplers.run import SamplerFailed, plan, run
from samplers.testing import GaussianDenoiser, end_of, geometric, measure_order
from samplers.wrappers import Counted, Reported, Stoppable

SHAPE = (3, 2, 3, 3)
ALL = all_variants()
RANDOM = [("DDIM", dict(eta=0.5)), ("DDIM", dict(eta=1.0)), ("Euler", dict(churn=12.0))]
# Its own grid is long at the default tolerance, and nothing here needs that.
CHEAP = [
    (name, options | ({"tolerance": 1e-2} if options.get("method") == "adaptive_heun" else {})) for name, options in ALL
]
EVERY = CHEAP + RANDOM
ORDERED = [(name, options) for name, options in ALL if sampler(name).order_of(**options) is not None]
DETERMINISTIC = [(name, options) for name, options in ALL if not sampler(name).stochastic_with(**options)]


@make_sampler("SDE for tests", stochastic=True)
def brownian_sde(denoise, x, sigmas, noise):
    """DDPM whose noise is taken from one Brownian path, as SDE solvers with inner steps do."""
    increment = noise.brownian(x, sigmas[-2], sigmas[0])
    for sigma, lower in pairwise(sigmas):
        denoised = denoise(x, sigma)
        kept = (lower / sigma) ** 2
        x = (1 - kept) * denoised + kept * x
        if lower > 0:
            x = x + lower * math.sqrt(1 - kept) * increment(sigma, lower)
        yield Step(x, lower, denoised)


EVERY_SAMPLER = [(sampler(name), options) for name, options in EVERY] + [(brownian_sde, {})]
EVERY_NAME = named(EVERY) + ["Brownian"]


def every(function):
    """Run a test for every sampler with each of its options, and for one on a Brownian path."""
    return pytest.mark.parametrize("chosen, options", EVERY_SAMPLER, ids=EVERY_NAME)(function)


def start(sigma: float = 14.6) -> torch.Tensor:
    return sigma * normal(*SHAPE)


def grid(steps: int = 6) -> tuple[float, ...]:
    return schedule("Karras")(sd(), steps)


# --- order of accuracy


@functools.cache
def nonlinear_problem():
    """A mixture, 40 starts at sigma 10, and where Heun's method in very many steps takes them by sigma 0.3."""
    denoise, x = mixture((1, 2, 2), 3), 10 * normal(40, 1, 2, 2, seed=2)
    return denoise, x, end(sampler("Flow"), denoise, x, geometric(10.0, 0.3, 1500), Silence(), method="heun")


def nonlinear_order(chosen, steps=(64, 192), **options) -> float:
    """Order on a mixture, by the median error: near a watershed the errors of a few paths do not shrink in order."""
    denoise, x, exact = nonlinear_problem()
    errors = [end(chosen, denoise, x, geometric(10.0, 0.3, n), Silence(), **options) - exact for n in steps]
    sizes = [statistics.median(error.flatten(1).norm(dim=1).tolist()) for error in errors]
    return math.log(sizes[0] / sizes[1]) / math.log(steps[1] / steps[0])


def assert_order(chosen, **options):
    declared = chosen.order_of(**options)
    for measured in (measure_order(chosen, **options), nonlinear_order(chosen, **options)):
        assert abs(measured - declared) < 0.2, f"{chosen.name} declares order {declared} and shows {measured:.2f}"


@pytest.mark.parametrize("name, options", ORDERED, ids=named(ORDERED))
def test_measured_order_is_the_declared_one(name, options):
    assert_order(sampler(name), **options)


def test_every_deterministic_fixed_step_sampler_declares_an_order():
    fixed = [(name, options) for name, options in DETERMINISTIC if not sampler(name).own_grid_with(**options)]
    assert fixed == ORDERED
    assert len(fixed) >= 3


def heun_with(weight, shift=0.0):
    """Heun's method in sigma; right for weight 1/2 and shift 0."""

    @make_sampler("Heun for tests", order=2)
    def heun(denoise, x, sigmas, noise):
        for sigma, lower in pairwise(sigmas):
            denoised = denoise(x, sigma)
            first = (x - denoised) / sigma
            ahead = x + (lower - sigma) * first
            second = (ahead - denoise(ahead, lower + shift * (sigma - lower))) / lower
            x = x + (lower - sigma) * ((1 - weight) * first + weight * second)
            yield Step(x, lower, denoised)

    return heun


def test_the_test_of_order_accepts_a_right_method_of_second_order():
    assert_order(heun_with(0.5))


@pytest.mark.parametrize(
    "wrong", [heun_with(0.45), heun_with(0.5, shift=0.05), heun_with(0.0)], ids=["weights", "times", "one stage"]
)
def test_the_test_of_order_rejects_a_wrong_method(wrong):
    with pytest.raises(AssertionError, match="declares order 2 and shows [01]"):
        assert_order(wrong)


def test_the_test_of_order_rejects_an_inconsistent_method():
    @make_sampler("Overshooting Euler", order=1)
    def overshooting(denoise, x, sigmas, noise):
        for sigma, lower in pairwise(sigmas):
            denoised = denoise(x, sigma)
            x = x + 1.01 * (lower - sigma) * (x - denoised) / sigma
            yield Step(x, lower, denoised)

    with pytest.raises(AssertionError, match="declares order 1 and shows"):
        assert_order(overshooting)


@pytest.mark.parametrize("name, options", [*RANDOM, ("DDPM", {})], ids=named([*RANDOM, ("DDPM", {})]))
def test_a_stochastic_run_declares_no_order(name, options):
    assert sampler(name).stochastic_with(**options)
    assert sampler(name).order_of(**options) is None


# --- identities


@pytest.mark.parametrize("steps", [1, 2, 30])
@pytest.mark.parametrize("denoise", [mixture(), GaussianDenoiser()], ids=["mixture", "Gaussian"])
def test_ddim_without_fresh_noise_is_euler(denoise, steps):
    mine = run_all(sampler("DDIM"), denoise, start(), grid(steps), Silence(), eta=0.0)
    other = run_all(sampler("Euler"), denoise, start(), grid(steps), Silence())
    assert max((a.x - b.x).abs().max() for a, b in zip(mine, other, strict=True)) < 1e-12


@pytest.mark.parametrize("steps", [1, 2, 30])
@pytest.mark.parametrize("denoise", [mixture(), GaussianDenoiser()], ids=["mixture", "Gaussian"])
def test_ddim_with_only_fresh_noise_is_ddpm(denoise, steps):
    mine = run_all(sampler("DDIM"), denoise, start(), grid(steps), eta=1.0)
    other = run_all(sampler("DDPM"), denoise, start(), grid(steps))
    assert max((a.x - b.x).abs().max() for a, b in zip(mine, other, strict=True)) < 1e-12


@pytest.mark.parametrize("sigmas", [(14.6, 0.0), (14.6, 3.0, 0.0), (14.6, 0.5), grid(20)], ids=len)
@pytest.mark.parametrize("name, options", DETERMINISTIC, ids=named(DETERMINISTIC))
def test_a_constant_denoiser_is_solved_exactly_in_any_number_of_steps(name, options, sigmas):
    target = normal(*SHAPE[1:], seed=9).expand(SHAPE)
    final = end(sampler(name), lambda x, sigma: target[: len(x)], start(), sigmas, Silence(), **options)
    assert (final - (target + sigmas[-1] / 14.6 * (start() - target))).abs().max() < 1e-12


@every
def test_a_constant_denoiser_is_reached_whatever_the_noise(chosen, options):
    target = normal(*SHAPE[1:], seed=9).expand(SHAPE)
    assert (end(chosen, lambda x, sigma: target[: len(x)], start(), grid(), **options) - target).abs().max() < 1e-12


ONE_STEP = [case for case in ALL if not sampler(case[0]).stochastic_with(**case[1])] + [
    ("DDPM", {}),
    ("DDIM", dict(eta=1.0)),
]


@pytest.mark.parametrize("sigma", [0.02, 1.0, 14.6, 4500.0])
@pytest.mark.parametrize("name, options", ONE_STEP, ids=named(ONE_STEP))
def test_one_step_to_zero_gives_the_denoised_image(name, options, sigma):
    denoise = mixture()
    steps = run_all(sampler(name), denoise, start(sigma), (sigma, 0.0), Silence(), **options)
    assert len(steps) == 1 and steps[0].sigma == 0.0
    assert (steps[0].x - denoise(start(sigma), sigma)).abs().max() < 1e-15 * max(100.0, 4 * sigma)
    assert torch.equal(steps[0].denoised, denoise(start(sigma), sigma))


MEMORYLESS = [("DDPM", {}), ("DDIM", {}), ("DDIM", dict(eta=0.7)), ("Euler", {}), ("Flow", dict(method="heun"))]


@pytest.mark.parametrize("name, options", MEMORYLESS, ids=named(MEMORYLESS))
def test_two_partial_runs_make_one_whole_run(name, options):
    denoise, sigmas = mixture(), grid(9)
    whole = end(sampler(name), denoise, start(), sigmas, Noise((1, 2, 3)), **options)
    noise = Noise((1, 2, 3))
    middle = end(sampler(name), denoise, start(), sigmas[:5], noise, **options)
    assert (end(sampler(name), denoise, middle, sigmas[4:], noise, **options) - whole).abs().max() < 1e-12


@pytest.mark.parametrize("name, options", DETERMINISTIC, ids=named(DETERMINISTIC))
def test_a_deterministic_run_draws_no_noise(name, options):
    run_all(sampler(name), mixture(), start(), grid(), Silence(), **options)


@every
def test_a_stochastic_run_depends_on_the_seed_and_a_deterministic_one_does_not(chosen, options):
    one, other = (end(chosen, mixture(), start(), grid(), Noise(seeds), **options) for seeds in ((1, 2, 3), (4, 5, 6)))
    assert torch.equal(one, other) != chosen.stochastic_with(**options)


def test_churn_lifts_the_noise_level_and_stays_in_its_band():
    denoise = Recorded(mixture())
    run_all(sampler("Euler"), denoise, start(), (10.0, 5.0, 2.0, 1.0, 0.0), churn=0.4, churn_from=5.0, churn_to=2.0)
    assert denoise.sigmas == pytest.approx([10.0, 5.5, 2.2, 1.0])


# --- moments


@pytest.mark.parametrize(
    "name, options", [("DDPM", {}), ("DDIM", dict(eta=1.0)), ("DDIM", dict(eta=0.5)), ("DDIM", {})]
)
@pytest.mark.parametrize("std", [0.3, 1.2])
def test_samples_of_a_gaussian_have_its_mean_and_width(name, options, std):
    denoise, sigmas = GaussianDenoiser(0.4, std), schedule("Exponential")(sd(), 70)
    x = torch.zeros(1, 1, 220, 220, dtype=torch.float64)
    x = x + sigmas[0] * Noise((7,), "initial")(x)
    final = end(sampler(name), denoise, x, sigmas, Noise((7,)), **options)

    # Independently of the sampler's own formulas: x -> a x + noise in each step, whose variance can be followed.
    eta, variance = (1.0 if name == "DDPM" else options.get("eta", 0.0)), sigmas[0] ** 2
    for sigma, lower in pairwise(sigmas):
        shrink = std**2 / (std**2 + sigma**2)
        fresh = (eta * lower) ** 2 * (1 - (lower / sigma) ** 2)
        kept = math.sqrt(lower**2 - fresh) / sigma
        variance = (shrink + kept * (1 - shrink)) ** 2 * variance + fresh
    assert final.std().item() / math.sqrt(variance) == pytest.approx(1.0, abs=0.014)
    assert final.std().item() / std == pytest.approx(1.0, abs=0.05)
    assert final.mean().item() == pytest.approx(0.4, abs=0.02 * std + 0.015)


def test_ancestral_noise_is_not_the_initial_noise():
    x = torch.zeros(1, 1, 200, 200, dtype=torch.float64)
    taken = []

    class Tapped(Noise):
        def __call__(self, x):
            taken.append(super().__call__(x))
            return taken[-1]

    initial = Noise((3,), "initial")(x)
    run_all(sampler("DDPM"), GaussianDenoiser(), 14.6 * initial, grid(5), Tapped((3,)))
    streams = torch.stack([draw.flatten() for draw in (initial, *taken)])
    assert len(streams) == 5
    # Five standard deviations of the correlation of 40,000 independent pairs.
    assert (torch.corrcoef(streams) - torch.eye(5, dtype=torch.float64)).abs().max() < 0.025


# --- invariance, calls and inputs


@every
def test_an_image_of_a_batch_equals_the_image_alone(chosen, options):
    denoise, seeds = mixture(), (11, 5, 11)
    together = end(chosen, denoise, start(), grid(), Noise(seeds), **options)
    for i, seed in enumerate(seeds):
        alone = end(chosen, denoise, start()[i : i + 1], grid(), Noise((seed,)), **options)
        assert (together[i : i + 1] - alone).abs().max() < 1e-12


@every
def test_a_whole_run_of_a_batch_equals_the_runs_alone(chosen, options):
    ready, seeds = plan(sd(), chosen, schedule("Karras"), 6, options, strength=0.7), (3, 4, 5)
    together = run(ready, mixture(), normal(*SHAPE), seeds).x
    alone = [run(ready, mixture(), normal(*SHAPE)[i : i + 1], (seed,)).x for i, seed in enumerate(seeds)]
    assert (together - torch.cat(alone)).abs().max() < 1e-12


@every
def test_a_run_repeats_to_the_bit(chosen, options):
    one, other = (end(chosen, mixture(), start(), grid(), Noise((1, 2, 3)), **options) for _ in range(2))
    assert torch.equal(one, other)


@every
def test_global_random_generators_are_left_alone(chosen, options):
    before = torch.get_rng_state(), random.getstate(), repr(np.random.get_state())
    first = end(chosen, mixture(), start(), grid(), Noise((1, 2, 3)), **options)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), repr(np.random.get_state())) == before[1:]
    with torch.random.fork_rng():
        torch.manual_seed(99)
        assert torch.equal(end(chosen, mixture(), start(), grid(), Noise((1, 2, 3)), **options), first)


@every
def test_what_a_sampler_is_given_is_not_changed(chosen, options):
    x, sigmas, seen = start(), list(grid()), []

    def denoise(state, sigma):
        seen.append((state, state.clone()))
        return mixture()(state, sigma)

    steps = [(step, step.x.clone()) for step in chosen(denoise, x, sigmas, Noise((1, 2, 3)), **options)]
    assert torch.equal(x, start()) and sigmas == list(grid())
    # Nor are states changed after they were handed out: a preview may still look at them.
    assert all(torch.equal(state, copy) for state, copy in seen)
    assert all(torch.equal(step.x, copy) for step, copy in steps)


@every
def test_steps_go_down_and_end_where_the_schedule_ends(chosen, options):
    for sigmas in (grid(), grid()[:-1], (5.0, 0.0), (5.0, 4.99)):
        if chosen is brownian_sde and sigmas[-1] > 0:
            continue
        for x in (start(), start()[:1]):
            steps = run_all(chosen, mixture(), x, sigmas, **options)
            levels = [sigmas[0], *(step.sigma for step in steps)]
            assert all(a > b for a, b in pairwise(levels)) and levels[-1] == sigmas[-1]
            assert all(
                isinstance(step.sigma, float) and step.x.shape == x.shape == step.denoised.shape for step in steps
            )
            if not chosen.own_grid_with(**options):
                assert levels == list(sigmas)


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_dtype_of_the_state_is_kept_and_the_clock_is_python_s(chosen, options, dtype):
    denoise = Recorded(mixture())
    steps = run_all(chosen, denoise, start().to(dtype), grid(), **options)
    assert {step.x.dtype for step in steps} == {dtype}
    assert all(type(sigma) is float for sigma in denoise.sigmas)


@every
def test_float32_is_good_enough(chosen, options):
    # An adaptive solver chooses its steps by a small difference, which rounding moves.
    bound = 5e-3 if chosen.own_grid_with(**options) else 1e-4
    fine, coarse = (
        end(chosen, mixture(), start().to(d), grid(20), Noise((1, 2, 3)), **options)
        for d in (torch.float64, torch.float32)
    )
    assert (fine - coarse).abs().max() < bound


@every
def test_declared_calls_are_the_calls_made(chosen, options):
    for sigmas in (grid(), grid(1), grid()[:-1]):
        if chosen is brownian_sde and sigmas[-1] > 0:
            continue
        denoise = Counted(mixture(), len(start()))
        run_all(chosen, denoise, start(), sigmas, **options)
        declared = chosen.count_calls(sigmas, **options)
        assert denoise.calls == declared if declared is not None else denoise.calls > 0


@every
def test_the_denoiser_is_asked_only_between_the_ends_of_the_schedule(chosen, options):
    # Churn goes above the schedule by up to the root of two; that is what it is.
    top = math.sqrt(2) if options.get("churn") else 1.0
    for sigmas in (grid(), (0.0335, 0.0292, 0.0), (0.002, 0.001, 0.0), (999.0, 0.001, 0.0)):
        denoise = Recorded(mixture())
        run_all(chosen, denoise, start(sigmas[0]), sigmas, **options)
        assert min(denoise.sigmas) >= sigmas[-2] * (1 - 1e-9) and max(denoise.sigmas) <= top * sigmas[0] * (1 + 1e-9)


@every
def test_no_gradient_is_recorded_and_the_caller_s_mode_is_its_own(chosen, options):
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    inside = []

    def denoise(x, sigma):
        inside.append(torch.is_grad_enabled())
        return weight * mixture()(x, sigma)

    assert torch.is_grad_enabled()
    for step in chosen(denoise, start(), grid(), Noise((1, 2, 3)), **options):
        assert torch.is_grad_enabled()
        assert not step.x.requires_grad and not step.denoised.requires_grad
    assert torch.is_grad_enabled() and not any(inside)
    with torch.no_grad():
        run_all(chosen, denoise, start(), grid(), **options)
        assert not torch.is_grad_enabled()


@every
def test_closing_a_run_early_is_clean(chosen, options):
    denoise = Recorded(mixture())
    steps = chosen(denoise, start(), grid(), Noise((1, 2, 3)), **options)
    next(steps)
    asked = len(denoise.sigmas)
    steps.close()
    assert torch.is_grad_enabled() and len(denoise.sigmas) == asked
    assert next(steps, None) is None


@every
@pytest.mark.parametrize("calls", [1, 3])
def test_stopped_passes_through_and_no_call_follows(chosen, options, calls):
    made = []
    ready = plan(sd(), chosen, schedule("Karras"), 6, options)
    watched = Stoppable(Reported(mixture(), lambda *call: made.append(call)), lambda: len(made) >= calls)
    with pytest.raises(Stopped):
        run(ready, watched, torch.zeros(1, *SHAPE[1:], dtype=torch.float64), (1,))
    assert len(made) == calls and torch.is_grad_enabled()


@every
@pytest.mark.parametrize("value", [-1.0, 1e9, math.nan])
def test_options_out_of_range_are_refused_before_the_run(chosen, options, value):
    for option in chosen.options:
        with pytest.raises(ValueError, match=f"{re.escape(chosen.name)}: option '{option.name}'.*allowed is"):
            chosen(Silence(), start(), grid(), Silence(), **{option.name: value})


# --- adaptive Flow


def test_adaptive_flow_takes_only_the_ends_of_the_schedule():
    ends = [end(sampler("Flow"), mixture(), start(), sigmas) for sigmas in (grid(3), grid(30))]
    assert (ends[0] - ends[1]).abs().max() < 1e-12


@pytest.mark.parametrize(
    "method, tolerances, least", [("dopri5", (1e-2, 1e-4, 1e-6), 1e-4), ("adaptive_heun", (1e-2, 1e-3, 1e-4), 1e-2)]
)
def test_a_tighter_tolerance_costs_more_calls_and_errs_less(method, tolerances, least):
    denoise, x = GaussianDenoiser(0.3, 0.4), start()[:1]
    exact, calls, errors = denoise.flow(x, 14.6, 0.05), [], []
    for tolerance in tolerances:
        counted = Recorded(denoise)
        final = end(sampler("Flow"), counted, x, (14.6, 0.05), method=method, tolerance=tolerance)
        calls.append(len(counted.sigmas))
        errors.append((final - exact).abs().max().item())
    assert calls == sorted(calls) and calls[0] < calls[-1]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    assert errors[-1] < least


def test_adaptive_flow_reports_the_steps_that_it_took():
    ready = plan(sd(), sampler("Flow"), schedule("Karras"), 10)
    assert ready.own_grid and ready.calls is None
    seen = []
    result = run(ready, mixture(), torch.zeros(1, *SHAPE[1:], dtype=torch.float64), (4,), seen.append)
    assert result.sigmas == (ready.sigmas[0], *(step.sigma for step in seen))
    assert len(seen) > 3
    assert result.sigmas[-2:] == (ready.sigmas[-2], 0.0)
    # The states are on the flow's path: solved on from any of them, the end is the same.
    for step in seen[:-2]:
        final = end(sampler("Flow"), mixture(), step.x, (step.sigma, ready.sigmas[-2], 0.0), tolerance=1e-8)
        assert (final - result.x).abs().max() < 0.05


@pytest.mark.parametrize("max_calls", [10, 25])
def test_adaptive_flow_gives_up_at_its_cap_and_says_what_to_do(max_calls):
    counted = Recorded(mixture())
    with pytest.raises(
        SamplerFailed, match=f"Flow.*{max_calls} network calls did not reach the end; raise max_calls or the tolerance"
    ):
        run(
            plan(sd(), sampler("Flow"), schedule("Karras"), 10, dict(tolerance=1e-9, max_calls=max_calls)),
            counted,
            start(),
            (1, 2, 3),
        )
    assert len(counted.sigmas) == max_calls


def test_adaptive_flow_on_a_denoiser_of_nan_says_so_in_a_short_sentence():
    with pytest.raises(SamplerFailed, match="finite") as failure:
        run(
            plan(sd(), sampler("Flow"), schedule("Karras"), 10),
            lambda x, sigma: x * math.nan,
            torch.zeros(1, 4, 32, 32),
            (1,),
        )
    assert len(str(failure.value)) < 300


# --- the loop


def test_a_run_starts_from_the_image_plus_sigma_times_its_own_noise():
    ready = plan(sd(), sampler("Euler"), schedule("Karras"), 10, strength=0.3)
    clean, states = normal(*SHAPE), []

    def denoise(x, sigma):
        states.append(x)
        return clean

    result = run(ready, denoise, clean, (1, 2, 3))
    assert (states[0] - (clean + ready.sigmas[0] * Noise((1, 2, 3), "initial")(clean))).abs().max() < 1e-12
    assert (result.x - clean).abs().max() < 1e-12
    assert len(states) == ready.calls == 3 and result.sigmas == ready.sigmas


def test_a_plan_resolves_options_and_refuses_wrong_ones():
    ready = plan(sd(), sampler("DDIM"), schedule("Karras"), 10, dict(eta=1), dict(rho=3))
    assert ready.options == {"eta": 1.0} and len(ready.sigmas) == 11 and not ready.own_grid
    with pytest.raises(ValueError, match="sampler DDIM has no option 'churn'; it takes eta"):
        plan(sd(), sampler("DDIM"), schedule("Karras"), 10, dict(churn=1))
    with pytest.raises(ValueError, match="schedule Karras: option 'rho' is 0.5; allowed is a number from 1 to 20"):
        plan(sd(), sampler("DDIM"), schedule("Karras"), 10, {}, dict(rho=0.5))


def walk(*results):
    """A sampler that yields the given things, calling those that are functions."""

    @make_sampler("Walk")
    def walking(denoise, x, sigmas, noise):
        for result in results:
            yield result(x) if callable(result) else result

    return walking


BROKEN = {
    "nothing": ((), "Walk ended without a step; it has to yield Step"),
    "no step": ((lambda x: x,), "Walk must yield Step with x of shape .3, 2, 3, 3., not Tensor"),
    "none": ((None,), "Walk must yield Step .* not NoneType"),
    "no tensor": ((lambda x: Step(None, 0.0, x),), "Walk must yield Step"),
    "another shape": ((lambda x: Step(x[:1], 0.0, x),), r"not x of shape \(1, 2, 3, 3\)"),
    "stops too early": ((lambda x: Step(x, 2.5, x),), "Walk stopped at sigma 2.5; it has to go down to 0"),
    "not finite": ((lambda x: Step(x * math.inf, 0.0, x),), "Walk ended with numbers that are not finite"),
    "error": ((lambda x: 1 / 0,), r"Walk failed \(line \d+ of test_samplers.py\): ZeroDivisionError: division by zero"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_sampler_that_breaks_the_contract_is_named_with_what_it_did(case):
    results, message = BROKEN[case]
    with pytest.raises(SamplerFailed, match=message):
        run(
            plan(sd(), walk(*results), schedule("Karras"), 4),
            mixture(),
            torch.zeros(SHAPE, dtype=torch.float64),
            (1, 2, 3),
        )


def test_running_out_of_memory_is_not_called_the_sampler_s_failure():
    def denoise(x, sigma):
        raise torch.OutOfMemoryError("too large")

    with pytest.raises(torch.OutOfMemoryError):
        run(plan(sd(), sampler("Euler"), schedule("Karras"), 4), denoise, torch.zeros(SHAPE), (1, 2, 3))


def test_the_four_samplers_are_there():
    assert {builtin().sampler(name).id for name in ("DDPM", "DDIM", "Euler", "Flow")} == {
        f"built-in/{name.lower()}/{name}" for name in ("DDPM", "DDIM", "Euler", "Flow")
    }
    assert "Karras" in builtin().schedules


def test_end_of_is_the_last_state():
    assert torch.equal(
        end_of(sampler("Euler"), mixture(), start(), grid()), end(sampler("Euler"), mixture(), start(), grid())
    )


def test_replayed_noise_reaches_the_state_with_the_posterior_s_width():
    zero, one = torch.zeros(SHAPE, dtype=torch.float64), torch.ones(SHAPE, dtype=torch.float64)
    still, moved = (
        end(sampler("DDPM"), lambda x, s: zero, start(), (4.0, 3.0), Replay([draw])) for draw in (zero, one)
    )
    assert (moved - still - 3 * math.sqrt(1 - 9 / 16)).abs().max() < 1e-12
