"""The bridges to k-diffusion and diffusers: their samplers give what the packages give when called directly.

The direct calls are written as a user of each package would write them, on the package's own scaling and, for
diffusers, on its own timesteps; the bridge gets the sigmas that those timesteps mean.
"""

from __future__ import annotations

import importlib.util
import random
import sys

import numpy as np
import pytest
import torch
from oracles import PLUGINS, Replay, builtin, end, k_diffusion_sampling, mixture, normal, run_all, sampler

from samplers.noise import Noise
from samplers.registry import discover
from samplers.sampler import Stopped
from samplers.schedule import flow
from samplers.testing import GaussianDenoiser, end_of
from samplers.wrappers import Counted, Reported, Stoppable

# numpy 2 says this about torch's tensors, inside diffusers.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Should have t[ab]:UserWarning")

SIGMAS = (12.0, 5.0, 2.4, 1.1, 0.5, 0.2, 0.07, 0.0)
SHAPE = (2, 3, 3)
BRIDGED = [name for name in builtin().samplers if name.startswith(("k-diffusion ", "diffusers "))]
WHITE = ["euler_ancestral", "dpm_2_ancestral", "dpmpp_2s_ancestral"]
BROWNIAN = ["dpmpp_sde", "dpmpp_2m_sde", "dpmpp_3m_sde"]
NAMES = dict(
    euler="Euler",
    heun="Heun",
    dpm_2="DPM2",
    lms="LMS",
    dpmpp_2m="DPM++ 2M",
    euler_ancestral="Euler ancestral",
    dpm_2_ancestral="DPM2 ancestral",
    dpmpp_2s_ancestral="DPM++ 2S ancestral",
    dpmpp_sde="DPM++ SDE",
    dpmpp_2m_sde="DPM++ 2M SDE",
    dpmpp_3m_sde="DPM++ 3M SDE",
    dpm_fast="DPM fast",
    dpm_adaptive="DPM adaptive",
)


def start(images: int = 2) -> torch.Tensor:
    return SIGMAS[0] * normal(images, *SHAPE, seed=3)


def close(one: torch.Tensor, other: torch.Tensor, tolerance: float = 1e-10) -> None:
    assert (one - other).abs().max() <= tolerance, f"they differ by {(one - other).abs().max():.2e}"


def test_every_sampler_of_k_diffusion_has_a_bridge():
    offered = {name.removeprefix("sample_") for name in dir(k_diffusion_sampling()) if name.startswith("sample_")}
    assert offered == set(NAMES)
    assert {f"k-diffusion {name}" for name in NAMES.values()} <= set(BRIDGED)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("dpm_fast", "dpm_adaptive")])
def test_k_diffusion_bridged_equals_k_diffusion_called_directly(name):
    noise, options = Noise((5, 6)), {}
    if name in WHITE:
        options = dict(noise_sampler=lambda sigma, lower: noise(start()))
    if name in BROWNIAN:
        path = noise.brownian(start(), SIGMAS[-2], SIGMAS[0])
        inside = lambda s: min(max(float(s), SIGMAS[-2]), SIGMAS[0])  # noqa: E731
        options = dict(noise_sampler=lambda sigma, lower: path(inside(sigma), inside(lower)))
    sigmas = torch.tensor(SIGMAS, dtype=torch.float64)
    function = getattr(k_diffusion_sampling(), f"sample_{name}")
    direct = function(lambda x, sigma: mixture(SHAPE)(x, sigma[0]), start(), sigmas, disable=True, **options)
    close(end(sampler(f"k-diffusion {NAMES[name]}"), mixture(SHAPE), start(), SIGMAS, Noise((5, 6))), direct)


@pytest.mark.parametrize("name", ["dpm_fast", "dpm_adaptive"])
def test_k_diffusion_with_a_grid_of_its_own_equals_the_direct_call_and_one_denoising(name):
    one, options = start(1), dict(n=6) if name == "dpm_fast" else {}
    low, high = SIGMAS[-2], SIGMAS[0]
    function = getattr(k_diffusion_sampling(), f"sample_{name}")
    direct = function(lambda x, sigma: mixture(SHAPE)(x, sigma[0]), one, low, high, disable=True, **options)
    steps = run_all(sampler(f"k-diffusion {NAMES[name]}"), mixture(SHAPE), one, SIGMAS)
    close(steps[-2].x, direct)
    close(steps[-1].x, mixture(SHAPE)(direct, low))
    assert [step.sigma for step in steps] == sorted((step.sigma for step in steps), reverse=True)
    assert steps[-2].sigma == low and steps[-1].sigma == 0 and all(step.sigma < high for step in steps)


