"""Restart: Heun's method that returns to a higher noise level once or more, on fresh noise, which contracts its errors.

    x(high) = x(bottom) + sqrt(high^2 - bottom^2) noise

Xu et al. 2023, arXiv:2306.14878, with one interval; bottom is the last level of the schedule that is not below `low`.
From `high`, `restart_steps` steps lead back to bottom on a grid of Karras et al. A schedule that starts below `high`,
as that of img2img may, returns only to its start. The reported steps are those of the schedule.
"""

import math
from itertools import pairwise
from typing import Annotated

from samplers import Range, Step, hookimpl, sampler


def _calls(sigmas, times, restart_steps, low, high):
    detour = times * 2 * restart_steps if _detour(sigmas, restart_steps, low, high) else 0
    return 2 * (len(sigmas) - 1) - (sigmas[-1] == 0) + detour


@sampler(
    "Restart",
    order=lambda times, **_: None if times else 2,
    calls=_calls,
    stochastic=lambda times, **_: times > 0,
    paper="arXiv:2306.14878",
)
def restart(
    denoise,
    x,
    sigmas,
    noise,
    *,
    times: Annotated[int, Range(0, 10, 1), "how often to go back up; 0 is Heun"] = 1,
    restart_steps: Annotated[int, Range(1, 50, 1), "steps of each way down, of two calls each"] = 9,
    low: Annotated[float, Range(0.01, 10, 0.01), "sigma from which it goes back up"] = 0.1,
    high: Annotated[float, Range(0.05, 100, 0.05), "sigma to which it goes back up"] = 2.0,
):
    detour = _detour(sigmas, restart_steps, low, high)
    for sigma, lower in pairwise(sigmas):
        x, denoised = _heun(denoise, x, sigma, lower)
        if detour and lower == detour[-1]:
            for _ in range(times):
                x = x + math.sqrt(detour[0] ** 2 - lower**2) * noise(x)
                for a, b in pairwise(detour):
                    x, denoised = _heun(denoise, x, a, b)
        yield Step(x, lower, denoised)


def _detour(sigmas, steps, low, high):
    """The levels from the upper to the lower end of the interval, or none if the schedule does not pass it."""
    bottom, top = min((sigma for sigma in sigmas if sigma >= low), default=math.inf), min(high, sigmas[0])
    if bottom > top * (1 - 1e-3):
        return ()
    first, last = top ** (1 / 7), bottom ** (1 / 7)
    return (top, *((first + (last - first) * i / steps) ** 7 for i in range(1, steps)), bottom)


def _heun(denoise, x, sigma, lower):
    """(x at lower, the latest denoised)."""
    denoised = denoise(x, sigma)
    if lower == 0:
        return denoised, denoised
    slope = (x - denoised) / sigma
    ahead = x + (lower - sigma) * slope
    denoised = denoise(ahead, lower)
    return x + (lower - sigma) / 2 * (slope + (ahead - denoised) / lower), denoised


@hookimpl
def register_samplers():
    return [restart]
