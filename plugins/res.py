"""RES: exponential Runge-Kutta and multistep methods whose weights satisfy all conditions of their order.

    k = 1 + eta    h = k log(sigma / lower)    phi(h) = 1 - (1 - e^-h) / h
    2S          m = sigma (lower / sigma)^middle, D_m = D(m) from x by the step to m
                x' = e^-h x + (1 - e^-h) D + phi(h) / middle (D_m - D) + noise
    multistep   x' = lower / sigma x + integral from lower to sigma of lower / u^2 D(u) du, D(u) a line in log u

Zhang et al. 2023, arXiv:2308.02157, on the denoised image. 2S at middle 1 is the exponential Heun method. The
multistep method is that of DPM++ 2M with solver heun. The step to sigma 0 gives the denoised image.
"""

import math
from itertools import pairwise
from typing import Annotated

from samplers import Range, Step, hookimpl, multistep_weights, sampler

PAPER = "arXiv:2308.02157"


@sampler("RES multistep", order=2, calls=1, paper=PAPER)
def multistep(denoise, x, sigmas, noise):
    history: list = []
    for sigma, lower in pairwise(sigmas):
        denoised = denoise(x, sigma)
        history = [(sigma, denoised), *history][:2]
        if lower == 0:
            x = denoised
        else:
            weights = multistep_weights([level for level, _ in history], sigma, lower, lambda u, to=lower: to / (u * u))
            x = lower / sigma * x + sum(weight * value for weight, (_, value) in zip(weights, history))
        yield Step(x, lower, denoised)


@sampler(
    "RES 2S",
    order=lambda eta, **_: 2 if eta == 0 else None,
    calls=lambda sigmas, **_: 2 * (len(sigmas) - 1) - (sigmas[-1] == 0),
    stochastic=lambda eta, **_: eta > 0,
    paper=PAPER,
)
def singlestep(
    denoise,
    x,
    sigmas,
    noise,
    *,
    middle: Annotated[float, Range(0.1, 1, 0.05), "where the second call is, in log sigma; 1 is at the end"] = 0.5,
    eta: Annotated[float, Range(0, 1, 0.05), "share of fresh noise: 0 is the ODE"] = 0.0,
):
    """Above eta 0 it solves the reverse SDE: the noise of both parts of a step is that of its exact solution."""
    k = 1 + eta
    for sigma, lower in pairwise(sigmas):
        denoised = first = denoise(x, sigma)
        if lower == 0:
            x = first
        else:
            level = lower if middle == 1 else sigma * (lower / sigma) ** middle
            fresh = _fresh(noise, x, sigma, level, eta)
            denoised = denoise(first + (level / sigma) ** k * (x - first) + fresh, level)
            h = k * math.log(sigma / lower)
            slope = (1 + math.expm1(-h) / h) / middle
            x = first + (lower / sigma) ** k * (x - first) + slope * (denoised - first)
            x = x + (lower / level) ** k * fresh + _fresh(noise, x, level, lower, eta)
        yield Step(x, lower, denoised)


def _fresh(noise, x, sigma, lower, eta):
    """The noise that the reverse SDE adds from sigma to lower."""
    if eta == 0 or lower == sigma:
        return 0.0
    return lower * math.sqrt(-math.expm1(2 * eta * math.log(lower / sigma))) * noise(x)


@hookimpl
def register_samplers():
    return [multistep, singlestep]
