"""ER-SDE: an SDE between the ODE and the reverse SDE, with much noise early and little late.

    phi(u) = u (exp(u^0.3) + 10)    k = phi(lower) / phi(sigma)
    x' = k x + integral from lower to sigma of phi(lower) phi'(u) / phi(u)^2 D(u) du + sqrt(lower^2 - (k sigma)^2) noise

Cui et al. 2023, arXiv:2309.06169: its solvers for VE with the noise scale function of its ER SDE 5. D(u) is the
polynomial in sigma through the latest values; the paper's third stage lacks its second-order part in the first
derivative.
"""

import math
from itertools import pairwise
from typing import Annotated

from samplers import Range, Step, hookimpl, multistep_weights, sampler


@sampler("ER-SDE", calls=1, stochastic=True, paper="arXiv:2309.06169")
def er_sde(
    denoise,
    x,
    sigmas,
    noise,
    *,
    stages: Annotated[int, Range(1, 3, 1), "values in the polynomial"] = 3,
    noise_scale: Annotated[float, Range(0.9, 1.1, 0.001), "scale of the fresh noise"] = 1.0,
):
    history: list = []
    for sigma, lower in pairwise(sigmas):
        denoised = denoise(x, sigma)
        history = [(sigma, denoised), *history][:stages]
        if lower == 0:
            x = denoised
        else:
            kept, density = _phi(lower) / _phi(sigma), lambda u, lower=lower: _phi(lower) * _slope(u) / _phi(u) ** 2
            weights = multistep_weights([node for node, _ in history], sigma, lower, density, clock=lambda u: u)
            x = kept * x + sum(weight * value for weight, (_, value) in zip(weights, history))
            x = x + math.sqrt(lower**2 - (kept * sigma) ** 2) * noise_scale * noise(x)
        yield Step(x, lower, denoised)


def _phi(u):
    return u * (math.exp(u**0.3) + 10)


def _slope(u):
    """The derivative of phi."""
    return math.exp(u**0.3) * (1 + 0.3 * u**0.3) + 10


@hookimpl
def register_samplers():
    return [er_sde]
