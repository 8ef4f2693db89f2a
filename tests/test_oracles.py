"""Each sampler against somebody else's implementation, or against the exact solution, in float64."""

import math

import numpy as np
import pytest
import torch
from oracles import (
    Exact,
    NoisePredictor,
    Replay,
    Silence,
    end,
    guided,
    k_diffusion_sampling,
    mixture,
    normal,
    run_all,
    sampler,
    scaled_linear_alphas,
    schedule,
    sd,
)
from scipy.integrate import solve_ivp

from samplers.noise import Noise
from samplers.sampler import Denoise
from samplers.testing import GaussianDenoiser, geometric

SHAPE = (3, 2, 3, 3)
STABLE_DIFFUSION = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False)


def ours(network) -> Denoise:
    """Our denoise on an eps network; the condition is a formality."""
    nothing = torch.zeros(1, 1, 1, dtype=torch.float64)
    return guided(network, sd(), "epsilon", nothing, nothing)


def scale(sigma: float) -> float:
    """What our state is divided by to become diffusers'."""
    return math.sqrt(1 + sigma**2)


def draws(count: int, seed: int = 5) -> list[torch.Tensor]:
    return [normal(*SHAPE, seed=1000 * seed + i) for i in range(count)]


def ddim_of_diffusers(steps, spacing, to_one, eta, x, noises, network):
    """The final state of diffusers' DDIMScheduler with float64 alphas, and the timesteps that it used."""
    from diffusers import DDIMScheduler

    offset = 1 if spacing == "leading" else 0
    theirs = DDIMScheduler(**STABLE_DIFFUSION, timestep_spacing=spacing, steps_offset=offset, set_alpha_to_one=to_one)
    theirs.alphas_cumprod = torch.from_numpy(scaled_linear_alphas())
    theirs.final_alpha_cumprod = torch.tensor(1.0, dtype=torch.float64) if to_one else theirs.alphas_cumprod[0]
    theirs.set_timesteps(steps)
    for timestep, noise in zip(theirs.timesteps.tolist(), noises):
        drawn = dict(variance_noise=noise) if eta else {}
        x = theirs.step(network(x, timestep), timestep, x, eta=eta, **drawn).prev_sample
    return x


# diffusers' trailing DDIM takes T // n for the distance of neighbours, which is right for divisors of T only.
@pytest.mark.parametrize(
    "spacing, steps", [("leading", 10), ("leading", 7), ("leading", 30), ("trailing", 10), ("trailing", 25)]
)
@pytest.mark.parametrize("to_one", [True, False])
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_ddim_equals_diffusers(spacing, steps, to_one, eta):
    network = NoisePredictor(mixture(), scaled_linear_alphas())
    sigmas = schedule(f"Uniform {spacing}")(sd(), steps)
    if not to_one:
        sigmas = (*sigmas[:-1], sd().sigmas[0])
    start, noises = normal(*SHAPE), draws(steps)

    theirs = ddim_of_diffusers(steps, spacing, to_one, eta, start, noises, network)
    mine = end(sampler("DDIM"), ours(network), start * scale(sigmas[0]), sigmas, Replay(noises), eta=eta)

    assert (mine / scale(sigmas[-1]) - theirs).abs().max() < 1e-11


@pytest.mark.parametrize(
    "spacing, steps", [("leading", 10), ("leading", 33), ("trailing", 8), ("trailing", 30), ("linspace", 12)]
)
def test_ddpm_equals_diffusers_with_the_posterior_variance(spacing, steps):
    from diffusers import DDPMScheduler

    offset = 1 if spacing == "leading" else 0
    theirs = DDPMScheduler(
        **STABLE_DIFFUSION, variance_type="fixed_small", timestep_spacing=spacing, steps_offset=offset
    )
    theirs.alphas_cumprod = torch.from_numpy(scaled_linear_alphas())
    theirs.set_timesteps(steps)
    network = NoisePredictor(mixture(), scaled_linear_alphas())
    start = x = normal(*SHAPE)
    generator = torch.Generator().manual_seed(3)
    for timestep in theirs.timesteps:
        x = theirs.step(network(x, timestep), int(timestep), x, generator=generator).prev_sample

    sigmas = schedule(f"Uniform {spacing}")(sd(), steps)
    generator = torch.Generator().manual_seed(3)
    same = [torch.randn(SHAPE, generator=generator, dtype=torch.float64) for _ in range(steps)]
    mine = end(sampler("DDPM"), ours(network), start * scale(sigmas[0]), sigmas, Replay(same))

    # diffusers adds noise of std 1e-10 in the last step, where the variance is 0.
    assert (mine - x).abs().max() < 2e-9


