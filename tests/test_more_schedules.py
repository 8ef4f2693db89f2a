"""Schedules of plugins: closed forms, equality with other programs, and hostile formulas."""

from __future__ import annotations

import itertools
import math
import time

import diffusers
import numpy as np
import pytest
import torch
from oracles import builtin, k_diffusion_sampling, schedule, sd
from scipy import stats

from samplers.options import TextOption
from samplers.schedule import NoiseSchedule, alpha_bar, flow, flow_time_of_sigma, from_alphas, zero_terminal_snr
from samplers.testing.sampler_under_test import ends

# numpy 2 says this about torch's tensors, inside diffusers.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

ZERO_SNR = from_alphas(zero_terminal_snr([alpha_bar(sigma) for sigma in sd().sigmas]))
MODELS = dict(eps=sd(), flow=flow(), zero_snr=ZERO_SNR)
STEPS = (1, 2, 3, 7, 20, 50, 1000)
LATER = ["Polyexponential", "Beta", "Align Your Steps", "KL-optimal", "Laplace", "Linear-quadratic", "SNR shift"]
LATER += ["Custom", "Formula", "Cosine", "Bong tangent", "LCM", "GITS"]


def extremes(name: str) -> list[dict]:
    """Defaults, and each option at each end."""
    pairs = [(option.name, ends(option)) for option in schedule(name).options if not isinstance(option, TextOption)]
    return [{}, *({name: value} for name, values in pairs for value in values)]


@pytest.mark.parametrize("name", LATER)
@pytest.mark.parametrize("model", MODELS)
def test_steps_falling_positive_finite_sigmas_within_the_range(name, model):
    known = MODELS[model]
    for steps, options in itertools.product(STEPS, extremes(name)):
        sigmas = schedule(name)(known, steps, **options)
        assert len(sigmas) == steps + 1 and sigmas[-1] == 0
        assert all(0 < lower < sigma < math.inf for sigma, lower in itertools.pairwise(sigmas[:-1])), (steps, options)
        assert sigmas[0] == known.sigma_max and sigmas[-2] >= known.sigma_min * (1 - 1e-9), (steps, options)


@pytest.mark.parametrize(
    "coefficient, published",
    [
        ("1.1", "14.61464119 5.85520077 1.61558151 0.57119018"),
        ("1.2", "14.61464119 5.85520077 2.45070267 1.36964464 0.803307 0.45573691 0.25053367 0.09824532"),
        ("1.3", "14.61464119 2.84484982 1.36964464 0.74807048 0.41087446 0.22545385 0.09824532"),
    ],
)
def test_gits_has_the_published_levels(coefficient, published):
    levels = [float(level) for level in published.split()]
    close(schedule("GITS")(sd(), len(levels), coefficient=coefficient)[:-1], levels, tolerance=1e-4)


def test_the_longest_gits_list_is_where_longer_ones_lie():
    longest, more = (schedule("GITS")(sd(), steps) for steps in (20, 40))
    close(more[:-1:2], longest[:-1], tolerance=1e-9)


def test_the_later_schedules_are_there():
    assert set(LATER) <= set(builtin().schedules)


def close(ours, theirs, tolerance=1e-12):
    assert len(ours) == len(theirs)
    assert np.allclose(ours, np.asarray(theirs, dtype=float), rtol=tolerance, atol=1e-12)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("steps", [2, 7, 20])
def test_they_equal_k_diffusion(model, steps):
    ours, ends = MODELS[model], (MODELS[model].sigma_min, MODELS[model].sigma_max)
    theirs = k_diffusion_sampling()
    close(schedule("Karras")(ours, steps), theirs.get_sigmas_karras(steps, *ends), 2e-5)
    close(schedule("Exponential")(ours, steps), theirs.get_sigmas_exponential(steps, *ends), 2e-6)
    bent = theirs.get_sigmas_polyexponential(steps, *ends, rho=1.7)
    close(schedule("Polyexponential")(ours, steps, rho=1.7), bent, 2e-6)


