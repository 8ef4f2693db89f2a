"""From network to denoise(x, sigma): the four predictions, guidance, timesteps, and the counted, stoppable call."""

import math

import pytest
import torch
from oracles import guided, mixture, normal, sd

from samplers import Stopped
from samplers.denoiser import PREDICTIONS, to_denoised, to_network
from samplers.sampler import Denoise
from samplers.schedule import alpha_bar, flow, from_alphas, zero_terminal_snr
from samplers.testing import GaussianDenoiser
from samplers.wrappers import Counted, Reported, Stoppable

SHAPE = (3, 2, 3, 3)
ONE, OTHER = torch.ones(1, 2, 4, dtype=torch.float64), torch.zeros(1, 2, 4, dtype=torch.float64)


def target(prediction: str, clean, eps, sigma):
    """What a network of this kind is trained to output, in the papers' own terms."""
    alpha = 1 / math.sqrt(1 + sigma**2)
    return {
        "epsilon": eps,
        "v_prediction": alpha * eps - math.sqrt(1 - alpha**2) * clean,
        "sample": clean,
        "flow_prediction": eps - clean,
    }[prediction]


class Perfect:
    """A network of any prediction type whose data are known: it sees only what a real one sees."""

    def __init__(self, denoise, prediction, schedule):
        self.denoise, self.prediction, self.schedule = denoise, prediction, schedule

    def __call__(self, scaled, timestep, condition):
        if self.schedule.flow:
            t = timestep / 1000
            sigma, x = t / (1 - t), scaled / (1 - t)
        else:
            sigma = self.schedule.sigma(timestep)
            x = scaled * math.sqrt(1 + sigma**2)
        clean = self.denoise(x, sigma)
        return target(self.prediction, clean, (x - clean) / sigma, sigma)


def denoiser(network, schedule=None, prediction="epsilon", **options) -> Denoise:
    return guided(network, schedule or sd(), prediction, ONE, OTHER, **options)


@pytest.mark.parametrize("sigma", [0.03, 0.5, 3.7, 14.6])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("schedule", [sd(), flow()], ids=["variance preserving", "flow"])
@pytest.mark.parametrize("data", [GaussianDenoiser(), mixture()], ids=["Gaussian", "mixture"])
def test_every_prediction_on_every_scaling_is_the_same_denoiser(data, schedule, prediction, sigma):
    denoise = denoiser(Perfect(data, prediction, schedule), schedule, prediction)
    x = normal(*SHAPE) * math.hypot(1, sigma)
    assert (denoise(x, sigma) - data(x, sigma)).abs().max() < 1e-11


@pytest.mark.parametrize("sigma", [1e-3, 0.03, 1.0, 14.6, 999.0, 4500.0])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_conversion_finds_the_image_that_was_noised(prediction, sigma):
    clean, eps = normal(*SHAPE, seed=1), normal(*SHAPE, seed=2)
    x = clean + sigma * eps
    assert (to_denoised(target(prediction, clean, eps, sigma), x, sigma, prediction) - clean).abs().max() < 1e-13 * max(
        10, 4 * sigma
    )


@pytest.mark.parametrize("prediction", ["v_prediction", "sample", "flow_prediction"])
@pytest.mark.parametrize("sigma", [0.03, 14.6, 4500.0])
def test_conversions_but_epsilon_stay_accurate_in_float32_at_any_noise(prediction, sigma):
    clean, eps = normal(*SHAPE, seed=1), normal(*SHAPE, seed=2)
    output, x = target(prediction, clean, eps, sigma).float(), (clean + sigma * eps).float()
    assert (to_denoised(output, x, sigma, prediction).double() - clean).abs().max() < 2e-6


def test_the_network_sees_unit_variance_or_the_flow_s_blend():
    clean, eps = normal(*SHAPE, seed=1), normal(*SHAPE, seed=2)
    for sigma in (0.03, 14.6):
        alpha, t = 1 / math.sqrt(1 + sigma**2), sigma / (1 + sigma)
        x = clean + sigma * eps
        assert (to_network(x, sigma, flow=False) - (alpha * clean + math.sqrt(1 - alpha**2) * eps)).abs().max() < 1e-13
        assert (to_network(x, sigma, flow=True) - ((1 - t) * clean + t * eps)).abs().max() < 1e-13


def test_an_unknown_prediction_names_the_known_ones():
    with pytest.raises(
        ValueError, match="'noise' is unknown; known are epsilon, v_prediction, sample, flow_prediction"
    ):
        to_denoised(ONE, ONE, 1.0, "noise")


@pytest.mark.parametrize("prediction", ["v_prediction", "sample"])
def test_a_model_of_zero_terminal_snr_is_asked_at_its_last_timestep(prediction):
    schedule = from_alphas(zero_terminal_snr([alpha_bar(sigma) for sigma in sd().sigmas]))
    asked = []

    def network(scaled, timestep, condition):
        asked.append(timestep)
        return Perfect(GaussianDenoiser(), prediction, schedule)(scaled, timestep, condition)

    x = schedule.sigma_max * normal(*SHAPE)
    denoised = denoiser(network, schedule, prediction)(x, schedule.sigma_max)
    assert asked == [999.0] and (denoised - GaussianDenoiser()(x, schedule.sigma_max)).abs().max() < 1e-9


# --- guidance


class Conditioned:
    """A network whose output tells its condition; it keeps what it was given."""

    def __init__(self):
        self.calls = []

    def __call__(self, scaled, timestep, condition):
        self.calls.append((scaled, timestep, condition))
        return scaled * (1 + condition[:, 0, 0])[:, None, None, None] + condition[:, 1, 1][:, None, None, None]


