"""DPM-Solver++: exponential integrators on the denoised image, without noise and with it.

    k = 1 + eta    s = lower sqrt(1 - (lower / sigma)^(2 eta))
    x' = (lower / sigma)^k x + integral from lower to sigma of k lower^k / u^(k + 1) D(u) du + s noise

Lu et al. 2022, arXiv:2211.01095, in x0 + sigma * eps and lambda = -log sigma. eta 0 is the ODE, eta 1 the reverse SDE.
In the multistep samplers D(u) is the polynomial in lambda through the latest values; the singlestep ones make a second
network call within the step. The step to sigma 0 gives the denoised image.
"""

import math
from itertools import pairwise
from typing import Annotated

from samplers import Choice, Former, Range, Step, hookimpl, multistep_weights, sampler

Eta = Annotated[float, Range(0, 1, 0.05), "share of fresh noise: 0 is the ODE"]
Scale = Annotated[float, Range(0.9, 1.1, 0.001), "scale of the fresh noise"]
Solver = Annotated[str, Choice("midpoint", "heun"), "midpoint is the paper's; heun integrates the slope exactly"]
Refine = Annotated[bool, "improve the first step once its end is known, at no extra call; others do not"]
Longest = Annotated[float, Range(0.1, 10, 0.1), "longest step in log sigma that takes three values, not two"]
Path = Annotated[
    str,
    Choice("steps", "seed"),
    Former("1", "seed"),
    "what the fresh noise follows: the steps, or one Brownian path of the seed for every schedule, which is slow",
]
LONGEST = 0.2  # under guidance, a parabola through longer steps leaves the picture
PAPER = "arXiv:2211.01095"


def _two_calls(sigmas, **_):
    return 2 * (len(sigmas) - 1) - (sigmas[-1] == 0)


def _second_unless_noisy(eta, **_):
    return 2 if eta == 0 else None


def _third_unless_noisy(eta, refine_start, **_):
    return (3 if refine_start else 2) if eta == 0 else None


def _noisy(eta, **_):
    return eta > 0


@sampler("DPM++ 2M", order=2, calls=1, paper=PAPER)
def dpm_2m(denoise, x, sigmas, noise, *, solver: Solver = "midpoint"):
    """Algorithm 2 of the paper."""
    yield from _multistep(denoise, x, sigmas, noise, order=2, midpoint=solver == "midpoint")


@sampler("DPM++ 3M", order=lambda refine_start, **_: 3 if refine_start else 2, calls=1, paper=PAPER)
def dpm_3m(denoise, x, sigmas, noise, *, longest: Longest = LONGEST, refine_start: Refine = True):
    """Three values, with the exact weight of the second difference; published code has half of it, and order 2."""
    yield from _multistep(denoise, x, sigmas, noise, order=3, refine=refine_start, longest=longest)


@sampler("DPM++ 2M SDE", order=_second_unless_noisy, calls=1, stochastic=_noisy, version="2", paper=PAPER)
def dpm_2m_sde(
    denoise,
    x,
    sigmas,
    noise,
    *,
    eta: Eta = 1.0,
    solver: Solver = "midpoint",
    noise_scale: Scale = 1.0,
    path: Path = "steps",
):
    """The paper's SDE-DPM-Solver++(2M); at eta 0 it is DPM++ 2M."""
    yield from _multistep(denoise, x, sigmas, noise, 2, eta, noise_scale, midpoint=solver == "midpoint", along=path)


@sampler("DPM++ 3M SDE", order=_third_unless_noisy, calls=1, stochastic=_noisy, version="2", paper=PAPER)
def dpm_3m_sde(
    denoise,
    x,
    sigmas,
    noise,
    *,
    eta: Eta = 1.0,
    noise_scale: Scale = 1.0,
    path: Path = "steps",
    refine_start: Refine = True,
    longest: Longest = LONGEST,
):
    """The same with three values; at eta 0 it is DPM++ 3M."""
    more = dict(refine=refine_start, longest=longest, along=path)
    yield from _multistep(denoise, x, sigmas, noise, 3, eta, noise_scale, **more)


