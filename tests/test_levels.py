"""The visualizer's numbers against closed forms, and the network calls that it shows against the samplers' formulas."""

import math
from itertools import pairwise

import pytest
import torch
from oracles import builtin, sampler, schedule, sd

from samplers import Step
from samplers import sampler as make_sampler
from samplers.levels import dry_run, levels
from samplers.run import SamplerFailed, plan, run
from samplers.schedule import alpha_bar, betas, flow, shift_flow_time, sigma_of_flow_time
from samplers.testing import GaussianDenoiser
from samplers.wrappers import Counted, Reported

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Should have t[ab]:UserWarning")


def planned(name, steps=20, menu="Karras", strength=1.0, strength_as="steps", model=None, **options):
    return plan(model or sd(), sampler(name), schedule(menu), steps, options, {}, strength, strength_as)


# --- the measures of noise


def test_alpha_bar_of_stable_diffusion_is_the_product_of_its_betas():
    """At given timesteps, against a plain product of 1 - beta with sqrt(beta) linear, in exact fractions of its own."""
    roots = [0.00085**0.5 + (0.012**0.5 - 0.00085**0.5) * i / 999 for i in range(1000)]
    for timestep in (0, 1, 100, 499, 500, 981, 999):
        product = math.prod(1 - root * root for root in roots[: timestep + 1])
        shown = levels(sd(), [sd().sigma(timestep), 0.0])
        assert shown.alpha_bar[0] == pytest.approx(product, rel=1e-12)
        assert shown.timesteps[0] == pytest.approx(timestep, abs=1e-9)
        assert shown.log_snr[0] == pytest.approx(math.log(product / (1 - product)), abs=1e-9)
        assert shown.noise_share == pytest.approx(1 - product, rel=1e-12)


def test_alpha_bar_is_diffusers_at_given_timesteps():
    from diffusers import DDIMScheduler

    theirs = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear").alphas_cumprod
    for timestep in (0, 250, 500, 750, 999):
        assert levels(sd(), [sd().sigma(timestep)]).alpha_bar[0] == pytest.approx(theirs[timestep].item(), rel=2e-5)


def test_karras_is_the_formula_of_the_paper():
    high, low, n, rho = sd().sigma_max, sd().sigma_min, 12, 7
    wanted = [(high ** (1 / rho) + i / (n - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho for i in range(n)]
    assert levels(sd(), schedule("Karras")(sd(), n)).sigmas == pytest.approx((*wanted, 0.0), rel=1e-12)


def test_log_snr_of_flow_time():
    """(1 - t) x0 + t eps: signal to noise (1 - t)^2 / t^2."""
    for t in (0.001, 0.1, 0.5, 0.75, 0.999):
        shown = levels(flow(), [sigma_of_flow_time(t), 0.0])
        assert shown.log_snr[0] == pytest.approx(2 * math.log((1 - t) / t), abs=1e-12)
        assert shown.timesteps[0] == pytest.approx(1000 * t, abs=1e-9)
        assert shown.alpha_bar[0] == pytest.approx((1 - t) ** 2 / ((1 - t) ** 2 + t**2), rel=1e-12)


def test_the_end_has_no_log_snr_and_no_noise():
    shown = levels(sd(), [1.0, 0])
    assert shown.log_snr == (0.0, None) and shown.alpha_bar == (0.5, 1.0)
    assert shown.timesteps[1] == 0 and shown.noise_share == 0.5


def test_sigmoid_betas_equal_diffusers_and_are_symmetric():
    from diffusers import DDPMScheduler

    theirs = DDPMScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="sigmoid").betas.double()
    mine = betas("sigmoid", 1e-4, 0.02)
    assert torch.allclose(torch.tensor(mine, dtype=torch.float64), theirs, rtol=2e-6, atol=0)
    assert all(a + b == pytest.approx(1e-4 + 0.02, rel=1e-12) for a, b in zip(mine, reversed(mine), strict=True))


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0, 12.0])
def test_a_flow_shift_multiplies_sigma(shift):
    """Esser et al. 2024, equation 23: log-SNR falls by 2 ln shift everywhere."""
    for t in (0.001, 0.3, 0.5, 0.999):
        assert sigma_of_flow_time(shift_flow_time(t, shift)) == pytest.approx(shift * sigma_of_flow_time(t), rel=1e-9)
    assert shift_flow_time(0.0, shift) == 0 and shift_flow_time(1.0, shift) == 1


# --- where the network is asked


def asked(made):
    return [call.sigma for call in dry_run(made).calls]


def test_one_call_samplers_ask_at_every_level():
    made = planned("DDIM")
    assert asked(made) == list(made.sigmas[:-1])
    assert [call.place for call in dry_run(made).calls] == list(range(20))
    assert dry_run(made).sigmas == made.sigmas


