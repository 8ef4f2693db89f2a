"""Euler's method on the probability-flow ODE, with optional churn.

    x' = x + (lower - sigma) (x - D(x, sigma)) / sigma

Karras et al. 2022, arXiv:2206.00364, algorithm 2 without the second-order correction. Without churn it is DDIM with
eta 0. Churn first raises sigma to sigma (1 + gamma) with fresh noise.
"""

import math
from itertools import pairwise
from typing import Annotated

from samplers import Range, Step, hookimpl, sampler


@sampler(
    "Euler",
    order=lambda churn, **_: 1 if churn == 0 else None,
    calls=1,
    stochastic=lambda churn, **_: churn > 0,
    paper="arXiv:2206.00364",
)
def euler(
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
        # x + (lower - sigma) * (x - denoised) / sigma, without its cancellation in float32 at high noise.
        x = denoised + lower / sigma * (x - denoised)
        yield Step(x, lower, denoised)


@hookimpl
def register_samplers():
    return [euler]
