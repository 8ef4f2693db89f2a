"""DDPM: draw from the posterior q(x_lower | x, x0) with the network's estimate D in place of x0.

    k = lower^2 / sigma^2
    x' = (1 - k) D + k x + lower sqrt(1 - k) noise

Ho, Jain & Abbeel 2020, arXiv:2006.11239, equations 6 and 7 with the posterior variance ("fixed small"), for any two
noise levels, in x0 + sigma * eps.
"""

import math
from itertools import pairwise

from samplers import Step, hookimpl, sampler


@sampler("DDPM", calls=1, stochastic=True, paper="arXiv:2006.11239")
def ddpm(denoise, x, sigmas, noise):
    for sigma, lower in pairwise(sigmas):
        denoised = denoise(x, sigma)
        kept = (lower / sigma) ** 2
        x = (1 - kept) * denoised + kept * x
        if lower > 0:
            x = x + lower * math.sqrt(1 - kept) * noise(x)
        yield Step(x, lower, denoised)


@hookimpl
def register_samplers():
    return [ddpm]
