"""Heun's method: an Euler step, repeated with the mean of the slopes at both of its ends, with optional churn.

    d(x, sigma) = (x - D(x, sigma)) / sigma
    e = x + (lower - sigma) d(x, sigma)
    x' = x + (lower - sigma) (d(x, sigma) + d(e, lower)) / 2

Karras et al. 2022, arXiv:2206.00364, algorithm 2. The step to sigma 0 is Euler's, which gives the denoised image.
"""

import math
from itertools import pairwise
from typing import Annotated

from samplers import Range, Step, hookimpl, sampler


def _calls(sigmas, **_):
    return 2 * (len(sigmas) - 1) - (sigmas[-1] == 0)


@sampler(
    "Heun",
    order=lambda churn, **_: None if churn > 0 else 2,
    calls=_calls,
    stochastic=lambda churn, **_: churn > 0,
    paper="arXiv:2206.00364",
)
def heun(
    denoise,
    x,
    sigmas,
    noise,
    *,
    churn: Annotated[float, Range(0, 100, 0.5), "noise added and removed again, in all; 0 is the plain ODE"] = 0.0,
    churn_from: Annotated[float, Range(0, 100, 0.1), "highest sigma that is churned; 0 is no limit"] = 0.0,
    churn_to: Annotated[float, Range(0, 10, 0.01), "lowest sigma that is churned"] = 0.0,
    churn_noise: Annotated[float, Range(0.9, 1.1, 0.001), "scale of the added noise"] = 1.0,
):
    gamma = min(churn / (len(sigmas) - 1), math.sqrt(2) - 1)
    for sigma, lower in pairwise(sigmas):
        if gamma > 0 and churn_to <= sigma <= (churn_from or math.inf):
            raised = sigma * (1 + gamma)
            x = x + math.sqrt(raised**2 - sigma**2) * churn_noise * noise(x)
            sigma = raised
        denoised = denoise(x, sigma)
        if lower == 0:
            x = denoised
        else:
            slope = (x - denoised) / sigma
            ahead = x + (lower - sigma) * slope
            denoised = denoise(ahead, lower)
            x = x + (lower - sigma) / 2 * (slope + (ahead - denoised) / lower)
        yield Step(x, lower, denoised)


@hookimpl
def register_samplers():
    return [heun]
