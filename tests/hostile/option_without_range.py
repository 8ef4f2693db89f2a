"""Declares an option that no slider could be made for."""

from samplers import Step, hookimpl, sampler


@sampler("Option without a range")
def unlimited(denoise, x, sigmas, noise, *, eta: float = 0.0):
    yield Step(denoise(x, sigmas[0]), sigmas[-1], x)


@hookimpl
def register_samplers():
    return [unlimited]
