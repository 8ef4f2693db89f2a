"""Loops without calling the network or yielding, and survives `except Exception`."""

from samplers import Step, hookimpl, sampler


@sampler("Loops")
def loops(denoise, x, sigmas, noise):
    error = 1.0
    while error > 0:
        try:
            error = error + 1.0
        except Exception:
            pass
    yield Step(x, sigmas[-1], x)


@sampler("Beside the loop")
def beside(denoise, x, sigmas, noise):
    yield Step(denoise(x, sigmas[0]), sigmas[-1], x)


@hookimpl
def register_samplers():
    return [loops, beside]
