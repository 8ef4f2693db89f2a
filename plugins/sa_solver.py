"""SA-Solver: a stochastic Adams method, whose next call also corrects the step that led to it.

    k = 1 + tau^2    s = lower sqrt(1 - (lower / sigma)^(2 tau^2))
    x' = (lower / sigma)^k x + integral from lower to sigma of k lower^k / u^(k + 1) D(u) du + s noise

Xue et al. 2023, arXiv:2309.05019, algorithm 1 on the denoised image, with a constant tau: 0 is the ODE, and then the
exact variant of UniPC, 1 the reverse SDE. D(u) is the polynomial in log u through the latest values; the corrector adds
the one at the end of the step, and keeps the step's noise. The step to sigma 0 gives the denoised image.
"""

import math
from itertools import pairwise
from typing import Annotated

from samplers import Range, Step, hookimpl, multistep_weights, sampler


@sampler(
    "SA-Solver",
    order=lambda tau, order: order + 1 if tau == 0 else None,
    calls=1,
    stochastic=lambda tau, **_: tau > 0,
    paper="arXiv:2309.05019",
)
def sa_solver(
    denoise,
    x,
    sigmas,
    noise,
    *,
    tau: Annotated[float, Range(0, 1, 0.05), "share of fresh noise: 0 is the ODE, 1 the reverse SDE"] = 1.0,
    order: Annotated[int, Range(1, 3, 1), "values that predict; the corrector takes one more"] = 2,
):
    history: list = []
    before = None
    for sigma, lower in pairwise(sigmas):
        denoised = denoise(x, sigma)
        if before is not None:
            start, high, fresh = before
            x = _step(start, high, sigma, [(sigma, denoised), *history], tau) + fresh
        history = [(sigma, denoised), *history][:order]
        if lower == 0:
            x = denoised
        else:
            fresh = lower * math.sqrt(-math.expm1(2 * tau**2 * math.log(lower / sigma))) * noise(x) if tau > 0 else 0.0
            before = x, sigma, fresh
            x = _step(x, sigma, lower, history, tau) + fresh
        yield Step(x, lower, denoised)


def _step(x, sigma, lower, values, tau):
    k = 1 + tau**2
    weights = multistep_weights([node for node, _ in values], sigma, lower, lambda u: k / u * (lower / u) ** k)
    return (lower / sigma) ** k * x + sum(weight * value for weight, (_, value) in zip(weights, values))


@hookimpl
def register_samplers():
    return [sa_solver]