def test_they_equal_diffusers_where_it_is_right():
    from diffusers import EulerDiscreteScheduler

    table = dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    for name, flag in (("Karras", "use_karras_sigmas"), ("Exponential", "use_exponential_sigmas")):
        theirs = EulerDiscreteScheduler(**table, **{flag: True})
        theirs.set_timesteps(15)
        close(schedule(name)(sd(), 15), theirs.sigmas, 2e-5)
    # Its beta schedule places the quantiles on sigma, not on timesteps: another schedule, and known to be worse.
    theirs = EulerDiscreteScheduler(**table, use_beta_sigmas=True)
    theirs.set_timesteps(15)
    assert float(theirs.sigmas[7]) > 3 * schedule("Beta")(sd(), 15)[7]


def test_polyexponential_with_rho_1_is_exponential():
    close(schedule("Polyexponential")(sd(), 13), schedule("Exponential")(sd(), 13), 1e-9)


def test_beta_is_the_quantiles_on_timesteps():
    quantiles = stats.beta.ppf(1 - np.arange(10) / 10, 0.6, 0.6)
    close(schedule("Beta")(sd(), 10), [*(sd().sigmas[int(np.rint(q * 999))] for q in quantiles), 0], 1e-12)
    close(schedule("Beta")(sd(), 10, whole=False), [*(sd().sigma(q * 999) for q in quantiles), 0], 1e-9)
    uniform = schedule("Beta")(flow(), 10, alpha=1.0, beta=1.0)
    close([flow_time_of_sigma(s) for s in uniform[:-1]], [0.001 + 0.998 * (1 - i / 10) for i in range(10)], 1e-9)


def test_beta_asks_no_whole_timestep_twice():
    for steps in (50, 300, 999, 1000):
        timesteps = [sd().timestep(sigma) for sigma in schedule("Beta")(sd(), steps)[:-1]]
        assert all(timestep.is_integer() for timestep in timesteps) and len(set(timesteps)) == steps


def test_align_your_steps_is_the_published_table():
    from diffusers.schedulers import AysSchedules

    for table, key in (("SD 1.5", "StableDiffusionSigmas"), ("SDXL", "StableDiffusionXLSigmas")):
        published = AysSchedules[key]
        ours = schedule("Align Your Steps")(sd(), 10, table=table)
        assert list(ours[1:]) == pytest.approx(published[1:], rel=1e-12)
        assert abs(ours[0] - published[0]) < 5e-4
    video = NoiseSchedule(tuple(torch.logspace(math.log10(0.002), math.log10(700), 1000).tolist()))
    ours = schedule("Align Your Steps")(video, 10, table="SVD")
    assert list(ours[1:]) == pytest.approx(AysSchedules["StableDiffusionVideoSigmas"][1:])


def test_align_your_steps_interpolates_log_sigma_and_stretches_to_another_range():
    ten, twenty = (schedule("Align Your Steps")(sd(), steps) for steps in (10, 20))
    close(twenty[:-1:2], ten[:-1], 1e-9)
    # Sampled at sigma 0.029 for 0, the last step in between is between that and its neighbour.
    middles = [math.sqrt(a * b) for a, b in itertools.pairwise([14.615, *ten[1:-1], 0.029])]
    close(twenty[1:-1:2], middles, 1e-4)
    wide = schedule("Align Your Steps")(flow(), 10)
    share = lambda a, top, low: math.log(a / low) / math.log(top / low)  # noqa: E731
    for i in (1, 5):
        assert share(wide[i], wide[0], wide[-2]) == pytest.approx(share(ten[i], 14.615, ten[-2]), rel=1e-9)


@pytest.mark.parametrize("model", MODELS)
def test_kl_optimal_falls_linearly_in_arctan(model):
    angles = [math.atan(sigma) for sigma in schedule("KL-optimal")(MODELS[model], 9)[:-1]]
    ends = math.atan(MODELS[model].sigma_max), math.atan(MODELS[model].sigma_min)
    close(angles, np.linspace(*ends, 9), 1e-9)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("options", [{}, dict(mu=1.5, b=0.3), dict(mu=-3.0, b=2.0)])
