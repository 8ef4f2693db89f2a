"""LCM: jump to the denoised image and add fresh noise of the next level. For distilled models only.

    x' = D(x, sigma) + lower noise

Multistep consistency sampling: Song et al. 2023, arXiv:2303.01469, algorithm 1, as latent consistency models use it
(Luo et al. 2023, arXiv:2310.04378). A model that was not distilled for it gives pictures of too little contrast.
"""

from itertools import pairwise
from typing import Annotated

from samplers import Range, Step, hookimpl, sampler, schedule


@sampler("LCM", calls=1, stochastic=True, paper="arXiv:2310.04378", distilled=True)
def lcm(denoise, x, sigmas, noise):
    for sigma, lower in pairwise(sigmas):
        x = denoised = denoise(x, sigma)
        if lower > 0:
            x = denoised + lower * noise(denoised)
        yield Step(x, lower, denoised)


@schedule("LCM", paper="arXiv:2310.04378")
def lcm_timesteps(
    model,
    steps,
    *,
    original: Annotated[int, Range(1, 200), "steps of the solver that the model was distilled from"] = 50,
):
    """Every so many of the timesteps that a model was distilled at, from the top: 999, 759, 499, 259 for 4 of 50.

    These are (original - j) / original of the range for j = floor(i original / steps) (Luo et al. 2023, section 4.3).
    More steps than `original` have as many places.
    """
    places, span = max(original, steps), model.top - model.origin
    jumps = (i * places // steps for i in range(steps))
    return [model.sigma(model.origin + span * (places - jump) / places) for jump in jumps]


@hookimpl
def register_samplers():
    return [lcm]


@hookimpl
def register_schedules():
    return [lcm_timesteps]
