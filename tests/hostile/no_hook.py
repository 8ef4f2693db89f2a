"""Has a sampler and forgets to offer it."""

from samplers import Step, sampler


@sampler("No hook")
def no_hook(denoise, x, sigmas, noise):
    yield Step(denoise(x, sigmas[0]), sigmas[-1], x)
