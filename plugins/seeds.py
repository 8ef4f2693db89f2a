"""SEEDS-2: a second-order exponential integrator of the reverse SDE.

    m = sqrt(sigma lower)    q = (m / sigma)^(1 + eta)    s = sqrt(1 - (m / sigma)^(2 eta))
    h = D(x, sigma) + q (x - D(x, sigma)) + m s noise_1
    x' = D(h, m) + q^2 (x - D(h, m)) + q m s noise_1 + lower s noise_2

Gonzalez et al. 2023, arXiv:2305.14267, on the denoised image, with its middle in log sigma. Both stages share the noise
of the first half, weighted as in the exact solution of the linear SDE. At eta 0 it is DPM++ 2S. The step to sigma 0
gives the denoised image.
"""

import math
from itertools import pairwise
from typing import Annotated

from samplers import Range, Step, hookimpl, sampler


@sampler(
    "SEEDS-2",
    order=lambda eta, **_: 2 if eta == 0 else None,
    calls=lambda sigmas, **_: 2 * (len(sigmas) - 1) - (sigmas[-1] == 0),
    stochastic=lambda eta, **_: eta > 0,
    paper="arXiv:2305.14267",
)
def seeds_2(
    denoise,
    x,
    sigmas,
    noise,
    *,
    eta: Annotated[float, Range(0, 1, 0.05), "share of fresh noise: 0 is the ODE"] = 1.0,
    noise_scale: Annotated[float, Range(0.9, 1.1, 0.001), "scale of the fresh noise"] = 1.0,
):
    for sigma, lower in pairwise(sigmas):
        denoised = denoise(x, sigma)
        if lower == 0:
            x = denoised
        else:
            middle = math.sqrt(sigma * lower)
            # Both halves are equally long in log sigma, so they share these two numbers.
            half, spread = (middle / sigma) ** (1 + eta), math.sqrt(-math.expm1(2 * eta * math.log(middle / sigma)))
            halfway, fresh = denoised + half * (x - denoised), 0.0
            if eta > 0:
                fresh = middle * spread * noise_scale * noise(x)
                halfway = halfway + fresh
            denoised = denoise(halfway, middle)
            x = denoised + half**2 * (x - denoised) + half * fresh
            if eta > 0:
                x = x + lower * spread * noise_scale * noise(x)
        yield Step(x, lower, denoised)


@hookimpl
def register_samplers():
    return [seeds_2]
