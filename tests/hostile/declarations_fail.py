"""Its declared order cannot be computed."""

from samplers import Step, hookimpl, sampler


@sampler("Declarations fail", order=lambda eta: 1)
def undescribed(denoise, x, sigmas, noise):
    yield Step(denoise(x, sigmas[0]), sigmas[-1], x)


@hookimpl
def register_samplers():
    return [undescribed]
