"""The schedule Calibrated: sigmas that are fitted to the model, the number of steps and the guidance.

A fit moves them until Euler's steps, which every solver begins with, end near where the probability flow ends: it tries
the grids of Karras et al. 2022 with other rho and lower ends on a few pictures, and goes on from the best with more by
moving one sigma at a time, up and down, by ever less (Hooke and Jeeves 1961). That judges a grid by its end, as
searches of schedules do (HSO, arXiv:2511.11688); steps of equal local error, which dynamic programming finds (GITS,
arXiv:2405.14224), end worse under guidance, since an early error grows and a late one does not.
"""

import math
from itertools import pairwise, product

from samplers import hookimpl, schedule

RHOS, ABOVE = (1.5, 3.0, 7.0, 20.0), (0.0, 0.2, 0.35, 0.5)  # of the grids that are tried; see `_grid`
FEW, MORE = 0.25, 0.5  # of the pictures try the grids; move the sigmas
MOVES = (0.4, 0.2, 0.1, 0.05)  # of log sigma
CLOSEST = 0.02  # of log sigma between neighbours


def fit(denoise, starts, steps, noise):
    """{"sigmas": [...]}, the positive ones."""
    model, goal = denoise.model, denoise.ends(starts, denoise.model.sigma_max)

    def errors_of(share):
        count = max(1, round(share * len(starts)))
        some, x, end = denoise.first(count), starts[:count], goal[:count]
        return lambda logs: (_end(some, x, logs) - end).flatten(1).square().mean(1).sqrt().mean().item()

    grids = [_grid(model, steps, *each) for each in product(RHOS, ABOVE)]
    logs, error = min(grids, key=errors_of(FEW)), errors_of(MORE)
    least = error(logs)
    for move, place in product(MOVES, range(1, steps)):
        for by in (move, -move):
            moved = [each + by * (i == place) for i, each in enumerate(logs)]
            if _is_falling(model, moved) and (came := error(moved)) < least:
                logs, least = moved, came
                break
    return {"sigmas": [round(math.exp(each), 6) for each in logs]}


@schedule("Calibrated", paper="arXiv:2511.11688", calibrate=fit)
def calibrated(model, steps, *, coefficients=None):
    """The fitted sigmas; without any, those of Karras with rho 7."""
    if coefficients:
        return coefficients["sigmas"]
    return [math.exp(each) for each in _grid(model, steps, 7.0, 0.0)]


def _grid(model, steps, rho, above):
    """log sigma of Karras et al. 2022, equation 5, down to so far above sigma_min, as a share of the range of logs."""
    last = model.sigma_min * (model.sigma_max / model.sigma_min) ** above
    high, low = model.sigma_max ** (1 / rho), last ** (1 / rho)
    return [rho * math.log(high + (low - high) * i / max(1, steps - 1)) for i in range(steps)]


def _end(denoise, x, logs):
    """Where Euler's steps end."""
    for sigma, lower in pairwise([*map(math.exp, logs), 0.0]):
        denoised = denoise(x, sigma)
        x = denoised + lower / sigma * (x - denoised)
    return x


def _is_falling(model, logs):
    """Whether log sigmas fall, some way from one another, and stay within the trained range."""
    return logs[-1] >= math.log(model.sigma_min) and all(a - b >= CLOSEST for a, b in pairwise(logs))


@hookimpl
def register_schedules():
    return [calibrated]
