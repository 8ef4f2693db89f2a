"""DDIM: step to the lower noise level along the predicted noise, replacing a share of it by fresh noise.

    up = eta lower sqrt(1 - lower^2 / sigma^2)
    x' = D + sqrt(lower^2 - up^2) (x - D) / sigma + up noise

Song, Meng & Ermon 2020, arXiv:2010.02502, equations 12 and 16, in x0 + sigma * eps. eta 0 is Euler; eta 1 is DDPM.
"""

import math
from itertools import pairwise
from typing import Annotated

from samplers import Range, Step, hookimpl, sampler


@sampler(
    "DDIM", order=lambda eta: 1 if eta == 0 else None, calls=1, stochastic=lambda eta: eta > 0, paper="arXiv:2010.02502"
)
def ddim(
    denoise,
    x,
    sigmas,
    noise,
    *,
    eta: Annotated[float, Range(0, 1, 0.05), "share of fresh noise: 0 is deterministic, 1 is DDPM"] = 0.0,
):
    for sigma, lower in pairwise(sigmas):
        denoised = denoise(x, sigma)
        up = eta * lower * math.sqrt(1 - (lower / sigma) ** 2)
        x = denoised + math.sqrt(lower**2 - up**2) / sigma * (x - denoised)
        if up > 0:
            x = x + up * noise(x)
        yield Step(x, lower, denoised)


@hookimpl
def register_samplers():
    return [ddim]
