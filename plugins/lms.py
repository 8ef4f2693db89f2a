"""Linear multistep methods on the predicted noise: LMS, DEIS and iPNDM, one call a step.

    x' = x - integral from lower to sigma of eps(u) du    eps = (x - D) / sigma

eps(u) is the polynomial through the latest values: in sigma (LMS), in log sigma or the time of a variance-preserving
process (DEIS), or in the number of the step, whatever its length (iPNDM). The step to sigma 0 gives the denoised image.
iPNDM-v of other programs, which is iPNDM with true step lengths, is LMS.
"""

import math
from itertools import pairwise
from typing import Annotated

from samplers import Choice, Range, Step, hookimpl, multistep_weights, sampler

Refine = Annotated[
    bool, "from order 3 on, improve the first step once its end is known, at no extra call; other programs do not"
]
ORDER = "values that are blended: 1 is Euler; above 2, few steps under guidance give noise"
# Adams-Bashforth coefficients for steps of one length, the newest value first.
ADAMS_BASHFORTH = ((1,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))


def _order(order, refine_start, **_):
    # An Euler start leaves second order. LMS with 4 is seen to be of fourth order down to errors of 1e-8.
    return order if refine_start else min(order, 2)


@sampler("LMS", order=_order, calls=1, paper="arXiv:2206.00364")
def lms(
    denoise,
    x,
    sigmas,
    noise,
    *,
    order: Annotated[int, Range(1, 4, 1), ORDER] = 2,
    refine_start: Refine = True,
):
    """Adams-Bashforth with the true step lengths, as Crowson's k-diffusion has it on the ODE of Karras et al. 2022."""

    def weigh(nodes, sigma, lower):
        return multistep_weights(nodes, sigma, lower, lambda u: -1.0, clock=lambda u: u)

    yield from _multistep(denoise, x, sigmas, order, weigh, refine_start)


@sampler("DEIS", order=_order, calls=1, paper="arXiv:2204.13902")
def deis(
    denoise,
    x,
    sigmas,
    noise,
    *,
    order: Annotated[int, Range(1, 3, 1), ORDER] = 2,
    clock: Annotated[str, Choice("log sigma", "time"), "variable of the polynomial"] = "log sigma",
    refine_start: Refine = True,
):
    """Zhang & Chen 2022, "tAB" with the clock time, in x0 + sigma * eps, where eps has the weight dsigma."""
    variable = math.log if clock == "log sigma" else _vp_time

    def weigh(nodes, sigma, lower):
        return multistep_weights(nodes, sigma, lower, lambda u: -1.0, variable)

    yield from _multistep(denoise, x, sigmas, order, weigh, refine_start)


@sampler("iPNDM", order=lambda order: min(order, 2), calls=1, paper="arXiv:2204.13902")
def ipndm(denoise, x, sigmas, noise, *, order: Annotated[int, Range(1, 4, 1), ORDER] = 2):
    """Zhang & Chen 2022, after Liu et al. 2022, arXiv:2202.09778: coefficients of equal steps always.

    On a schedule of unequal steps that is of second order, with a small error, and steady at very few steps.
    """

    def weigh(nodes, sigma, lower):
        return [(lower - sigma) * share for share in ADAMS_BASHFORTH[len(nodes) - 1]]

    yield from _multistep(denoise, x, sigmas, order, weigh, refine=False)


def _multistep(denoise, x, sigmas, order, weigh, refine):
    """weigh(nodes, sigma, lower) gives the weights of eps at the sigmas `nodes`, the newest first."""
    history: list = []
    for sigma, lower in pairwise(sigmas):
        denoised = denoise(x, sigma)
        eps = (x - denoised) / sigma
        # The first step is Euler's, whose error would rule the whole run; a line through both of its ends repairs it.
        if refine and order > 2 and len(history) == 1:
            before, first = history[0]
            x = x + weigh([sigma, before], before, sigma)[0] * (eps - first)
        history = [(sigma, eps), *history][:order]
        if lower == 0:
            x = denoised
        else:
            weights = weigh([node for node, _ in history], sigma, lower)
            x = x + sum(weight * value for weight, (_, value) in zip(weights, history))
        yield Step(x, lower, denoised)


def _vp_time(sigma):
    """t of the VP process of Song et al. 2021, arXiv:2011.13456: log(1 + sigma^2) = 0.1 t + 19.9 t^2 / 2."""
    return (math.sqrt(0.01 + 2 * 19.9 * math.log1p(sigma * sigma)) - 0.1) / 19.9


@hookimpl
def register_samplers():
    return [lms, deis, ipndm]
