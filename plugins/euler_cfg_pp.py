"""CFG++: a step keeps the noise of the unconditional estimate U, and goes towards the guided one.

    D = U + share (guided - U)    lambda = share * guidance scale
    Euler      x' = D + lower / sigma (x - U)
    DPM++ 2M   x' = D + lower / sigma (x - U) + (1 - lower / sigma) / (2 r) (U - U_before)

Chung et al. 2024, arXiv:2406.08070, where lambda is from 0 to 1. Its pairs of lambda and CFG's scale are 0.4 and 5, 0.6
and 7.5, 1 and 12.5, so that share 0.08 leaves the guidance scale what one is used to. With share 1 it is lambda itself,
as in ComfyUI. r is the length of the step before over that of this one, in log sigma.
"""

import math
from itertools import pairwise
from typing import Annotated

from samplers import Range, Step, hookimpl, sampler

Share = Annotated[float, Range(0.01, 1, 0.01), "lambda for each 1 of the guidance scale; 1 is ComfyUI's"]
PAPER = "arXiv:2406.08070"


@sampler(
    "Euler CFG++",
    order=lambda eta, **_: 1 if eta == 0 else None,
    calls=1,
    stochastic=lambda eta, **_: eta > 0,
    paper=PAPER,
)
def euler(
    denoise,
    x,
    sigmas,
    noise,
    *,
    share: Share = 0.08,
    eta: Annotated[float, Range(0, 1, 0.05), "share of fresh noise: 0 is Euler, 1 Euler ancestral"] = 0.0,
):
    for sigma, lower in pairwise(sigmas):
        denoised, unconditional = _parts(denoise, x, sigma, share)
        up = eta * lower * math.sqrt(1 - (lower / sigma) ** 2)
        x = denoised + math.sqrt(lower**2 - up**2) / sigma * (x - unconditional)
        if up > 0:
            x = x + up * noise(x)
        yield Step(x, lower, denoised)


@sampler("DPM++ 2M CFG++", order=2, calls=1, paper=PAPER)
def dpm_2m(denoise, x, sigmas, noise, *, share: Share = 0.08):
    before = None
    for sigma, lower in pairwise(sigmas):
        denoised, unconditional = _parts(denoise, x, sigma, share)
        x = denoised + lower / sigma * (x - unconditional)
        if before is not None and lower > 0:
            r = math.log(before[0] / sigma) / math.log(sigma / lower)
            x = x + (1 - lower / sigma) / (2 * r) * (unconditional - before[1])
        before = sigma, unconditional
        yield Step(x, lower, denoised)


def _parts(denoise, x, sigma, share):
    guided, _, unconditional = denoise.parts(x, sigma)
    return unconditional + share * (guided - unconditional), unconditional


@hookimpl
def register_samplers():
    return [euler, dpm_2m]
