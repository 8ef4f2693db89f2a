"""Ralston: a second look at the slope two thirds down the step, which costs the least error of all two-stage methods.

Ralston 1962, Mathematics of Computation 16, 431-437, equation 3.5, on the probability-flow ODE dx/dsigma =
(x - D(x, sigma)) / sigma (Karras et al. 2022, arXiv:2206.00364, equation 1). The node 1/2 is the midpoint method; near
1 it becomes Heun's. The second look is always above sigma 0, so that the last step is like the others.
"""

from itertools import pairwise
from typing import Annotated

from samplers import Range, Step, hookimpl, sampler

SIGMALAB_API = 1


@sampler("Ralston", order=2, calls=2, version="0.1.0", paper="doi:10.1090/S0025-5718-1962-0150954-0")
def ralston(
    denoise,
    x,
    sigmas,
    noise,
    *,
    node: Annotated[float, Range(0.5, 0.95, 0.01), "how far down the step the second look is"] = 2 / 3,
):
    weight = 1 / (2 * node)
    for sigma, lower in pairwise(sigmas):
        slope = (x - denoise(x, sigma)) / sigma
        between = sigma + node * (lower - sigma)
        ahead = x + (between - sigma) * slope
        denoised = denoise(ahead, between)
        x = x + (lower - sigma) * ((1 - weight) * slope + weight * (ahead - denoised) / between)
        yield Step(x, lower, denoised)


@hookimpl
def register_samplers():
    return [ralston]
