"""Does all the work and yields nothing."""

from itertools import pairwise

from samplers import Step, hookimpl, sampler


@sampler("Never yields")
def never_yields(denoise, x, sigmas, noise):
    for sigma, lower in pairwise(sigmas):
        x = x + (lower - sigma) * (x - denoise(x, sigma)) / sigma
    if x is None:
        yield Step(x, 0.0, x)


@hookimpl
def register_samplers():
    return [never_yields]