@pytest.mark.parametrize("spacing, steps", [("leading", 10), ("trailing", 30), ("linspace", 21)])
@pytest.mark.parametrize("name", ["Euler", "DDIM"])
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_euler_equals_diffusers(name, spacing, steps):
    from diffusers import EulerDiscreteScheduler

    options = {key: value for key, value in STABLE_DIFFUSION.items() if key != "clip_sample"}
    theirs = EulerDiscreteScheduler(**options, timestep_spacing=spacing, steps_offset=1 if spacing == "leading" else 0)
    # Its sigmas are float32, and so is its state: both are lifted to float64 here.
    sigmas = schedule(f"Uniform {spacing}")(sd(), steps)
    theirs.set_timesteps(steps)
    assert np.allclose(theirs.sigmas[:-1], sigmas[:-1], rtol=2e-3 if spacing == "linspace" else 1e-5)
    theirs.sigmas = torch.tensor(sigmas, dtype=torch.float64)
    network = NoisePredictor(mixture(), scaled_linear_alphas())
    start = x = normal(*SHAPE) * sigmas[0]
    for timestep in theirs.timesteps:
        scaled = theirs.scale_model_input(x, timestep)
        output = network(scaled, round(timestep.item()))
        x = theirs.step(output, timestep, x.as_subclass(Exact)).prev_sample.as_subclass(torch.Tensor)

    assert x.dtype == torch.float64
    assert (end(sampler(name), ours(network), start, sigmas, Silence()) - x).abs().max() < 1e-11


CHURNS = {
    "none": ({}, {}),
    "everywhere": (dict(churn=12.0), dict(s_churn=12.0)),
    "at its highest": (dict(churn=100.0), dict(s_churn=100.0)),
    "in a band, scaled": (
        dict(churn=5.0, churn_from=6.0, churn_to=0.3, churn_noise=1.007),
        dict(s_churn=5.0, s_tmax=6.0, s_tmin=0.3, s_noise=1.007),
    ),
}


@pytest.mark.parametrize("churn", CHURNS)
@pytest.mark.parametrize("steps", [1, 2, 20])
def test_euler_equals_k_diffusion(churn, steps, monkeypatch):
    options, theirs = CHURNS[churn]
    sampling, denoise = k_diffusion_sampling(), mixture()
    sigmas = schedule("Karras")(sd(), steps)
    start, noises = normal(*SHAPE) * sigmas[0], draws(steps)
    # k-diffusion draws in every step, also where it then adds nothing; we draw where it is added.
    every_step = iter(noises)
    monkeypatch.setattr(torch, "randn_like", lambda x: next(every_step))
    model = lambda x, sigma: denoise(x, sigma[0].item())  # noqa: E731
    expected = sampling.sample_euler(model, start, torch.tensor(sigmas, dtype=torch.float64), disable=True, **theirs)

    low, high = options.get("churn_to", 0.0), options.get("churn_from", math.inf)
    churned = [noise for sigma, noise in zip(sigmas, noises) if low <= sigma <= high]
    replay = Replay(churned)
    mine = end(sampler("Euler"), denoise, start, sigmas, replay, **options)

    assert replay.taken == (len(churned) if options else 0)
    assert (mine - expected).abs().max() < 1e-12


@pytest.mark.parametrize("steps", [1, 3, 25])
def test_ddpm_and_ddim_with_full_eta_equal_k_diffusion_s_ancestral_euler(steps):
    sampling, denoise = k_diffusion_sampling(), mixture()
    sigmas = schedule("Karras")(sd(), steps)
    start, noises = normal(*SHAPE) * sigmas[0], draws(steps)
    model = lambda x, sigma: denoise(x, sigma[0].item())  # noqa: E731
    order = iter(noises)
    expected = sampling.sample_euler_ancestral(
        model, start, torch.tensor(sigmas, dtype=torch.float64), disable=True, noise_sampler=lambda *_: next(order)
    )

    assert (end(sampler("DDPM"), denoise, start, sigmas, Replay(noises)) - expected).abs().max() < 1e-11
    assert (end(sampler("DDIM"), denoise, start, sigmas, Replay(noises), eta=1.0) - expected).abs().max() < 1e-11


