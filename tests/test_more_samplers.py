"""Samplers beside DDPM, DDIM, Euler and Flow: order, equality with other packages, identities, moments."""

import contextlib
import math
import statistics
from itertools import pairwise

import pytest
import torch
from oracles import (
    Exact,
    Recorded,
    Replay,
    Silence,
    end,
    k_diffusion_sampling,
    mixture,
    normal,
    run_all,
    sampler,
    schedule,
    sd,
)
from scipy.integrate import quad

from samplers import multistep_weights
from samplers.noise import Noise
from samplers.testing import GaussianDenoiser, geometric, measure_order
from samplers.wrappers import Counted

SHAPE = (2, 1, 3, 3)
# torchsde rounds the ends of a path to six digits and says so; diffusers uses numpy in ways that end with numpy 3.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Should have t:UserWarning"),
    pytest.mark.filterwarnings("ignore:__array:DeprecationWarning"),
]

ODE = [
    ("Heun", {}),
    ("DPM2", {}),
    ("LMS", {}),
    ("LMS", dict(order=3)),
    ("LMS", dict(order=2)),
    ("DEIS", {}),
    ("DEIS", dict(clock="time")),
    ("DEIS", dict(order=2)),
    ("iPNDM", {}),
    ("iPNDM", dict(order=1)),
    ("DPM++ 2M", {}),
    ("DPM++ 2M", dict(solver="heun")),
    ("DPM++ 2S", {}),
    ("DPM++ 3M", {}),
    ("DPM++ 2M SDE", dict(eta=0.0)),
    ("DPM++ SDE", dict(eta=0.0)),
    ("DPM++ 3M SDE", dict(eta=0.0)),
    ("UniPC", dict(order=1)),
    ("UniPC", {}),
    ("UniPC", dict(variant="exact")),
    ("UniPC", dict(order=3)),
    ("SEEDS-2", dict(eta=0.0)),
    ("Restart", dict(times=0)),
]
SDE = [
    ("Heun", dict(churn=10.0)),
    ("DPM++ 2S", dict(eta=1.0)),
    ("DPM++ 2M SDE", {}),
    ("DPM++ 2M SDE", dict(eta=0.5, solver="heun")),
    ("DPM++ SDE", {}),
    ("DPM++ 3M SDE", {}),
    ("SEEDS-2", {}),
    ("SEEDS-2", dict(eta=0.5)),
    ("ER-SDE", {}),
    ("ER-SDE", dict(stages=1)),
    ("Restart", {}),
    ("Restart", dict(times=2, restart_steps=12, low=0.5, high=5.0)),
    ("LCM", {}),
]


BROWNIAN = ("DPM++ SDE", "DPM++ 2M SDE", "DPM++ 3M SDE")


def cases(listed):
    names = [" ".join([name, *(f"{key}={value}" for key, value in options.items())]) for name, options in listed]
    return pytest.mark.parametrize("name, options", listed, ids=names)


def modes():
    return mixture(SHAPE[1:])


def start(sigma: float = 14.6) -> torch.Tensor:
    return sigma * normal(*SHAPE)


def grid(steps: int = 9) -> tuple[float, ...]:
    return schedule("Karras")(sd(), steps)


# --- order


@pytest.fixture(scope="module")
def hard():
    """A mixture, its starts, and their ends to 1e-8, extrapolated from those of DPM2 after Richardson."""
    denoise, x = mixture((1, 2, 2), 3), 10 * normal(40, 1, 2, 2, seed=2)
    coarse, fine = (end(sampler("DPM2"), denoise, x, geometric(10.0, 0.3, n), Silence()) for n in (500, 1000))
    return denoise, x, fine + (fine - coarse) / 3


# With default options samplers.testing measures the same, see test_testing_kit.py.
@cases([(name, options) for name, options in ODE if options])
def test_measured_order_is_the_declared_one_on_a_gaussian(name, options):
    assert abs(measure_order(sampler(name), **options) - sampler(name).order_of(**options)) < 0.2


@cases(ODE)
def test_measured_order_is_the_declared_one_on_a_mixture(name, options, hard):
    denoise, x, exact = hard
    errors = []
    for n in (64, 256):
        final = end(sampler(name), denoise, x, geometric(10.0, 0.3, n), Silence(), **options)
        # The median: a few paths pass a watershed, where errors do not shrink in order.
        errors.append(statistics.median((final - exact).flatten(1).norm(dim=1).tolist()))
    assert abs(math.log(errors[0] / errors[-1]) / math.log(4) - sampler(name).order_of(**options)) < 0.2