def test_heun_asks_at_both_ends_of_a_step():
    made = planned("Heun", 4)
    high, a, b, c, _ = made.sigmas
    assert asked(made) == [high, a, a, b, b, c, c]
    assert [call.place for call in dry_run(made).calls] == [0, 0.5, 1, 1.5, 2, 2.5, 3]


def test_dpm2_asks_at_the_geometric_middle():
    made = planned("DPM2", 4)
    high, a, b, c, _ = made.sigmas
    wanted = [high, math.sqrt(high * a), a, math.sqrt(a * b), b, math.sqrt(b * c), c]
    assert asked(made) == pytest.approx(wanted, rel=1e-6)


def test_churn_raises_the_sigmas_that_are_asked():
    """Karras et al. 2022, algorithm 2: by min(churn / steps, sqrt(2) - 1) between churn_to and churn_from."""
    made = planned("Euler", 10, churn=2.0, churn_from=5.0, churn_to=0.5)
    for sigma, seen in zip(made.sigmas, asked(made), strict=False):
        assert seen == pytest.approx(sigma * (1.2 if 0.5 <= sigma <= 5.0 else 1.0), rel=1e-12)
    assert max(
        a / b for a, b in zip(asked(planned("Euler", 4, churn=100.0)), planned("Euler", 4).sigmas, strict=False)
    ) == pytest.approx(math.sqrt(2))


def test_restart_goes_back_up():
    made = planned("Restart", 10, times=1, restart_steps=3, low=0.1, high=2.0)
    rises = [(a, b) for a, b in pairwise(asked(made)) if b > a * 1.0001]
    assert len(rises) == 1 and rises[0][1] == 2.0 and rises[0][0] >= 0.1
    assert dry_run(made).sigmas == made.sigmas and len(asked(made)) == made.calls


def test_a_dry_run_of_a_part_of_a_schedule_begins_at_its_start():
    made = planned("Heun", 20, strength=0.3, strength_as="noise")
    assert asked(made)[0] == pytest.approx(math.sqrt(0.3 / 0.7)) and alpha_bar(asked(made)[0]) == pytest.approx(0.7)


def test_adaptive_samplers_have_no_dry_run():
    assert dry_run(planned("Flow")) is None and dry_run(planned("k-diffusion DPM adaptive")) is None
    assert len(asked(planned("Flow", 5, method="heun"))) == 9


def test_an_own_grid_that_is_fixed_is_shown_as_it_is():
    made = planned("k-diffusion DPM fast")
    dry = dry_run(made)
    assert len(dry.calls) == 20 and (dry.sigmas[0], dry.sigmas[-1]) == (made.sigmas[0], 0)
    assert all(a > b for a, b in pairwise(dry.sigmas))


@pytest.mark.parametrize("name", builtin().samplers)
def test_a_dry_run_asks_what_a_real_run_asks(name):
    """The same sigmas in the same order as a run with real noise on other data in another shape."""
    made, seen = planned(name, 7), []
    if made.calls is None:
        return
    counted = Counted(GaussianDenoiser(-0.5, 0.2), 2)
    result = run(
        made, Reported(counted, lambda sigma, denoised: seen.append(float(sigma))), torch.zeros(2, 3, 4, 4), (1, 2)
    )
    dry = dry_run(made)
    assert asked(made) == pytest.approx(seen, rel=1e-6) and len(dry.calls) == counted.calls == made.calls
    assert dry.sigmas == pytest.approx(result.sigmas, rel=1e-12)
    places = [call.place for call in dry.calls]
    assert places == sorted(places) and 0 <= places[0] and places[-1] < len(made.sigmas) - 1


def test_a_sampler_that_reports_only_at_its_end_has_its_calls_spread_over_the_run():
    @make_sampler("Late", calls=1)
    def late(denoise, x, sigmas, noise):
        estimates = [denoise(x, sigma) for sigma in sigmas[:-1]]
        for sigma, estimate in zip(sigmas[1:], estimates, strict=True):
            yield Step(estimate, sigma, estimate)

    made = plan(sd(), late, schedule("Karras"), 4)
    assert [call.place for call in dry_run(made).calls] == [0, 1, 2, 3]


def test_a_sampler_that_fails_is_named():
    @make_sampler("Bad", calls=1)
    def bad(denoise, x, sigmas, noise):
        yield Step(denoise(x, sigmas[0] / sigmas[-1]), sigmas[1], x)

    with pytest.raises(SamplerFailed, match="sampler Bad failed .*ZeroDivisionError"):
        dry_run(plan(sd(), bad, schedule("Karras"), 4))


def test_a_sampler_that_never_ends_is_named():
    @make_sampler("Endless", calls=1)
    def endless(denoise, x, sigmas, noise):
        while True:
            x = denoise(x, sigmas[0])
        yield Step(x, 0.0, x)

    with pytest.raises(SamplerFailed, match="sampler Endless failed .* it did not end after 50 network calls"):
        dry_run(plan(sd(), endless, schedule("Karras"), 4), most_calls=50)