@pytest.mark.parametrize("low", [0.0292, 1.0])
@pytest.mark.parametrize("high", [2.0, 14.6, 999.0])
def test_adaptive_flow_at_a_tight_tolerance_is_the_exact_flow_of_a_gaussian(high, low):
    denoise = GaussianDenoiser(0.3, torch.linspace(0.2, 1.4, 18, dtype=torch.float64).reshape(1, 2, 3, 3))
    start = 0.3 + math.sqrt(high**2 + 1) * normal(*SHAPE)
    mine = end(sampler("Flow"), denoise, start, (high, low), Silence(), tolerance=1e-9, max_calls=10000)

    assert (mine - denoise.flow(start, high, low)).abs().max() < 2e-8


def test_adaptive_flow_ends_with_one_denoising_of_the_exact_flow():
    denoise = GaussianDenoiser(0.3, 0.7)
    start = 14.6 * normal(*SHAPE)
    mine = end(sampler("Flow"), denoise, start, (14.6, 3.0, 0.03, 0.0), Silence(), tolerance=1e-9)

    assert (mine - denoise(denoise.flow(start, 14.6, 0.03), 0.03)).abs().max() < 2e-8


@pytest.mark.parametrize("method, tolerance, bound", [("dopri5", 1e-9, 1e-7), ("adaptive_heun", 1e-6, 2e-4)])
def test_adaptive_flow_equals_scipy_on_a_mixture(method, tolerance, bound):
    denoise, start = mixture(), 14.6 * normal(1, *SHAPE[1:], seed=4)

    def slope(log_sigma, flat):
        sigma = math.exp(log_sigma)
        x = torch.from_numpy(flat).reshape(start.shape)
        return (x - denoise(x, sigma)).flatten().numpy()

    ends = (math.log(14.6), math.log(0.1))
    theirs = solve_ivp(slope, ends, start.flatten().numpy(), method="DOP853", rtol=1e-11, atol=1e-11).y[:, -1]
    mine = end(
        sampler("Flow"), denoise, start, (14.6, 0.1), Silence(), method=method, tolerance=tolerance, max_calls=10000
    )

    assert np.abs(mine.flatten().numpy() - theirs).max() < bound


def heun_of_a_rectified_flow(denoise, x, sigmas):
    """Improved Euler on dz/dt = eps - x0, written for a flow model's own state z = (1 - t) x0 + t eps."""

    def velocity(z, t):
        x, sigma = z / (1 - t), t / (1 - t)
        clean = denoise(x, sigma)
        return (x - clean) / sigma - clean

    times = [sigma / (1 + sigma) for sigma in sigmas]
    z = x * (1 - times[0])
    for t, u in zip(times, times[1:]):
        first = velocity(z, t)
        if u == 0:
            z = z - t * first
        else:
            z = z + 0.5 * (u - t) * (first + velocity(z + (u - t) * first, u))
    return z / (1 - times[-1])


@pytest.mark.parametrize("steps", [1, 2, 9])
@pytest.mark.parametrize("to_zero", [True, False])
def test_fixed_step_flow_equals_heun_s_method_on_the_flow_state(steps, to_zero):
    denoise = mixture()
    sigmas = geometric(14.6, 0.05, steps) + ((0.0,) if to_zero else ())
    start = 14.6 * normal(*SHAPE)
    expected = heun_of_a_rectified_flow(denoise, start, sigmas)

    assert (end(sampler("Flow"), denoise, start, sigmas, Silence(), method="heun") - expected).abs().max() < 1e-12


def test_each_step_s_estimate_of_the_image_is_the_denoiser_s():
    denoise, start, sigmas = mixture(), 14.6 * normal(*SHAPE), schedule("Karras")(sd(), 5)
    for name in ("DDPM", "DDIM", "Euler"):
        steps = run_all(sampler(name), denoise, start, sigmas, Noise((1, 2, 3)))
        states = [start, *(step.x for step in steps)]
        assert [step.sigma for step in steps] == list(sigmas[1:])
        for step, state, sigma in zip(steps, states, sigmas):
            assert torch.equal(step.denoised, denoise(state, sigma))