def test_laplace_is_the_quantiles_of_the_truncated_distribution(model, options):
    known = MODELS[model]
    law = stats.laplace(options.get("mu", 0.0), options.get("b", 0.5))
    low, high = law.cdf([math.log(known.sigma_min), math.log(known.sigma_max)])
    places = law.cdf(np.log(schedule("Laplace")(known, 11, **options)[:-1]))
    assert np.allclose(places, np.linspace(high, low, 11), atol=1e-9)


def test_linear_quadratic_has_a_linear_half_and_a_parabola_of_the_same_slope():
    times = [flow_time_of_sigma(sigma) for sigma in schedule("Linear-quadratic")(flow(), 20, threshold=0.1)]
    way = [(0.999 - t) / 0.998 for t in times[:-1]]
    close(way[:11], [0.01 * i for i in range(11)], 1e-9)
    bends = np.diff([*way[10:], 1.0], 2)
    close(bends, np.full_like(bends, bends[0]), 1e-7)
    # Half a bend separates the chord of the parabola's first step from its slope where it starts.
    assert way[11] - way[10] - bends[0] / 2 == pytest.approx(0.01)


@pytest.mark.parametrize("shift", [1.0, 3.0, 12.0])
def test_snr_shift_multiplies_sigma_which_is_the_known_shift_of_flow_time(shift):
    base = [flow().sigma(1 + (flow().timestep(999 / shift) - 1) * (1 - i / 8)) for i in range(8)]
    ours = schedule("SNR shift")(flow(), 8, shift=shift)[:-1]
    close(ours, [shift * sigma for sigma in base], 1e-9)
    times = [flow_time_of_sigma(sigma) for sigma in base]
    close([flow_time_of_sigma(sigma) for sigma in ours], [shift * t / (1 + (shift - 1) * t) for t in times], 1e-9)


@pytest.mark.parametrize("text", ["14.6, 3.9, 1.4, 0.4", "[14.6 3.9;\n1.4\t0.4, 0]", "(14.6,3.9,1.4,4e-1)"])
def test_custom_runs_the_typed_numbers(text):
    assert schedule("Custom")(sd(), 4, numbers=text) == (14.6, 3.9, 1.4, 0.4, 0.0)


def test_custom_resamples_log_linearly_to_another_count():
    finer = schedule("Custom")(sd(), 5, numbers="16, 4, 1")
    close(finer, [16, 8, 4, 2, 1, 0], 1e-12)
    close(schedule("Custom")(sd(), 2, numbers="16, 4, 1"), [16, 1, 0])
    close(schedule("Custom")(sd(), 1, numbers="16, 4, 1"), [16, 0])
    close(schedule("Custom")(flow(), 9), schedule("Exponential")(flow(), 9), 1e-9)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "there is no number"),
        ("a lot", "'a' is not a number"),
        ("1, nan", "'nan' is not a number"),
        ("1e400, 1", "is not a number"),
        ("1, 2", "number 2 is 2, not below 1"),
        ("2, 2", "number 2 is 2, not below 2"),
        ("2, -1", "number 2 is -1; sigmas have to be above 0"),
        ("2, 0, 0", "number 2 is 0"),
        ("5", "one number makes one step"),
        ("1 " * 15_001, "has 30002 characters; allowed is a text of at most 30000 characters"),
    ],
)
def test_custom_says_what_is_wrong(text, said):
    with pytest.raises(ValueError, match=said):
        schedule("Custom")(sd(), 4, numbers=text)


