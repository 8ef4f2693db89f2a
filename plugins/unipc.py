"""UniPC: each call both corrects the step that led to it and predicts the next one.

    x' = lower / sigma x + integral from lower to sigma of lower / u^2 D(u) du

Zhao et al. 2023, arXiv:2302.04867, algorithms 1 and 2 on the denoised image. D(u) is the polynomial through the latest
values; integrating it exactly equals solving the paper's linear system. The paper's B(h) cancels, except where it
replaces the system of two values by 1/2 ("bh2"). The last prediction is not corrected: that would cost a call. The
step to sigma 0 gives the denoised image.
"""

import math
from itertools import pairwise
from typing import Annotated

from samplers import Choice, Range, Step, hookimpl, multistep_weights, sampler


# One more than the predictor's, by the correction: so the paper shows, and so it measures, down to errors of 1e-8.
@sampler("UniPC", order=lambda order, **_: order + 1, calls=1, paper="arXiv:2302.04867")
def unipc(
    denoise,
    x,
    sigmas,
    noise,
    *,
    order: Annotated[int, Range(1, 3, 1), "values that predict; 2 with guidance, 3 without"] = 2,
    variant: Annotated[str, Choice("bh2", "exact"), "rule for two values: the paper's 1/2, or exact"] = "bh2",
):
    history: list = []
    before = None
    for sigma, lower in pairwise(sigmas):
        denoised = denoise(x, sigma)
        if before is not None:
            x = _step(*before, sigma, [(sigma, denoised), *history], variant)
        history = [(sigma, denoised), *history][:order]
        before = x, sigma
        x = denoised if lower == 0 else _step(x, sigma, lower, history, variant)
        yield Step(x, lower, denoised)


def _step(x, sigma, lower, values, variant):
    """From sigma to lower with the polynomial through values, (node, denoised) of any levels, the newest first."""
    nodes = [node for node, _ in values]
    if variant == "bh2" and len(nodes) == 2:
        # Weight 1/2 on the difference of the two, per length of the step in log sigma over their distance.
        share = (1 - lower / sigma) / 2 * math.log(sigma / lower) / math.log(nodes[1] / nodes[0])
        rest = 1 - lower / sigma
        weights = [share, rest - share] if nodes[0] == lower else [rest + share, -share]
    else:
        weights = multistep_weights(nodes, sigma, lower, lambda u: lower / (u * u))
    return lower / sigma * x + sum(weight * denoised for weight, (_, denoised) in zip(weights, values))


@hookimpl
def register_samplers():
    return [unipc]