def test_k_diffusions_churn_is_drawn_from_our_streams():
    for name in ("Euler", "Heun"):
        ours = end(sampler(name), mixture(SHAPE), start(), SIGMAS, Noise((5, 6)), churn=3.0)
        close(end(sampler(f"k-diffusion {name}"), mixture(SHAPE), start(), SIGMAS, Noise((5, 6)), s_churn=3.0), ours)


def test_k_diffusion_asks_for_the_very_sigmas_of_the_list():
    asked = []
    watched = Reported(mixture(SHAPE), lambda sigma, denoised: asked.append(sigma))
    run_all(sampler("k-diffusion DPM++ 2M"), watched, start().float(), SIGMAS)
    assert asked == list(SIGMAS[:-1])


def test_k_diffusion_itself_stays_unimported(monkeypatch):
    monkeypatch.delitem(sys.modules, "k_diffusion", raising=False)
    monkeypatch.delitem(sys.modules, "k_diffusion.sampling", raising=False)
    end(sampler("k-diffusion Euler"), mixture(SHAPE), start(), SIGMAS)
    assert "k_diffusion" not in sys.modules


def with_diffusers(name: str, steps: int, scale: str, output: str, noises=None, setup=None, **config):
    """A user's loop: (the sigmas that it ran on, its end, from a state that our bridge can start from)."""
    scheduler = setup(name, config) if setup else getattr(__import__("diffusers"), name)(**config)
    if not setup:
        scheduler.set_timesteps(steps)
    given = getattr(scheduler, "sigmas", None)
    alphas = getattr(scheduler, "alphas_cumprod", None)
    state, sigmas, extra = None, [], {}
    for i, time in enumerate(scheduler.timesteps):
        sigma = float(given[i]) if given is not None else float(((1 - alphas[time]) / alphas[time]) ** 0.5)
        if scale == "flow":
            sigma = sigma / (1 - sigma)
        factor = dict(exploding=1.0, preserving=(1 + sigma**2) ** -0.5, flow=1 / (1 + sigma))[scale]
        state = sigma * normal(1, *SHAPE, seed=3) * factor if state is None else state
        if hasattr(scheduler, "is_scale_input_called"):
            scheduler.scale_model_input(state, time)
        x = state / factor
        denoised = mixture(SHAPE)(x, sigma)
        eps = (x - denoised) / sigma
        said = dict(x0=denoised, eps=eps, velocity=eps - denoised)[output]
        if noises is not None:
            extra = dict(generator=noises)
        state = scheduler.step(said, time, state, return_dict=False, **extra)[0]
        sigmas.append(sigma)
    last = float(given[-1]) if given is not None else 0.0
    sigmas = [*dict.fromkeys(sigmas), last / (1 - last) if scale == "flow" else last]
    return sigmas, state * (1 + last**2) ** 0.5 if scale == "preserving" else state


TABLE = dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
KARRAS = dict(TABLE, use_karras_sigmas=True)
THIRD = dict(KARRAS, solver_order=3)
SDE = dict(TABLE, algorithm_type="sde-dpmsolver++")
ALL_THE_WAY = dict(lower_order_final=False)
# name of ours, its options, the scheduler, steps, its scaling, what it is told the network says, its configuration
DIRECT = [
    ("DDIM", {}, "DDIMScheduler", 20, "preserving", "eps", dict(TABLE, clip_sample=False)),
    ("PNDM", {}, "PNDMScheduler", 20, "preserving", "eps", dict(TABLE, skip_prk_steps=True, set_alpha_to_one=True)),
    ("Euler", {}, "EulerDiscreteScheduler", 20, "exploding", "eps", KARRAS),
    ("Heun", {}, "HeunDiscreteScheduler", 10, "exploding", "eps", KARRAS),
    ("LMS", {}, "LMSDiscreteScheduler", 10, "exploding", "eps", KARRAS),
    ("DPM++ multistep", {}, "DPMSolverMultistepScheduler", 20, "preserving", "eps", KARRAS),
    ("DPM++ multistep", dict(order=3), "DPMSolverMultistepScheduler", 9, "preserving", "eps", THIRD),
    ("DPM++ singlestep", {}, "DPMSolverSinglestepScheduler", 9, "preserving", "eps", KARRAS),
    ("DPM++ singlestep", dict(order=3), "DPMSolverSinglestepScheduler", 8, "preserving", "eps", THIRD),
    ("UniPC", {}, "UniPCMultistepScheduler", 12, "preserving", "eps", KARRAS),
    ("UniPC", dict(order=3), "UniPCMultistepScheduler", 12, "preserving", "eps", THIRD),
    ("DEIS", {}, "DEISMultistepScheduler", 9, "preserving", "eps", KARRAS | ALL_THE_WAY),
    ("DEIS", dict(order=3), "DEISMultistepScheduler", 9, "preserving", "eps", THIRD | ALL_THE_WAY),
]


