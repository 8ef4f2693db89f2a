"""LCM: jump to the denoised image and add fresh noise of the next level. For distilled models only.

    x' = D(x, sigma) + lower noise

Multistep consistency sampling: Song et al. 2023, arXiv:2303.01469, algorithm 1, as latent consistency models use it
(Luo et al. 2023, arXiv:2310.04378). A model that was not distilled for it gives pictures of too little contrast.
"""

from itertools import pairwise

from samplers import Step, hookimpl, sampler


@sampler("LCM", calls=1, stochastic=True, paper="arXiv:2310.04378", distilled=True)
def lcm(denoise, x, sigmas, noise):
    for sigma, lower in pairwise(sigmas):
        x = denoised = denoise(x, sigma)
        if lower > 0:
            x = denoised + lower * noise(denoised)
        yield Step(x, lower, denoised)


@hookimpl
def register_samplers():
    return [lcm]