@pytest.mark.parametrize("name, options", [("DPM++ 3M", {}), ("DEIS", {"order": 3}), ("LMS", {"order": 4})])
def test_a_start_that_is_not_refined_limits_the_order_to_two(name, options):
    chosen = sampler(name)
    assert chosen.order_of(**options | {"refine_start": False}) == 2
    fine = (300, 600)
    unrefined = measure_order(chosen, fine, refine_start=False, **options)
    assert unrefined < 2.25 < 2.75 < measure_order(chosen, fine, **options)


def test_the_published_third_order_multistep_is_of_second_order_and_ours_is_of_third():
    stds = torch.linspace(0.3, 1.5, 9, dtype=torch.float64).reshape(1, 1, 3, 3)
    denoise, x = GaussianDenoiser(0.3, stds), start(10.0)
    errors = {"theirs": [], "ours": []}
    for n in (60, 240):
        sigmas = geometric(10.0, 0.1, n)
        exact = denoise.flow(x, 10.0, 0.1)
        errors["theirs"].append((k_diffusion("dpmpp_3m_sde", denoise, x, sigmas, eta=0.0) - exact).abs().max())
        errors["ours"].append((end(sampler("DPM++ 3M"), denoise, x, sigmas, Silence()) - exact).abs().max())
    theirs, ours = (math.log(coarse / fine) / math.log(4) for coarse, fine in errors.values())
    assert theirs < 2.2 and ours > 2.8 and errors["ours"][0] < errors["theirs"][0] / 5


# --- somebody else's


def k_diffusion(name, denoise, x, sigmas, **options):
    function = getattr(k_diffusion_sampling(), f"sample_{name}")
    model = lambda x, sigma: denoise(x, sigma[0].item())  # noqa: E731
    return function(model, x, torch.tensor(sigmas, dtype=torch.float64), disable=True, **options)


@pytest.mark.parametrize("sigmas", [grid(2), grid(9), schedule("Uniform leading")(sd(), 7)], ids=len)
@pytest.mark.parametrize(
    "name, options, theirs, given",
    [
        ("Heun", {}, "heun", {}),
        ("DPM2", {}, "dpm_2", {}),
        ("LMS", dict(order=4, refine_start=False), "lms", {}),
        ("LMS", dict(order=2), "lms", dict(order=2)),
        ("DPM++ 2M", {}, "dpmpp_2m", {}),
        ("DPM++ 2M", dict(solver="heun"), "dpmpp_2m_sde", dict(eta=0.0, solver_type="heun")),
        ("DPM++ 2S", {}, "dpmpp_2s_ancestral", dict(eta=0.0)),
        ("DPM++ 2S", {}, "dpmpp_sde", dict(eta=0.0)),
    ],
)
def test_a_deterministic_one_equals_k_diffusion(name, options, theirs, given, sigmas):
    # k-diffusion's LMS goes on with its polynomial to sigma 0; ours ends with the denoised image, as all others do.
    sigmas = sigmas[:-1] if name == "LMS" else sigmas
    expected = k_diffusion(theirs, modes(), start(sigmas[0]), sigmas, **given)
    mine = end(sampler(name), modes(), start(sigmas[0]), sigmas, Silence(), **options)
    assert (mine - expected).abs().max() < 1e-11


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("steps", [2, 5])
@pytest.mark.parametrize(
    "name, options, theirs, given",
    [
        ("DPM++ 2M SDE", {}, "dpmpp_2m_sde", {}),
        ("DPM++ 2M SDE", dict(solver="heun", noise_scale=1.01), "dpmpp_2m_sde", dict(solver_type="heun", s_noise=1.01)),
        ("DPM++ SDE", {}, "dpmpp_sde", {}),
    ],
)
def test_an_sde_equals_k_diffusion_on_one_brownian_path(name, options, theirs, given, steps, eta):
    sigmas, x, seeds = grid(steps), start(grid(steps)[0]), (4, 9)
    path = Noise(seeds).brownian(x, sigmas[-2], sigmas[0])
    pieces = lambda sigma, lower: path(float(sigma), float(lower))  # noqa: E731
    expected = k_diffusion(theirs, modes(), x, sigmas, eta=eta, noise_sampler=pieces, **given)
    mine = end(sampler(name), modes(), x, sigmas, Noise(seeds), eta=eta, path="seed", **options)
    assert (mine - expected).abs().max() < 1e-11