@pytest.mark.parametrize("case", DIRECT, ids=lambda case: f"{case[0]} {case[1] or ''}")
def test_diffusers_bridged_equals_diffusers_called_directly(case):
    name, options, scheduler, steps, scale, output, config = case
    sigmas, direct = with_diffusers(scheduler, steps, scale, output, **config)
    ours = end(sampler(f"diffusers {name}"), mixture(SHAPE), sigmas[0] * normal(1, *SHAPE, seed=3), sigmas, **options)
    # Its own state and alphas are float32 in places.
    close(ours, direct, 2e-5)


def test_flow_euler_equals_diffusers_called_directly():
    def setup(name, config):
        scheduler = getattr(__import__("diffusers"), name)(**config)
        scheduler.set_timesteps(sigmas=np.linspace(0.95, 0.05, 12))
        return scheduler

    sigmas, direct = with_diffusers("FlowMatchEulerDiscreteScheduler", 12, "flow", "velocity", setup=setup)
    x = sigmas[0] * normal(1, *SHAPE, seed=3)
    close(end(sampler("diffusers Flow Euler"), mixture(SHAPE), x, sigmas), direct, 2e-5)


def test_ipndm_equals_diffusers_called_directly():
    from diffusers import IPNDMScheduler

    sigmas = torch.tensor(SIGMAS)
    shares = (sigmas / (1 + sigmas**2).sqrt()).tolist()
    scheduler = IPNDMScheduler(trained_betas=shares)
    scheduler.set_timesteps(len(SIGMAS) - 1)
    state = start() / (1 + SIGMAS[0] ** 2) ** 0.5
    for sigma, time in zip(SIGMAS, scheduler.timesteps):
        root = (1 + sigma**2) ** 0.5
        denoised = mixture(SHAPE)(state * root, sigma)
        eps = (state * root - denoised) / sigma
        state = scheduler.step((eps - sigma * denoised) / root, time, state).prev_sample
    close(end(sampler("diffusers iPNDM"), mixture(SHAPE), start(), SIGMAS), state, 2e-5)


@pytest.mark.parametrize(
    ("name", "options", "scheduler", "config"),
    [
        ("DDPM", {}, "DDPMScheduler", dict(TABLE, clip_sample=False)),
        ("Euler ancestral", {}, "EulerAncestralDiscreteScheduler", TABLE),
        ("DPM++ multistep", dict(kind="SDE"), "DPMSolverMultistepScheduler", SDE),
        ("DPM++ singlestep", dict(kind="SDE"), "DPMSolverSinglestepScheduler", SDE),
    ],
)
def test_stochastic_diffusers_equals_the_direct_call_with_the_same_draws(name, options, scheduler, config):
    dtype = torch.float32 if "multistep" in name else torch.float64
    generator = torch.Generator().manual_seed(9)
    draws = [torch.randn(1, *SHAPE, generator=generator, dtype=dtype) for _ in range(12)]
    scale = "exploding" if name == "Euler ancestral" else "preserving"
    sigmas, direct = with_diffusers(scheduler, 12, scale, "eps", torch.Generator().manual_seed(9), **config)
    x = sigmas[0] * normal(1, *SHAPE, seed=3)
    close(end(sampler(f"diffusers {name}"), mixture(SHAPE), x, sigmas, Replay(draws), **options), direct, 5e-5)


@pytest.mark.parametrize(
    ("native", "options", "bridged", "theirs", "tolerance"),
    [
        ("Euler", {}, "k-diffusion Euler", {}, 1e-12),
        ("Euler", {}, "diffusers Euler", {}, 1e-5),
        ("Euler", {}, "diffusers DDIM", {}, 1e-12),
        ("Euler", {}, "diffusers DPM++ multistep", dict(order=1), 1e-5),
        ("DDIM", dict(eta=0.6), "diffusers DDIM", dict(eta=0.6), 1e-12),
        ("DDIM", dict(eta=0.6), "k-diffusion Euler ancestral", dict(eta=0.6), 1e-12),
        ("DDPM", {}, "diffusers DDPM", {}, 1e-12),
        ("DDPM", {}, "diffusers Euler ancestral", {}, 1e-5),
        ("DDPM", {}, "k-diffusion Euler ancestral", {}, 1e-12),
        ("Heun", {}, "k-diffusion Heun", {}, 1e-12),
        ("Heun", {}, "diffusers Heun", {}, 1e-12),
    ],
)
def test_the_founding_samplers_equal_their_bridged_namesakes(native, options, bridged, theirs, tolerance):
    ours = end(sampler(native), mixture(SHAPE), start(), SIGMAS, Noise((5, 6)), **options)
    close(ours, end(sampler(bridged), mixture(SHAPE), start(), SIGMAS, Noise((5, 6)), **theirs), tolerance)


