"""The converged answer that samplers are measured against, and the order that their errors show."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence

import torch


def solve_flow(
    denoise: Callable[[torch.Tensor, float], torch.Tensor], x: torch.Tensor, sigma: float, lower: float, steps: int
) -> torch.Tensor:
    """Where the probability-flow ODE takes x from sigma down to lower > 0, by the classical Runge-Kutta method.

    In log sigma the ODE dx/dsigma = (x - D) / sigma of Song et al. 2021, arXiv:2011.13456, is dx/dlog sigma = x - D.
    Fourth order; four calls of `denoise` a step.
    """
    h = math.log(lower / sigma) / steps
    for i in range(steps):
        start, middle, end = (sigma * (lower / sigma) ** ((i + part) / steps) for part in (0.0, 0.5, 1.0))
        k1 = x - denoise(x, start)
        ahead = x + h / 2 * k1
        k2 = ahead - denoise(ahead, middle)
        ahead = x + h / 2 * k2
        k3 = ahead - denoise(ahead, middle)
        ahead = x + h * k3
        k4 = ahead - denoise(ahead, end)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return x


def observed_order(calls: Sequence[float], errors: Sequence[float], floor: float = 0.0) -> float | None:
    """The slope of log error over log calls, with its sign turned: the order that a method shows.

    calls, errors  in the order of rising calls
    floor          errors up to this are rounding, or the doubt about the reference, and tell nothing
    Least squares over the finer half of what is above the floor, where the leading term of the error rules; None with
    fewer than two points.
    """
    usable = [(math.log(n), math.log(e)) for n, e in zip(calls, errors) if n > 0 and floor < e < math.inf]
    usable = usable[-max(2, -(-len(usable) // 2)) :]
    if len(usable) < 2:
        return None
    x, y = zip(*usable, strict=True)
    return -statistics.linear_regression(x, y).slope if len(set(x)) > 1 else None