def test_the_third_order_sde_equals_k_diffusion_up_to_its_first_step_of_third_order():
    sigmas, x = grid(3), start(grid(3)[0])
    path = Noise((4, 9)).brownian(x, sigmas[-2], sigmas[0])
    pieces = lambda sigma, lower: path(float(sigma), float(lower))  # noqa: E731
    expected = k_diffusion("dpmpp_3m_sde", modes(), x, sigmas, noise_sampler=pieces)
    options = dict(refine_start=False, longest=10.0, path="seed")
    mine = end(sampler("DPM++ 3M SDE"), modes(), x, sigmas, Noise((4, 9)), **options)
    assert (mine - expected).abs().max() < 1e-11


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("eta", [0.4, 1.0])
def test_ancestral_2s_equals_k_diffusion_on_the_same_draws(steps, eta):
    sigmas, draws = grid(steps), [normal(*SHAPE, seed=70 + i) for i in range(steps)]
    order = iter(draws)
    given = dict(eta=eta, noise_sampler=lambda *_: next(order))
    expected = k_diffusion("dpmpp_2s_ancestral", modes(), start(), sigmas, **given)
    mine = end(sampler("DPM++ 2S"), modes(), start(), sigmas, Replay(draws), eta=eta)
    assert (mine - expected).abs().max() < 1e-11


