"""Noise levels against diffusers, k-diffusion and their definitions; the grids of every schedule; what img2img runs."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import builtin, k_diffusion_sampling, scaled_linear_alphas, schedule, sd

from samplers import Range
from samplers import schedule as make_schedule
from samplers.schedule import (
    MAX_SIGMA,
    alpha_bar,
    betas,
    cut,
    flow,
    flow_time_of_sigma,
    from_alphas,
    from_betas,
    log_snr,
    noise_share,
    sigma_of_flow_time,
    zero_terminal_snr,
)


def zero_snr():
    return from_alphas(zero_terminal_snr([alpha_bar(sigma) for sigma in sd().sigmas]))


MODELS = {
    "Stable Diffusion": sd(),
    "DDPM": from_betas(betas("linear", 1e-4, 0.02)),
    "cosine": from_betas(betas("squaredcos_cap_v2", 0, 0)),
    "zero terminal SNR": zero_snr(),
    "flow": flow(),
}
every_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


# --- what the network was trained on


def test_scaled_linear_alphas_are_a_recomputation_s_and_diffusers():
    from diffusers import DDIMScheduler

    mine = np.array([alpha_bar(sigma) for sigma in sd().sigmas])
    assert np.abs(mine / scaled_linear_alphas() - 1).max() < 1e-12
    theirs = (
        DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear").alphas_cumprod.double().numpy()
    )
    assert np.abs(mine / theirs - 1).max() < 2e-5  # theirs is a product of a thousand float32 numbers
    assert sd().sigma_min == pytest.approx(0.029167, abs=1e-6) and sd().sigma_max == pytest.approx(14.6146, abs=1e-4)


@pytest.mark.parametrize(
    "kind, start, end", [("linear", 1e-4, 0.02), ("scaled_linear", 0.00085, 0.012), ("squaredcos_cap_v2", 0, 0)]
)
def test_betas_equal_diffusers(kind, start, end):
    from diffusers import DDIMScheduler

    theirs = DDIMScheduler(beta_start=start, beta_end=end, beta_schedule=kind).betas.double().numpy()
    assert np.allclose(betas(kind, start, end), theirs, rtol=2e-6, atol=0)


def test_an_unknown_beta_schedule_names_the_known_ones():
    with pytest.raises(
        ValueError, match="'sine' is unknown; known are linear, scaled_linear, squaredcos_cap_v2, sigmoid"
    ):
        betas("sine", 0.1, 0.2)


def test_zero_terminal_snr_equals_diffusers():
    from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr

    plain = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    # diffusers gives back betas; the last is 1.
    theirs = torch.cumprod(1 - rescale_zero_terminal_snr(torch.from_numpy(plain)), 0).numpy()
    mine = np.array(zero_terminal_snr(scaled_linear_alphas()))
    assert np.abs(mine - theirs).max() < 1e-13
    assert mine[-1] == 0 and mine[0] == pytest.approx(scaled_linear_alphas()[0], abs=1e-15)


def test_zero_terminal_snr_ends_at_the_stated_finite_cap():
    assert zero_snr().sigma_max == MAX_SIGMA == 4500
    assert zero_snr().sigmas[-2] == pytest.approx(2254.24, abs=0.01)
    again = from_betas([*betas("scaled_linear", 0.00085, 0.012, 10), 1.0])
    assert again.sigma_max == MAX_SIGMA and again.sigma(9) < 4500


@every_model
def test_noise_levels_rise_and_are_finite(model):
    assert all(0 < a < b < math.inf for a, b in pairwise(model.sigmas))
    assert 0 < model.sigma_min < model.sigma_max <= MAX_SIGMA


@every_model
def test_timestep_is_the_inverse_of_sigma(model):
    for timestep in np.linspace(model.bottom, model.top, 2023):
        assert model.timestep(model.sigma(timestep)) == pytest.approx(timestep, abs=1e-9)


@settings(deadline=None)
@given(st.sampled_from(list(MODELS)), st.floats(0, 1))
def test_sigma_is_the_inverse_of_timestep(name, part):
    model = MODELS[name]
    sigma = model.sigma_min * (model.sigma_max / model.sigma_min) ** part
    assert model.sigma(model.timestep(sigma)) == pytest.approx(sigma, rel=1e-9)


@every_model
def test_outside_the_trained_range_the_timestep_is_the_nearest_end(model):
    assert model.timestep(model.sigma_min / 2) == pytest.approx(model.bottom) and model.timestep(1e-12) >= model.bottom
    assert model.timestep(model.sigma_max * 2) == pytest.approx(model.top) and model.timestep(1e12) <= model.top
    assert model.sigma(model.bottom - 5) == model.sigma_min and model.sigma(model.top + 5) == model.sigma_max


def test_a_whole_timestep_gives_the_table_s_own_bits_and_log_sigma_is_linear_between():
    assert [sd().sigma(i) for i in range(1000)] == list(sd().sigmas)
    assert sd().sigma(500.25) == pytest.approx(sd().sigmas[500] ** 0.75 * sd().sigmas[501] ** 0.25, rel=1e-14)


@pytest.mark.parametrize("sigma", [1e-3, 0.03, 1.0, 14.6, 4500.0])
def test_sigma_alpha_share_flow_time_and_log_snr_agree(sigma):
    assert alpha_bar(sigma) + noise_share(sigma) == pytest.approx(1, abs=1e-15)
    assert noise_share(sigma) / alpha_bar(sigma) == pytest.approx(sigma**2, rel=1e-9)
    assert math.exp(log_snr(sigma)) == pytest.approx(sigma**-2, rel=1e-12)
    assert sigma_of_flow_time(flow_time_of_sigma(sigma)) == pytest.approx(sigma, rel=1e-11)
    t = flow_time_of_sigma(sigma)
    assert t / (1 - t) == pytest.approx(sigma, rel=1e-11)


def test_log_snr_of_no_noise_is_none():
    assert log_snr(0.0) is None


# --- the grids


# Every schedule on every model with the shortest list and one other length; all lengths occur with every model.
LENGTHS = [2, 3, 7, 20, 50, 999, 1000]
GRIDS = [
    pytest.param(name, steps, MODELS[model], id=f"{name}-{steps}-{model}")
    for i, name in enumerate(builtin().schedules)
    for j, model in enumerate(MODELS)
    for steps in (1, LENGTHS[(i + j) % len(LENGTHS)])
]


@pytest.mark.parametrize("name, steps, model", GRIDS)
def test_a_grid_falls_within_the_trained_levels_and_ends_at_zero(name, steps, model):
    for options in [
        {},
        *({option.name: not option.default} for option in schedule(name).options if option.kind == "bool"),
    ]:
        sigmas = schedule(name)(model, steps, **options)
        assert isinstance(sigmas, tuple) and {type(sigma) for sigma in sigmas} == {float}
        assert len(sigmas) == steps + 1 and sigmas[-1] == 0
        assert all(a > b for a, b in pairwise(sigmas))
        assert sigmas[0] <= model.sigma_max * (1 + 1e-12) and sigmas[-2] >= model.sigma_min * (1 - 1e-12)


def timesteps_of_diffusers(spacing: str, steps: int) -> list[int]:
    from diffusers import DDIMScheduler

    theirs = DDIMScheduler(timestep_spacing=spacing, steps_offset=1 if spacing == "leading" else 0)
    theirs.set_timesteps(steps)
    return theirs.timesteps.tolist()


STEPS = [
    2,
    3,
    4,
    5,
    6,
    7,
    9,
    10,
    11,
    12,
    13,
    15,
    16,
    18,
    20,
    23,
    24,
    25,
    27,
    28,
    29,
    30,
    31,
    35,
    40,
    47,
    48,
    50,
    53,
    64,
    75,
    96,
    100,
    112,
    128,
]
STEPS += [144, 150, 200, 250, 333, 500, 501, 750, 999]


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_whole_timesteps_are_exactly_diffusers(spacing):
    different = {}
    for steps in STEPS:
        theirs = timesteps_of_diffusers(spacing, steps)
        mine = schedule(f"Uniform {spacing}")(sd(), steps)[:-1]
        if list(mine) != [sd().sigmas[t] for t in theirs]:
            different[steps] = [(round(sd().timestep(s)), t) for s, t in zip(mine, theirs) if s != sd().sigmas[t]]
    assert not different


@pytest.mark.parametrize("offset", [0, 1, 7])
def test_leading_is_moved_up_by_its_offset(offset):
    assert [round(sd().timestep(s)) for s in schedule("Uniform leading")(sd(), 4, offset=offset)[:-1]] == [
        t + offset for t in (750, 500, 250, 0)
    ]


def test_leading_with_as_many_steps_as_the_model_stays_on_the_table():
    assert schedule("Uniform leading")(sd(), 1000) == (*reversed(sd().sigmas), 0.0)


def test_spacings_differ_where_their_names_say():
    first = {name: schedule(f"Uniform {name}")(sd(), 20) for name in ("leading", "trailing", "linspace")}
    assert first["leading"][0] < sd().sigma_max == first["trailing"][0] == first["linspace"][0]
    assert first["linspace"][-2] == sd().sigma_min < first["leading"][-2] < first["trailing"][-2]


def test_without_whole_timesteps_the_grid_is_exactly_even():
    steps = [sd().timestep(sigma) for sigma in schedule("Uniform trailing")(sd(), 7, whole=False)[:-1]]
    assert np.allclose(steps, [999 - 1000 * i / 7 for i in range(7)], atol=1e-9)
    steps = [sd().timestep(sigma) for sigma in schedule("Uniform linspace")(sd(), 8, whole=False)[:-1]]
    assert np.allclose(steps, np.linspace(999, 0, 8), atol=1e-9)


@pytest.fixture
def double_precision():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@every_model
@pytest.mark.parametrize("steps", [1, 2, 7, 30, 1000])
def test_karras_and_exponential_equal_k_diffusion(steps, model, double_precision):
    sampling, ends = k_diffusion_sampling(), (model.sigma_min, model.sigma_max)
    for rho in (1.0, 3.0, 7.0):
        theirs = sampling.get_sigmas_karras(steps, *ends, rho=rho).numpy()
        assert np.allclose(schedule("Karras")(model, steps, rho=rho), theirs, rtol=1e-11, atol=0)
    theirs = sampling.get_sigmas_exponential(steps, *ends).numpy()
    assert np.allclose(schedule("Exponential")(model, steps), theirs, rtol=1e-11, atol=0)


def test_exponential_has_constant_ratios():
    sigmas = schedule("Exponential")(sd(), 12)[:-1]
    assert np.ptp([a / b for a, b in pairwise(sigmas)]) < 1e-12


@pytest.mark.parametrize(
    "numbers",
    [
        [3.0, 2.0],
        [3.0, 3.0, 1.0],
        [1.0, 2.0, 3.0],
        [3.0, 2.0, 0.0],
        [math.inf, 2.0, 1.0],
        [3.0, math.nan, 1.0],
        [3.0, 2.0, -1.0],
        [],
    ],
)
def test_a_schedule_that_is_no_falling_list_is_refused_with_its_name(numbers):
    wrong = make_schedule("Wrong")(lambda model, steps: numbers)
    with pytest.raises(ValueError, match="schedule Wrong did not give 3 falling positive sigmas, but"):
        wrong(sd(), 3)


def test_a_schedule_s_options_are_checked():
    with pytest.raises(ValueError, match="schedule Karras has no option 'roh'; it takes rho"):
        schedule("Karras")(sd(), 3, roh=7)
    assert [option.name for option in schedule("Karras").options] == ["rho"]
    assert (schedule("Karras").options[0].low, schedule("Karras").options[0].high) == (
        Range(1, 20).low,
        Range(1, 20).high,
    )


# --- the part that img2img runs


@pytest.mark.parametrize(
    "steps, strength, runs",
    [
        (50, 0.58, 29),
        (50, 1.0, 50),
        (50, 0.5, 25),
        (20, 0.6, 12),
        (10, 0.29, 3),
        (7, 0.5, 4),
        (50, 0.01, 1),
        (1, 0.01, 1),
        (1, 1.0, 1),
        (1000, 0.001, 1),
    ]
    + [(n, k / n, k) for n in (3, 7, 30, 49, 100, 999) for k in (1, n // 2, n - 1, n)],
)
def test_strength_as_steps_runs_that_share_of_the_last_steps(steps, strength, runs):
    sigmas = schedule("Karras")(sd(), steps)
    assert cut(sigmas, strength) == sigmas[-runs - 1 :]
    assert len(cut(sigmas, strength)) == runs + 1


@pytest.mark.parametrize("kind", ["steps", "noise"])
@every_model
def test_full_strength_is_the_whole_schedule(kind, model):
    for steps in (1, 2, 30):
        sigmas = schedule("Karras")(model, steps)
        assert cut(sigmas, 1.0, kind) == sigmas


@every_model
@settings(deadline=None, max_examples=40)
@given(steps=st.integers(1, 60), strength=st.floats(0.01, 0.99))
def test_strength_as_noise_starts_at_exactly_that_share_of_noise(model, steps, strength):
    sigmas = schedule("Exponential")(model, steps)
    part = cut(sigmas, strength, "noise")
    assert all(a > b for a, b in pairwise(part)) and part[-1] == 0 and len(part) >= 2
    if strength < noise_share(sigmas[0]):
        assert noise_share(part[0]) == pytest.approx(strength, abs=1e-12)
        assert part[1:] == sigmas[-len(part) + 1 :]
        # Nothing lower is left out but a level that is the start's own.
        assert not [sigma for sigma in sigmas if part[1] < sigma < part[0] * (1 - 1e-3)]
    else:
        assert part == sigmas


def test_a_start_that_falls_on_a_level_does_not_make_an_empty_step():
    sigmas = (10.0, 2.0, 1.0, 0.5, 0.0)
    assert cut(sigmas, noise_share(1.0), "noise") == pytest.approx((1.0, 0.5, 0.0))
    assert cut(sigmas, noise_share(1.0005), "noise") == pytest.approx((1.0005, 0.5, 0.0))


def test_an_unknown_meaning_of_strength_is_refused():
    with pytest.raises(ValueError, match="strength_as is 'sigma'; allowed is 'steps' or 'noise'"):
        cut((1.0, 0.0), 0.5, "sigma")


@pytest.mark.parametrize("strength", [0.0, -0.1, 1.1, math.nan])
@pytest.mark.parametrize("kind", ["steps", "noise"])
def test_a_strength_outside_its_range_is_refused(kind, strength):
    with pytest.raises(ValueError, match="strength"):
        cut((10.0, 1.0, 0.0), strength, kind)