@pytest.mark.parametrize("guidance", [-1.0, 0.0, 0.5, 1.0, 1.5, 5.0, 7.5, 30.0])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_guidance_extrapolates_from_the_unconditional_estimate(guidance, prediction):
    x, sigma = 3 * normal(*SHAPE), 2.5
    alone = {}
    for name, condition in (("cond", ONE), ("uncond", OTHER)):

        def network(scaled, t, c, condition=condition):
            return Conditioned()(scaled, t, condition.expand(len(scaled), -1, -1))

        alone[name] = denoiser(network, prediction=prediction)(x, sigma)
    expected = alone["uncond"] + guidance * (alone["cond"] - alone["uncond"])
    assert (denoiser(Conditioned(), prediction=prediction, scale=guidance)(x, sigma) - expected).abs().max() < 1e-10


@pytest.mark.parametrize("guidance, condition", [(1.0, ONE), (0.0, OTHER)])
def test_without_guidance_half_is_computed_once(guidance, condition):
    network = Conditioned()
    denoiser(network, scale=guidance)(normal(*SHAPE), 1.0)
    ((scaled, _, given),) = network.calls
    assert len(scaled) == len(given) == SHAPE[0]
    assert torch.equal(given, condition.expand(SHAPE[0], -1, -1))


def test_with_guidance_both_halves_are_one_call_of_twice_the_size():
    network = Conditioned()
    denoiser(network, scale=5.0)(normal(*SHAPE), 1.0)
    ((scaled, _, given),) = network.calls
    assert scaled.shape == (6, 2, 3, 3) and torch.equal(scaled[:3], scaled[3:])
    assert torch.equal(given, torch.cat([OTHER.expand(3, -1, -1), ONE.expand(3, -1, -1)]))


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_an_image_s_estimate_does_not_depend_on_its_batch(guidance):
    x = normal(*SHAPE)
    together = denoiser(Conditioned(), scale=guidance)(x, 1.0)
    alone = [denoiser(Conditioned(), scale=guidance)(x[i : i + 1], 1.0) for i in range(3)]
    assert (together - torch.cat(alone)).abs().max() < 1e-12


# --- timesteps


def test_the_timestep_is_continuous_unless_rounded():
    between, asked = sd().sigma(500.3), []
    network = lambda scaled, t, c: asked.append(t) or scaled  # noqa: E731
    x = normal(*SHAPE)
    denoiser(network)(x, between)
    denoiser(network, rounded=True)(x, between)
    denoiser(network, rounded=True)(x, sd().sigma(500.7))
    assert asked == [pytest.approx(500.3, abs=1e-9), 500.0, 501.0]
    assert all(isinstance(timestep, float) for timestep in asked)


def test_rounding_changes_the_timestep_and_not_the_scaling():
    sigma, seen = sd().sigma(500.3), []
    network = lambda scaled, t, c: seen.append(scaled) or scaled  # noqa: E731
    for rounded in (False, True):
        denoiser(network, rounded=rounded)(normal(*SHAPE), sigma)
    assert torch.equal(seen[0], seen[1])


def test_a_flow_model_is_given_a_thousand_times_its_time():
    asked = []
    denoiser(lambda scaled, t, c: asked.append(t) or scaled, flow(), "flow_prediction")(normal(*SHAPE), 3.0)
    assert asked == [pytest.approx(750.0)]


# --- counted, reported, stoppable


def test_calls_are_counted_per_image_and_reported_with_level_and_estimate():
    reports = []
    counted = Counted(GaussianDenoiser(), 3)
    denoise = Reported(counted, lambda sigma, denoised: reports.append((counted.calls, sigma, denoised)))
    x = normal(*SHAPE)
    first, second = denoise(x, 5.0), denoise(x, 2.0)
    assert [(calls, sigma) for calls, sigma, _ in reports] == [(1, 5.0), (2, 2.0)]
    assert reports[0][2] is first and reports[1][2] is second
    assert torch.equal(first, GaussianDenoiser()(x, 5.0))


def test_images_solved_apart_are_counted_as_the_mean():
    counted = Counted(GaussianDenoiser(), 2)
    for image in (0, 0, 1):
        counted(normal(*SHAPE)[image : image + 1], 1.0)
    assert counted.calls == 1.5
    counted(normal(*SHAPE)[:1], 1.0)
    assert counted.calls == 2 and isinstance(counted.calls, int)


def test_a_stop_before_a_call_makes_none_and_one_during_it_ends_after_it():
    made, flag = [], [True]

    def denoise(x, sigma):
        made.append(sigma)
        flag[0] = True
        return x

    reports = []
    counted = Counted(denoise, 3)
    stoppable = Stoppable(Reported(counted, lambda *call: reports.append(call)), lambda: flag[0])
    with pytest.raises(Stopped):
        stoppable(normal(*SHAPE), 1.0)
    assert made == [] and counted.calls == 0
    flag[0] = False
    with pytest.raises(Stopped):
        stoppable(normal(*SHAPE), 1.0)
    assert made == [1.0] and counted.calls == 1 and len(reports) == 1


def test_a_failed_call_is_not_counted():
    counted = Counted(lambda x, sigma: 1 / 0, 1)
    with pytest.raises(ZeroDivisionError):
        counted(normal(*SHAPE), 1.0)
    assert counted.calls == 0
