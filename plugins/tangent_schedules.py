"""Schedules made of tangents: the cosine one, and two arcs that meet in the middle.

`model` is the NoiseSchedule that the network was trained on; both start at its sigma_max and end at its sigma_min.
"""

import math
from typing import Annotated

from samplers import Range, hookimpl, schedule


@schedule("Cosine", paper="arXiv:2102.09672")
def cosine(model, steps):
    """sigma = tan(a) with a falling evenly: alpha is cos(a), the cosine schedule of Nichol & Dhariwal, no offset."""
    high, low = math.atan(model.sigma_max), math.atan(model.sigma_min)
    angles = (high + (low - high) * i / (steps - 1) for i in range(1, steps))
    return [model.sigma_max, *(max(model.sigma_min, math.tan(angle)) for angle in angles)]


@schedule("Bong tangent")
def bong_tangent(
    model,
    steps,
    *,
    middle: Annotated[float, Range(0.1, 0.9, 0.05), "height at which the two arcs meet"] = 0.5,
    pivot: Annotated[float, Range(0.1, 0.9, 0.05), "share of the steps after which they meet"] = 0.6,
    slope: Annotated[float, Range(0.01, 1, 0.01), "steepness where they meet, for 40 steps"] = 0.2,
):
    """Two arcs of the arc tangent over flow time t = sigma / (1 + sigma), flat at both ends: RES4LYF's bong_tangent.

    The first falls from 1 to `middle`, the second on to 0; what is above 0 is stretched over the model's range of t.
    """
    count = steps + 2
    turn = min(max(2, int(count * pivot)), count - 1)
    steep = slope * 40 / count
    heights = _arc(turn, steep, turn, 1.0, middle)[:-1] + _arc(count - turn, steep, 0, middle, 0.0)
    high, low = (sigma / (1 + sigma) for sigma in (model.sigma_max, model.sigma_min))
    last = heights[-2]
    times = (low + (high - low) * (height - last) / (1 - last) for height in heights[1:-1])
    return [model.sigma_max, *(max(model.sigma_min, time / (1 - time)) for time in times)]


def _arc(count, steep, pivot, start, end):
    """`count` heights from start to end along -atan(steep (i - pivot))."""
    if count == 1:
        return [end]
    curve = [-math.atan(steep * (i - pivot)) for i in range(count)]
    return [end + (start - end) * (each - curve[-1]) / (curve[0] - curve[-1]) for each in curve]


@hookimpl
def register_schedules():
    return [cosine, bong_tangent]
