"""Declares one network call a step and makes two."""

from itertools import pairwise

from samplers import Step, hookimpl, sampler


@sampler("Lies about calls", calls=1)
def lies(denoise, x, sigmas, noise):
    for sigma, lower in pairwise(sigmas):
        denoised = (denoise(x, sigma) + denoise(x, sigma)) / 2
        x = x + (lower - sigma) * (x - denoised) / sigma
        yield Step(x, lower, denoised)


@hookimpl
def register_samplers():
    return [lies]
