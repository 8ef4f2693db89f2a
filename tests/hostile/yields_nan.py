"""Divides by sigma where it is 0."""

from itertools import pairwise

from samplers import Step, hookimpl, sampler


@sampler("Yields NaN")
def yields_nan(denoise, x, sigmas, noise):
    for sigma, lower in pairwise(sigmas):
        denoised = denoise(x, sigma)
        noise_in_x = (x - denoised) / sigma
        x = denoised + lower * noise_in_x / (
            noise_in_x.new_tensor(lower) / lower if lower else noise_in_x.new_zeros(())
        )
        yield Step(x, lower, denoised)


@hookimpl
def register_samplers():
    return [yields_nan]
