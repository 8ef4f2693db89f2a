"""Coefficients of multistep methods on any grid: integrals of Lagrange polynomials, by Gauss-Legendre quadrature.

Between two noise levels a multistep method replaces the network's answer by the polynomial through its answers at the
levels already visited, and integrates that against a known density. One function serves the whole family:

    DPM-Solver++, UniPC   denoised, polynomial in log sigma, density of the exponential integrator
    ER-SDE                denoised, polynomial in sigma, density of its noise scale function
    DEIS, LMS             eps, polynomial in a time of choice or in sigma, density 1
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np


def multistep_weights(
    nodes: Sequence[float],
    sigma: float,
    lower: float,
    density: Callable[[float], float],
    clock: Callable[[float], float] = math.log,
) -> list[float]:
    """One weight for each node: the integral over u from lower to sigma of density(u) * l_j(clock(u)).

    nodes    distinct sigmas at which the network was asked, in any order
    sigma    the upper end of the step, and lower the lower one, above 0
    density  a smooth function of the noise level u
    clock    the variable in which the basis l_j is polynomial, l_j(clock(nodes[k])) = (j == k)

    Exact to rounding for the smooth densities of samplers, also for tiny steps, where closed forms cancel.
    Hochbruck & Ostermann 2010, Acta Numerica 19, on exponential multistep methods.
    """
    times = [clock(node) for node in nodes]
    middle, half = math.log(sigma * lower) / 2, math.log(sigma / lower) / 2
    weights = [0.0] * len(nodes)
    for place, share in _GAUSS:
        u = math.exp(middle + half * place)
        mass, time = share * half * u * density(u), clock(u)
        for j, own in enumerate(times):
            others = (other for k, other in enumerate(times) if k != j)
            weights[j] += mass * math.prod((time - other) / (own - other) for other in others)
    return weights


# (place, weight) on [-1, 1], the last place first. In log sigma the integrands are nearly exponentials, which 32 points
# integrate to rounding over 13 decades.
_GAUSS = tuple(zip(*(values[::-1].tolist() for values in np.polynomial.legendre.leggauss(32)), strict=True))
