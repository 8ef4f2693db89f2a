"""The schedules that ship with the program: at which noise levels a run asks the network.

`model` is the NoiseSchedule that the network was trained on. Uniform ones are uniform in its timestep; the three
spacings are those of Lin et al. 2023, arXiv:2305.08891, table 2.
"""

import math
from typing import Annotated

from samplers import Range, hookimpl, schedule

WHOLE = "use whole timesteps only, as other programs do"


@schedule("Uniform leading", paper="arXiv:2305.08891")
def leading(model, steps, *, offset: Annotated[int, Range(0, 10), "timesteps that the grid is moved up by"] = 1):
    """Every (T // steps)-th timestep counted from the bottom, as Stable Diffusion 1 does.

    It never quite reaches the top, and with more than T / 2 steps starts as low as the middle. On flow models it equals
    trailing, whose grid already begins one stride above no noise.
    """
    span = model.top - model.origin
    stride = span / steps if model.flow else span // steps
    # A schedule with as many steps as the model has none to be moved by.
    moved = min(offset, model.top - stride * (steps - 1)) if not model.flow else stride
    return [model.sigma(stride * i + moved) for i in reversed(range(steps))]


@schedule("Uniform trailing", paper="arXiv:2305.08891")
def trailing(model, steps, *, whole: Annotated[bool, WHOLE] = True):
    """Counted from the top: always starts at the highest noise, which few steps need."""
    span = model.top - model.origin
    # Counted down as numpy.arange does, bit by bit, so that ties round to the timestep that diffusers takes.
    stride = (span - span / steps) - span
    return _sigmas(model, [span + stride * i for i in range(steps)], whole, model.origin)


@schedule("Uniform linspace", paper="arXiv:2305.08891")
def linspace(model, steps, *, whole: Annotated[bool, WHOLE] = True):
    """From the top to the very bottom, both included."""
    # Counted up from the bottom, as numpy.linspace does, so that ties round to the timestep that diffusers takes.
    stride = (model.top - model.bottom) / max(1, steps - 1)
    return _sigmas(model, [model.top, *(model.bottom + stride * i for i in reversed(range(steps - 1)))], whole)


@schedule("Karras", paper="arXiv:2206.00364")
def karras(
    model,
    steps,
    *,
    rho: Annotated[float, Range(1, 20, 0.5), "7 spends most steps at low noise; 1 is uniform in sigma"] = 7.0,
):
    """sigma^(1/rho) falls linearly. Karras et al. 2022, equation 5."""
    high, low = model.sigma_max ** (1 / rho), model.sigma_min ** (1 / rho)
    return [(high + (low - high) * i / max(1, steps - 1)) ** rho for i in range(steps)]


@schedule("Exponential")
def exponential(model, steps):
    """log sigma falls linearly, so log-SNR rises linearly: constant ratios between neighbours."""
    high, low = math.log(model.sigma_max), math.log(model.sigma_min)
    return [math.exp(high + (low - high) * i / max(1, steps - 1)) for i in range(steps)]


def _sigmas(model, timesteps, whole, origin=0.0):
    if whole and not model.flow:
        timesteps = [float(round(timestep)) for timestep in timesteps]
    return [model.sigma(timestep + origin) for timestep in timesteps]


@hookimpl
def register_schedules():
    return [leading, trailing, linspace, karras, exponential]