def test_formula_computes_what_it_says():
    close(schedule("Formula")(sd(), 12), schedule("Exponential")(sd(), 12), 1e-9)
    rho = "(sigma_max**(1/7) + t*(sigma_min**(1/7) - sigma_max**(1/7)))**7"
    close(schedule("Formula")(sd(), 12, sigma=rho), schedule("Karras")(sd(), 12), 1e-9)
    arc = "tan(atan(sigma_max) * (1 - t) + atan(sigma_min) * t)"
    close(schedule("Formula")(flow(), 12, sigma=arc), schedule("KL-optimal")(flow(), 12), 1e-9)
    everything = "max(abs(-sigma_max), 1)*exp(-2*i/n) + 0*(sqrt(e) + log(pi) + sin(t) + cos(t) + tanh(t) + min(1, +t))"
    falling = [sd().sigma_max * math.exp(-2 * i / 3) for i in range(3)]
    close(schedule("Formula")(sd(), 3, sigma=everything), [*falling, 0])


@pytest.mark.parametrize(
    "attack",
    [
        "().__class__.__base__.__subclasses__()",
        "t.real",
        "(1).__add__(2)",
        "__import__('os').system('true')",
        "open('/etc/passwd')",
        "eval('1')",
        "exec",
        "os",
        "nan",
        "sqrt",
        "sqrt.__self__",
        "sqrt(4)(3)",
        "(lambda: 1)()",
        "[x for x in (1, 2)]",
        "{t: 1}",
        "t[0]",
        "max(*range(9))",
        "max(1, key=abs)",
        "'14.6' * 9",
        "f'{t}'",
        "b'1'",
        "1j",
        "True",
        "None",
        "...",
        "t if t else 1",
        "t and 1",
        "t < 1",
        "not t",
        "~1",
        "1 << 99",
        "9 // 2",
        "9 % 2",
        "(t := 3)",
        "t = 3",
        "import os",
        "await t",
        "yield",
        "t\0",
        "",
        "   ",
        "1;2",
        "#",
        "(" * 150 + "1" + ")" * 149,
        "(" * 250 + "1",
    ],
)
def test_formula_refuses_what_is_not_listed_and_says_what_is(attack):
    with pytest.raises(ValueError, match=r"the formula .*allowed are numbers, t, i, n, sigma_min, sigma_max"):
        schedule("Formula")(sd(), 5, sigma=attack)


@pytest.mark.parametrize(
    ("attack", "said"),
    [
        ("9**9**9**9", "no value at t = 0: math range error"),
        ("2.0**1e6", "no value"),
        ("exp(1e9)", "no value"),
        ("9" * 299, "not below|no value|nested|number"),
        ("1e999", "gives inf at step 1"),
        ("sqrt(0 - 1)", "no value"),
        ("(0-1)**0.5", "no value"),
        ("1/t", "no value at t = 0: float division by zero"),
        ("log(t)", "no value"),
        ("abs(1, 2)", "no value"),
        ("max(t)", "no value"),
        ("1 - t*2", "gives 0 at step 3 of 5; sigmas have to be above 0"),
        ("1 + t", "gives 1.25 at step 2 of 5, not below 1"),
        ("7", "not below 7"),
        ("1+" * 5000 + "1", "has 10001 characters; allowed is a text of at most 1000 characters"),
        ("x" * 10_240, "has 10240 characters; allowed is a text of at most 1000"),
    ],
)
def test_formula_says_where_it_has_no_usable_value(attack, said):
    with pytest.raises(ValueError, match=said):
        schedule("Formula")(sd(), 5, sigma=attack)


def test_formula_has_a_bounded_cost():
    nested = ["exp(" * 59 + "t" + ")" * 59, "abs(" * 55 + "i" + ")" * 55]
    for worst in ("sigma_max-i/n" + "+0" * 140, "-" * 299 + "1", *nested):
        began = time.process_time()
        try:
            schedule("Formula")(sd(), 1000, sigma=worst)
        except ValueError as error:
            assert "formula" in str(error)
        assert time.process_time() - began < 2


@pytest.mark.parametrize("steps", [1, 2, 4, 7, 8, 50])
def test_lcm_has_the_timesteps_of_its_scheduler(steps):
    theirs = diffusers.LCMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    theirs.set_timesteps(steps)
    ours = [round(sd().timestep(sigma)) for sigma in schedule("LCM")(sd(), steps)[:-1]]
    assert ours == theirs.timesteps.tolist()
    assert steps != 4 or ours == [999, 759, 499, 259]
