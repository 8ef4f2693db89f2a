"""SEEDS-3: a third-order exponential integrator of the reverse SDE, three calls a step.

    k = 1 + eta    h = k log(sigma / lower)    phi(h) = 1 - (1 - e^-h) / h    m_i = sigma (lower / sigma)^(i / 3)
    x_1 = (m_1 / sigma)^k (x - D) + D + n_1
    x_2 = (m_2 / sigma)^k (x - D) + D + 2 phi(2 h / 3) (D(x_1, m_1) - D) + n_2
    x'  = (lower / sigma)^k (x - D) + D + 3 / 2 phi(h) (D(x_2, m_2) - D) + n_3

Gonzalez et al. 2023, arXiv:2305.14267, on the denoised image. The n_i are one solution of the linear SDE at the three
levels. At eta 0 it is the third-order exponential scheme of DPM-Solver. The step to sigma 0 gives the denoised image.
"""

import math
from itertools import pairwise
from typing import Annotated

from samplers import Range, Step, hookimpl, sampler


@sampler(
    "SEEDS-3",
    order=lambda eta, **_: 3 if eta == 0 else None,
    calls=lambda sigmas, **_: 3 * (len(sigmas) - 1) - 2 * (sigmas[-1] == 0),
    stochastic=lambda eta, **_: eta > 0,
    paper="arXiv:2305.14267",
)
def seeds_3(
    denoise,
    x,
    sigmas,
    noise,
    *,
    eta: Annotated[float, Range(0, 1, 0.05), "share of fresh noise: 0 is the ODE"] = 1.0,
):
    k = 1 + eta
    for sigma, lower in pairwise(sigmas):
        denoised = first = denoise(x, sigma)
        if lower == 0:
            x = first
        else:
            ratio = (lower / sigma) ** (1 / 3)
            one, two = sigma * ratio, sigma * ratio**2
            h = k * math.log(sigma / lower)
            fresh = _fresh(noise, x, sigma, one, eta)
            denoised = denoise(first + ratio**k * (x - first) + fresh, one)
            fresh = ratio**k * fresh + _fresh(noise, x, one, two, eta)
            ahead = 2 * _phi(2 * h / 3) * (denoised - first)
            denoised = denoise(first + ratio ** (2 * k) * (x - first) + ahead + fresh, two)
            fresh = ratio**k * fresh + _fresh(noise, x, two, lower, eta)
            x = first + (lower / sigma) ** k * (x - first) + 1.5 * _phi(h) * (denoised - first) + fresh
        yield Step(x, lower, denoised)


def _phi(h):
    return 1 + math.expm1(-h) / h


def _fresh(noise, x, sigma, lower, eta):
    if eta == 0:
        return 0.0
    return lower * math.sqrt(-math.expm1(2 * eta * math.log(lower / sigma))) * noise(x)


@hookimpl
def register_samplers():
    return [seeds_3]
