"""What a sampler asks besides denoise(x, sigma): parts and model; what it is refused; guidance other than CFG."""

from itertools import pairwise

import pytest
import torch
from oracles import guided, normal, sd

from samplers import Step, sampler
from samplers.closed_form import GaussianDenoiser, end_of
from samplers.guidance import Interval, Method
from samplers.sampler import GuidanceFailed, Stopped, guidance
from samplers.schedule import flow
from samplers.wrappers import Counted, Reported, SoftlyMasked, Stoppable

SHAPE, SIGMA = (2, 4, 4, 4), 2.0
LIST = (10.0, 3.0, 1.0, 0.0)


class Network:
    """Its output tells the condition; it remembers the sizes of its batches."""

    def __init__(self):
        self.batches = []

    def __call__(self, scaled, timestep, condition):
        self.batches.append(len(scaled))
        return scaled * condition.mean((1, 2))[:, None, None, None] + torch.sin(3 * scaled)


def denoiser(scale, network=None, **options):
    conditions = torch.full((1, 7, 8), 0.7), torch.full((1, 7, 8), -0.4)
    return guided(network or Network(), options.pop("model", sd()), "epsilon", *conditions, scale, **options)


@pytest.mark.parametrize("scale", [0.0, 1.0, 5.0])
def test_parts_are_the_estimates_at_scales_1_and_0(scale):
    x, network = normal(*SHAPE), Network()
    parts = denoiser(scale, network).parts(x, SIGMA)
    assert network.batches == [4]
    for part, alone in zip(parts, (scale, 1.0, 0.0), strict=True):
        torch.testing.assert_close(part, denoiser(alone)(x, SIGMA))


def test_parts_outside_of_the_interval_are_unguided():
    guided, conditional, unconditional = denoiser(5.0, interval=Interval(3.0)).parts(normal(*SHAPE), SIGMA)
    assert torch.equal(guided, conditional) and not torch.equal(guided, unconditional)


def test_parts_go_through_every_wrapper_as_one_call():
    clean, mask, seen = normal(1, *SHAPE[1:], seed=3), (torch.arange(4) > 1).double(), []
    counted = Counted(SoftlyMasked(denoiser(5.0), clean, mask, LIST[0]), 2)
    wrapped = Stoppable(Reported(counted, lambda sigma, denoised: seen.append(denoised)), lambda: False)
    parts = wrapped.parts(normal(*SHAPE), SIGMA)
    assert counted.calls == 1 and seen[0] is parts.guided and wrapped.model == sd()
    for part in parts:
        assert torch.equal(part[..., :2], clean.expand(SHAPE)[..., :2])
    with pytest.raises(Stopped):
        Stoppable(counted, lambda: True).parts(normal(*SHAPE), SIGMA)


@pytest.mark.parametrize("model", [sd(), flow()])
def test_a_sampler_knows_the_noise_levels_of_the_model(model):
    @sampler("Asks")
    def asks(denoise, x, sigmas, noise):
        assert denoise.model == model
        yield Step(x, sigmas[-1], x)

    end_of(asks, denoiser(5.0, model=model), normal(*SHAPE), LIST)


@pytest.mark.parametrize("method", ["__call__", "parts"])
@pytest.mark.parametrize(
    "sigma, gradient, error, message",
    [
        (torch.tensor(2.0), False, TypeError, "one Python number for all pictures, not Tensor"),
        (torch.ones(2), False, TypeError, "give float"),
        (True, False, TypeError, "not bool"),
        (0.0, False, ValueError, "a sigma above 0, not 0"),
        (-1, False, ValueError, "a sigma above 0, not -1"),
        (float("nan"), False, ValueError, "not nan"),
        (2.0, True, ValueError, "requires a gradient"),
    ],
)
def test_what_would_be_wrong_without_a_word_is_refused(method, sigma, gradient, error, message):
    @sampler("Asks")
    def asks(denoise, x, sigmas, noise):
        yield Step(getattr(denoise, method)(x.clone().requires_grad_(gradient), sigma), 0.0, x)

    with pytest.raises(error, match=message):
        end_of(asks, GaussianDenoiser(), normal(*SHAPE), LIST)


@guidance("CFG, on estimates")
def on_estimates(conditional, unconditional, sigma, scale, state):
    return unconditional + scale * (conditional - unconditional)


def test_cfg_on_estimates_is_cfg_on_outputs():
    x = normal(*SHAPE)
    torch.testing.assert_close(denoiser(5.0, method=Method(on_estimates))(x, SIGMA), denoiser(5.0)(x, SIGMA))


def test_a_guidance_may_skip_half_of_a_call_and_forgets_at_the_next_run():
    def enough(sigma, scale, state):
        return state.get("calls", 0) >= 2

    @guidance("Two calls", skip=enough)
    def two_calls(conditional, unconditional, sigma, scale, state):
        state["calls"] = state.get("calls", 0) + 1
        return unconditional + scale * (conditional - unconditional)

    network = Network()
    counted = Counted(denoiser(5.0, network, method=Method(two_calls)), 2)
    for _ in range(2):
        end_of(euler, counted, normal(*SHAPE), LIST)
    assert network.batches == [4, 4, 2] * 2


@sampler("Euler", order=1, calls=1)
def euler(denoise, x, sigmas, noise):
    for sigma, lower in pairwise(sigmas):
        denoised = denoise(x, sigma)
        x = denoised + lower / sigma * (x - denoised)
        yield Step(x, lower, denoised)


def test_a_guidance_that_returns_another_shape_is_named():
    wrong = guidance("Wrong")(lambda conditional, unconditional, sigma, scale, state: conditional[:1])
    with pytest.raises(GuidanceFailed, match=r"guidance Wrong must return an estimate of shape \(2, 4, 4, 4\)"):
        denoiser(5.0, method=Method(wrong))(normal(*SHAPE), SIGMA)