@pytest.mark.parametrize("name", BRIDGED)
def test_previews_and_stop_reach_every_bridged_sampler(name):
    seen, chosen = [], sampler(name)
    counted = Counted(mixture(SHAPE), 2)
    watched = Reported(counted, lambda sigma, denoised: seen.append(denoised))
    steps = run_all(chosen, watched, start().float(), SIGMAS)
    assert chosen.count_calls(SIGMAS) in (None, counted.calls)
    assert len(seen) >= len(SIGMAS) - 1 and all(denoised.shape[1:] == SHAPE for denoised in seen)
    assert steps[-1].x.dtype == torch.float32 and steps[-1].sigma == 0
    stopping = Stoppable(watched, lambda: len(seen) > 3)
    seen.clear()
    with pytest.raises(Stopped):
        run_all(chosen, stopping, start().float(), SIGMAS)
    assert len(seen) == 4


@pytest.mark.parametrize("name", BRIDGED)
def test_an_image_does_not_depend_on_its_batch_and_nothing_global_moves(name):
    chosen, x = sampler(name), start(3)
    options = {option.name: 0.7 for option in chosen.options if option.name == "eta"}
    options |= {option.name: 2.0 for option in chosen.options if option.name == "s_churn"}
    options |= {option.name: "SDE" for option in chosen.options if option.name == "kind"}
    before, kept = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()), x.clone()
    together = end(chosen, mixture(SHAPE), x, SIGMAS, Noise((1, 2, 3)), **options)
    alone = end(chosen, mixture(SHAPE), x[1:2], SIGMAS, Noise((2,)), **options)
    assert torch.equal(before[0], torch.get_rng_state()) and before[1] == random.getstate()
    assert (before[2] == np.random.get_state()[1]).all() and torch.equal(x, kept)
    close(together[1:2], alone, 2e-5 if name.startswith("diffusers") else 1e-10)


@pytest.mark.parametrize("file", ["k_diffusion", "diffusers_schedulers"])
def test_a_missing_package_makes_the_plugin_broken_with_a_reason(file, monkeypatch, tmp_path):
    package = dict(k_diffusion="k_diffusion", diffusers_schedulers="diffusers")[file]
    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / f"{file}.py").write_text((PLUGINS / f"{file}.py").read_text())
    found = discover(tmp_path, packages=False)
    assert not found.samplers
    assert all(package.replace("_", "-") in broken.reason or package in broken.reason for broken in found.broken)
    assert found.broken and any("install" in broken.reason for broken in found.broken)


@pytest.mark.parametrize("file", ["k_diffusion", "diffusers_schedulers"])
def test_loading_a_bridge_imports_nothing_heavy(file, monkeypatch):
    heavy = ["diffusers", "k_diffusion", "sigmalab_k_diffusion", "scipy"]
    for name in heavy:
        monkeypatch.delitem(sys.modules, name, raising=False)
    spec = importlib.util.spec_from_file_location(f"lone_{file}", PLUGINS / f"{file}.py")
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    assert not [name for name in heavy if name in sys.modules]


@pytest.mark.parametrize("rtol, low, high", [(0.05, 1.0, 3.0), (0.001, 0.0, 0.01)])
def test_dpm_adaptive_is_as_far_off_on_flow_ranges_as_k_diffusion_itself(rtol, low, high):
    model, exact = flow(), GaussianDenoiser(0.0, 1.0)
    x = model.sigma_max * normal(1, 1, 16, 16)
    goal = exact.flow(x, model.sigma_max, model.sigma_min)
    denoise = lambda x, sigma: exact(x, float(sigma[0]))  # noqa: E731
    ends = model.sigma_min, model.sigma_max
    theirs = k_diffusion_sampling().sample_dpm_adaptive(denoise, x, *ends, rtol=rtol, disable=True)
    assert low <= ((theirs - goal).norm() / goal.norm()).item() <= high
    ours = end_of(sampler("k-diffusion DPM adaptive"), exact, x, (model.sigma_max, model.sigma_min), rtol=rtol)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