@sampler("DPM++ 2S", order=_second_unless_noisy, calls=_two_calls, stochastic=_noisy, paper=PAPER)
def dpm_2s(denoise, x, sigmas, noise, *, eta: Eta = 0.0, noise_scale: Scale = 1.0):
    """Algorithm 1 of the paper with r = 1/2; above eta 0 a step goes lower and noise lifts it back ("2S a")."""
    for sigma, lower in pairwise(sigmas):
        denoised = denoise(x, sigma)
        if lower == 0:
            x = denoised
        else:
            down, up = _ancestral(sigma, lower, eta)
            middle = math.sqrt(sigma * down)
            denoised = denoise(_toward(denoised, x, middle / sigma), middle)
            x = _toward(denoised, x, down / sigma)
            if up > 0:
                x = x + up * noise_scale * noise(x)
        yield Step(x, lower, denoised)


@sampler("DPM++ SDE", order=_second_unless_noisy, calls=_two_calls, stochastic=_noisy, version="2", paper=PAPER)
def dpm_sde(denoise, x, sigmas, noise, *, eta: Eta = 1.0, noise_scale: Scale = 1.0, path: Path = "steps"):
    """The 2S step with noise on its way too, as in k-diffusion: both noises are pieces of one Brownian path."""
    fresh = _path(noise, x, sigmas, eta, path)
    for sigma, lower in pairwise(sigmas):
        denoised = denoise(x, sigma)
        if lower == 0:
            x = denoised
        else:
            middle = math.sqrt(sigma * lower)
            down, up = _ancestral(sigma, middle, eta)
            halfway = _toward(denoised, x, down / sigma)
            if up > 0:
                halfway = halfway + up * noise_scale * fresh(sigma, middle)
            denoised = denoise(halfway, middle)
            down, up = _ancestral(sigma, lower, eta)
            x = _toward(denoised, x, down / sigma)
            if up > 0:
                x = x + up * noise_scale * fresh(sigma, lower)
        yield Step(x, lower, denoised)


def _multistep(
    denoise,
    x,
    sigmas,
    noise,
    order,
    eta=0.0,
    noise_scale=1.0,
    midpoint=False,
    refine=False,
    longest=math.inf,
    along="steps",
):
    fresh, k = _path(noise, x, sigmas, eta, along), 1 + eta
    history: list = []
    for sigma, lower in pairwise(sigmas):
        denoised = denoise(x, sigma)
        # The first step is of first order, and its error would rule the whole run; a line through both of its ends
        # repairs it, and leaves the noise that was added alone.
        if refine and order > 2 and len(history) == 1:
            before, first = history[0]
            x = x + _weights([sigma, before], before, sigma, k)[0] * (denoised - first)
        history = [(sigma, denoised), *history][:order]
        if lower == 0:
            x = denoised
        else:
            long = math.log(sigma / lower) > longest
            if long:
                history = history[:2]
            weights = (_midpoint if midpoint or long else _weights)([node for node, _ in history], sigma, lower, k)
            x = (lower / sigma) ** k * x + sum(weight * value for weight, (_, value) in zip(weights, history))
            if eta > 0:
                spread = math.sqrt(-math.expm1(2 * eta * math.log(lower / sigma)))
                x = x + lower * spread * noise_scale * fresh(sigma, lower)
        yield Step(x, lower, denoised)


def _weights(nodes, sigma, lower, k):
    return multistep_weights(nodes, sigma, lower, lambda u: k / u * (lower / u) ** k)


def _midpoint(nodes, sigma, lower, k):
    """The slope between the latest two, taken in the middle of the step."""
    whole = -math.expm1(k * math.log(lower / sigma))
    if len(nodes) == 1:
        return [whole]
    ahead = math.log(lower / sigma) / math.log(sigma / nodes[1]) / 2
    return [whole * (1 + ahead), -whole * ahead]


def _path(noise, x, sigmas, eta, along):
    """The Brownian path of the run; None where nothing will be drawn from it."""
    positive = [sigma for sigma in sigmas if sigma > 0]
    if eta == 0 or len(positive) < 2:
        return None
    return noise.increments(x) if along == "steps" else noise.brownian(x, positive[-1], positive[0])


def _ancestral(sigma, lower, eta):
    """(down, up) with down^2 + up^2 = lower^2: how far to go without noise, and how much noise to add."""
    up = eta * lower * math.sqrt(1 - (lower / sigma) ** 2)
    return math.sqrt(lower**2 - up**2), up


def _toward(denoised, x, kept):
    """The exact step for a constant denoised image; `kept` is the share of the noise that stays."""
    return denoised + kept * (x - denoised)


@hookimpl
def register_samplers():
    return [dpm_2m, dpm_2s, dpm_3m, dpm_2m_sde, dpm_sde, dpm_3m_sde]
