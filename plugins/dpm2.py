"""DPM2 (DPM-Solver-2): a step along the slope at its middle in log sigma.

    m = sqrt(sigma lower)
    h = x + (m - sigma) (x - D(x, sigma)) / sigma
    x' = x + (lower - sigma) (h - D(h, m)) / m

Lu et al. 2022, arXiv:2206.00927, algorithm 1 with r = 1/2. The step to sigma 0 gives the denoised image.
"""

import math
from itertools import pairwise

from samplers import Step, hookimpl, sampler


@sampler("DPM2", order=2, calls=lambda sigmas: 2 * (len(sigmas) - 1) - (sigmas[-1] == 0), paper="arXiv:2206.00927")
def dpm2(denoise, x, sigmas, noise):
    for sigma, lower in pairwise(sigmas):
        denoised = denoise(x, sigma)
        if lower == 0:
            x = denoised
        else:
            middle = math.sqrt(sigma * lower)
            halfway = x + (middle - sigma) * (x - denoised) / sigma
            denoised = denoise(halfway, middle)
            x = x + (lower - sigma) * (halfway - denoised) / middle
        yield Step(x, lower, denoised)


@hookimpl
def register_samplers():
    return [dpm2]
