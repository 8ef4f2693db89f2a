"""Waits where nothing can interrupt it."""

import time

from samplers import Step, hookimpl, sampler


@sampler("Sleeps")
def sleeps(denoise, x, sigmas, noise):
    time.sleep(30)
    yield Step(x, sigmas[-1], x)


@hookimpl
def register_samplers():
    return [sleeps]
