"""Fails in its second step."""

from itertools import pairwise

from samplers import Step, hookimpl, sampler


@sampler("Raises")
def raises(denoise, x, sigmas, noise):
    for sigma, lower in pairwise(sigmas):
        denoised = denoise(x, sigma)
        x = denoised + lower / (sigma - sigmas[1]) * (x - denoised)
        yield Step(x, lower, denoised)


@hookimpl
def register_samplers():
    return [raises]
