"""Returns the picture instead of yielding steps."""

from samplers import hookimpl, sampler


@sampler("Not a generator")
def returns(denoise, x, sigmas, noise):
    return denoise(x, sigmas[0])


@hookimpl
def register_samplers():
    return [returns]