@contextlib.contextmanager
def double():
    """diffusers makes coefficients in the default dtype."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def diffusers(scheduler, denoise, x, sigmas):
    """The end of a diffusers scheduler on our sigmas, whose state is x / sqrt(1 + sigma^2)."""
    scheduler.set_timesteps(len(sigmas) - 1)
    scheduler.sigmas = torch.tensor(sigmas, dtype=torch.float64)
    scheduler.set_begin_index(0)
    with double():
        for timestep, sigma, lower in zip(scheduler.timesteps, sigmas, sigmas[1:]):
            scale = math.sqrt(1 + sigma * sigma)
            eps = (x - denoise(x, sigma)) / sigma
            # Exact: some schedulers round their state to float32 by themselves.
            state = (x / scale).as_subclass(Exact)
            x = scheduler.step(eps, timestep, state).prev_sample.as_subclass(torch.Tensor)
            x = x * math.sqrt(1 + lower * lower)
    assert x.dtype == torch.float64
    return x


SD = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", lower_order_final=False)


@pytest.mark.parametrize("sigmas", [grid(9)[:-1], (8.0, 3.0), geometric(12.0, 0.2, 12)], ids=len)
@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc_equals_diffusers(order, sigmas):
    from diffusers import UniPCMultistepScheduler

    theirs = UniPCMultistepScheduler(**SD, solver_order=order, solver_type="bh2")
    expected = diffusers(theirs, modes(), start(sigmas[0]), sigmas)
    mine = end(sampler("UniPC"), modes(), start(sigmas[0]), sigmas, Silence(), order=order)
    assert (mine - expected).abs().max() < 1e-10


@pytest.mark.parametrize("sigmas", [grid(9)[:-1], (8.0, 3.0), geometric(12.0, 0.2, 12)], ids=len)
@pytest.mark.parametrize("order", [1, 2, 3])
def test_deis_equals_diffusers(order, sigmas):
    from diffusers import DEISMultistepScheduler

    expected = diffusers(DEISMultistepScheduler(**SD, solver_order=order), modes(), start(sigmas[0]), sigmas)
    options = dict(order=order, refine_start=False)
    mine = end(sampler("DEIS"), modes(), start(sigmas[0]), sigmas, Silence(), **options)
    assert (mine - expected).abs().max() < 1e-10


@pytest.mark.parametrize("solver", ["midpoint", "heun"])
def test_dpm_2m_equals_diffusers(solver):
    from diffusers import DPMSolverMultistepScheduler

    sigmas = grid(9)[:-1]
    theirs = DPMSolverMultistepScheduler(**SD, solver_order=2, solver_type=solver, final_sigmas_type="sigma_min")
    expected = diffusers(theirs, modes(), start(sigmas[0]), sigmas)
    mine = end(sampler("DPM++ 2M"), modes(), start(sigmas[0]), sigmas, Silence(), solver=solver)
    assert (mine - expected).abs().max() < 1e-10


# --- coefficients


@pytest.mark.parametrize("sigma, lower", [(14.6, 6.0), (1.0, 0.999), (999.0, 0.001)])
@pytest.mark.parametrize("nodes", [(1.0,), (1.0, 1.5), (0.7, 1.0, 1.5), (1.0, 1.5, 4.0, 9.0)])
@pytest.mark.parametrize("clock", [math.log, lambda u: u, math.atan], ids=["log", "identity", "atan"])
def test_weights_are_the_integrals_of_lagrange_polynomials(nodes, sigma, lower, clock):
    nodes = [node * sigma for node in nodes]
    weights = multistep_weights(nodes, sigma, lower, lambda u: 2 * lower**2 / u**3, clock)
    for j, weight in enumerate(weights):

        def integrand(log_u, j=j):
            u, basis = math.exp(log_u), 1.0
            for k, node in enumerate(nodes):
                if k != j:
                    basis *= (clock(u) - clock(node)) / (clock(nodes[j]) - clock(node))
            return 2 * (lower / u) ** 2 * basis

        expected = quad(integrand, math.log(lower), math.log(sigma), epsabs=1e-14, epsrel=1e-12, limit=500)[0]
        assert weight == pytest.approx(expected, rel=1e-9, abs=1e-11)


def test_er_sde_with_two_stages_is_the_formula_of_its_paper():
    def phi(u):
        return u * (math.exp(u**0.3) + 10)

    denoise, sigmas = modes(), (9.0, 5.0, 2.0, 0.7)
    draws, x, before = [normal(*SHAPE, seed=70 + i) for i in range(3)], start(9.0), None
    for i, (sigma, lower) in enumerate(pairwise(sigmas)):
        denoised, kept = denoise(x, sigma), phi(lower) / phi(sigma)
        step = kept * x + (1 - kept) * denoised
        if before is not None:
            slope = (denoised - before) / (sigma - sigmas[i - 1])
            step = step + (lower - sigma + phi(lower) * quad(lambda u: 1 / phi(u), lower, sigma)[0]) * slope
        x, before = step + math.sqrt(lower**2 - (sigma * kept) ** 2) * draws[i], denoised
    assert (end(sampler("ER-SDE"), denoise, start(9.0), sigmas, Replay(draws), stages=2) - x).abs().max() < 1e-10


# --- identities


@pytest.mark.parametrize(
    "one, other",
    [
        (("DPM++ 2S", {}), ("DPM++ SDE", dict(eta=0.0))),
        (("DPM++ 2S", {}), ("SEEDS-2", dict(eta=0.0))),
        (("DPM++ 2M", {}), ("DPM++ 2M SDE", dict(eta=0.0))),
        (("DPM++ 2M", dict(solver="heun")), ("DPM++ 2M SDE", dict(eta=0.0, solver="heun"))),
        (("DPM++ 3M", {}), ("DPM++ 3M SDE", dict(eta=0.0))),
        (("Restart", dict(times=0)), ("Heun", {})),
        (("LMS", dict(order=1)), ("Euler", {})),
        (("iPNDM", dict(order=1)), ("Euler", {})),
        (("DEIS", dict(order=1)), ("Euler", {})),
        (("ER-SDE", dict(stages=1)), ("LCM", {})),
    ],
)
@pytest.mark.parametrize("sigmas", [grid(1), grid(8), grid(8)[:-1]], ids=len)
def test_the_same_method_under_two_names_is_the_same(one, other, sigmas):
    if one[0] == "ER-SDE":
        sigmas = (sigmas[0], 0.0)
    first, second = (end(sampler(name), modes(), start(), sigmas, Silence(), **more) for name, more in (one, other))
    assert (first - second).abs().max() < 1e-12


def test_on_equal_steps_ipndm_is_lms_from_an_euler_start():
    sigmas = tuple(12.0 - i for i in range(12))
    final = end(sampler("iPNDM"), modes(), start(12.0), sigmas, Silence(), order=4)
    other = end(sampler("LMS"), modes(), start(12.0), sigmas, Silence(), order=4, refine_start=False)
    assert (final - other).abs().max() < 1e-11


@cases(ODE)
@pytest.mark.parametrize("sigmas", [(14.6, 0.0), (14.6, 3.0, 0.0), (14.6, 0.5), grid(7)], ids=len)
def test_a_constant_denoiser_is_solved_exactly_and_noise_is_not_drawn(name, options, sigmas):
    target = normal(*SHAPE, seed=9)
    final = end(sampler(name), lambda x, sigma: target, start(), sigmas, Silence(), **options)
    assert (final - (target + sigmas[-1] / sigmas[0] * (start() - target))).abs().max() < 1e-12


# --- lists, batches and inputs


@cases([*ODE, *SDE])
def test_one_step_gives_the_denoised_image_and_every_list_takes_the_declared_calls(name, options):
    denoise, chosen = modes(), sampler(name)
    if not options.get("churn"):
        assert torch.equal(end(chosen, denoise, start(), (14.6, 0.0), Silence(), **options), denoise(start(), 14.6))
    for steps in (1, 2, 3, 7, 20):
        if name in BROWNIAN and steps > 3 and options.get("eta") != 0:
            continue  # the path is slow to make, and the calls do not depend on it
        for sigmas in (grid(steps), geometric(14.6, 0.05, steps), grid(20)[-steps - 1 :]):
            counted = Counted(denoise, SHAPE[0])
            steps_made = run_all(chosen, counted, start(sigmas[0]), sigmas, **options)
            assert counted.calls == chosen.count_calls(sigmas, **options)
            assert [step.sigma for step in steps_made] == list(sigmas[1:])
            assert all(torch.isfinite(step.x).all() for step in steps_made)


@cases(SDE)
def test_an_image_of_a_batch_equals_the_image_alone(name, options):
    together = end(sampler(name), modes(), start(), grid(5), Noise((11, 5)), **options)
    for i, seed in enumerate((11, 5)):
        alone = end(sampler(name), modes(), start()[i : i + 1], grid(5), Noise((seed,)), **options)
        assert (together[i : i + 1] - alone).abs().max() < 1e-12
        assert not torch.equal(alone, end(sampler(name), modes(), start()[i : i + 1], grid(5), Noise((99,)), **options))


@cases([*ODE, *SDE])
def test_float32_follows_float64(name, options):
    fine, coarse = (
        end(sampler(name), modes(), start().to(dtype), grid(7), Noise((1, 2)), **options)
        for dtype in (torch.float64, torch.float32)
    )
    assert coarse.dtype == torch.float32 and (fine - coarse).abs().max() < 1e-4


def test_restart_goes_back_up_inside_the_schedule_only():
    def asked(sigmas, **options):
        denoise = Recorded(modes())
        run_all(sampler("Restart"), denoise, start(sigmas[0]), sigmas, restart_steps=2, **options)
        return denoise.sigmas

    karras = ((2 ** (1 / 7) + 0.5 ** (1 / 7)) / 2) ** 7
    once = asked((8.0, 0.5, 0.02, 0.0), low=0.1, high=2.0)
    assert once == pytest.approx([8.0, 0.5, 2.0, karras, karras, 0.5, 0.5, 0.02, 0.02])
    # img2img that starts below `high` is lifted to its start; one that starts below `low`, not at all.
    assert max(asked((1.0, 0.5, 0.02, 0.0), low=0.1, high=2.0)) == 1.0
    assert asked((0.08, 0.02, 0.0), low=0.1, high=2.0) == [0.08, 0.02, 0.02]


# --- moments


def spread(name, options, std, steps, size=150):
    """The spread of samples over that of the data, which a denoiser at the lowest level would leave a little low."""
    sigmas = schedule("Exponential")(sd(), steps)
    x = torch.zeros(1, 1, size, size, dtype=torch.float64)
    x = x + sigmas[0] * Noise((7,), "initial")(x)
    final = end(sampler(name), GaussianDenoiser(0.4, std), x, sigmas, Noise((7,)), **options)
    return final.std().item() / (std * std / math.sqrt(std * std + sigmas[-2] ** 2))


@cases([case for case in SDE if case[0] != "LCM"])
def test_samples_of_a_gaussian_have_its_spread(name, options):
    # Four standard errors of a spread over 22,500 numbers are 0.019; the rest is for the steps being finite.
    allowed = 0.12 if options.get("stages") == 1 else 0.035
    assert spread(name, options, 0.3, 50) == pytest.approx(1.0, abs=allowed)


@cases([case for case in SDE if case[0] in ("SEEDS-2", "ER-SDE", "Restart", "DPM++ 2S")])
def test_samples_of_a_gaussian_have_its_spread_with_many_steps(name, options):
    assert spread(name, options, 0.7, 200) == pytest.approx(1.0, abs=0.02)


def test_lcm_puts_fresh_noise_on_each_denoised_image():
    denoise, sigmas, draws = modes(), (9.0, 4.0, 1.0, 0.0), [normal(*SHAPE, seed=70 + i) for i in range(2)]
    x = denoise(denoise(denoise(start(9.0), 9.0) + 4.0 * draws[0], 4.0) + draws[1], 1.0)
    replay = Replay(draws)
    assert torch.equal(end(sampler("LCM"), denoise, start(9.0), sigmas, replay), x) and replay.taken == 2
