"""Calibrated: one call a step, with coefficients that are fitted to the model, the number of steps and the guidance.

    x' = (lower / sigma + a / sqrt(1 + sigma^2)) x + (1 - lower / sigma) ((1 + b) D + c1 (D - D1) + c2 (D1 - D2))

D is the estimate of x0 at sigma * exp(s), D1 and D2 are those of the two calls before. Each step has an s, a, b, c1 and
c2 of its own; all zero it is Euler. A fit moves them so that runs end where the probability flow ends: Gauss-Newton on
the ends themselves, with Levenberg's damping and derivatives by finite differences, which Broyden's update keeps for a
few rounds, since a network gives no gradients here. Duan et al. 2023 (OLSS, arXiv:2305.14677) fit such coefficients one
step after another by least squares, and Frankel et al. 2025 (S4S, arXiv:2502.17423) through the network.
"""

import math
from itertools import pairwise

import torch

from samplers import Step, hookimpl, sampler

NEWEST = 3  # estimates that a step weighs
SIZE = 2 + NEWEST  # numbers of a step: s, a, b, c1, c2
SHARES = (0.125, 0.125, 0.25, 0.5)  # of the calls, each with derivatives of its own: few pictures show where to go
MOST_CALLS = 300  # of all pictures, about: a fit to more steps takes fewer of them
ROUNDS = 3  # of Gauss-Newton with the same derivatives
NUDGE = 2e-3  # of a number, for its derivative
LIMIT = 4.0  # of a number
DAMPINGS = (1e-3, 3e-2, 1.0), (10.0, 100.0)  # tried in each round, the best counts; and where none of them gains
ENOUGH = 0.99  # of the error before: a round that gains less is the last


def fit(denoise, starts, sigmas, noise):
    """The numbers of each step, {"steps": [[s, a, b, c1, c2], ...]}, by which runs from `starts` end best."""
    # Some schedules begin below the first noise level; their runs should end with the same pictures.
    high = denoise.model.sigma_max
    goal, rows = denoise.ends(starts * (high / sigmas[0]), high).flatten(1), [[0.0] * SIZE for _ in sigmas[1:]]
    pictures = len(starts) * min(1 / SHARES[-1], MOST_CALLS / _calls(len(sigmas) - 1))
    for share in SHARES:
        count = max(1, round(share * pictures))
        rows = _improved(rows, denoise.first(count), starts[:count], sigmas, goal[:count])
    return {"steps": rows}


def _calls(steps):
    """Of the network for rows that are improved once: a run of its own for each number from its step on, and tries."""
    own = sum(steps - i for i, _ in _free(steps))
    return own + steps * (1 + ROUNDS * len(DAMPINGS[0]))


def _free(steps):
    """The places (step, number) that count: a step weighs no more estimates than there are."""
    return [(i, k) for i in range(steps) for k in range(SIZE) if k < 3 + min(i, NEWEST - 1)]


def _improved(rows, denoise, starts, sigmas, goal):
    """The rows after some rounds on these pictures, whose runs should end at the goal (pictures, values)."""
    free = _free(len(sigmas) - 1)
    base, slopes = _derivatives(denoise, starts, sigmas, rows, free)
    for _ in range(ROUNDS):
        before = _error(base, goal)
        for dampings in DAMPINGS:
            tries = [_moved(rows, free, step) for step in _steps(slopes, base - goal, dampings)]
            ends = _ends(denoise, starts, sigmas, tries, [0] * len(tries))
            errors = [_error(end, goal) for end in ends]
            if min(errors) < before:
                break
        best = errors.index(min(errors))
        if not errors[best] < before:
            break
        step = torch.tensor([tries[best][i][k] - rows[i][k] for i, k in free]).to(slopes)
        # Broyden's update: what the step has shown of the derivatives.
        rest = (ends[best] - base).cpu().to(slopes) - torch.einsum("p,pmd->md", step, slopes)
        slopes += torch.einsum("p,md->pmd", step / step.square().sum(), rest)
        rows, base = tries[best], ends[best]
        if errors[best] > ENOUGH * before:
            break
    return rows


def _derivatives(denoise, starts, sigmas, rows, free):
    """(the ends of the runs with these rows, their derivatives by each free number as (numbers, pictures, values))."""
    nudged = [rows, *(_moved(rows, [place], [NUDGE]) for place in free)]
    base, *others = _ends(denoise, starts, sigmas, nudged, [0, *(i for i, _ in free)])
    # On the CPU, because not every device has double precision.
    return base, torch.stack([(other - base).cpu().double() / NUDGE for other in others])


def _steps(slopes, left, dampings):
    """A step of Gauss-Newton for each damping, by which what is left of the error vanishes if ends were linear."""
    left = left.cpu().to(slopes)
    # Pictures count alike, also those whose runs end far away.
    size = left.square().mean(1).sqrt()
    share = 1 / size.clamp_min(0.25 * size.median()).clamp_min(1e-9)
    weighted = slopes * share[:, None]
    matrix, pull = torch.einsum("pmd,qmd->pq", weighted, slopes), torch.einsum("pmd,md->p", weighted, left)
    own = matrix.diagonal()
    damped = (matrix + torch.diag(damping * own + 1e-9 * own.mean()) for damping in dampings)
    return [(-torch.linalg.solve(each, pull)).tolist() for each in damped]


@sampler("Calibrated", order=1, calls=1, calibrate=fit, paper="arXiv:2305.14677")
def calibrated(denoise, x, sigmas, noise, *, coefficients=None):
    rows = coefficients["steps"] if coefficients else [[0.0] * SIZE for _ in sigmas[1:]]
    history = []
    for (sigma, lower), (shift, *weights) in zip(pairwise(sigmas), rows, strict=True):
        denoised = denoise(x, sigma * math.exp(shift))
        history = [denoised, *history][:NEWEST]
        x = _advance(x, sigma, lower, history, weights)
        yield Step(x, lower, denoised)


def _advance(x, sigma, lower, history, weights):
    """The step of the module's formula; a weight is a number, or a tensor with one for each picture."""
    ratio, (a, b, *differences) = lower / sigma, weights
    estimate = (1 + b) * history[0]
    for weight, newer, older in zip(differences, history, history[1:]):
        estimate = estimate + weight * (newer - older)
    return (ratio + a / math.sqrt(1 + sigma * sigma)) * x + (1 - ratio) * estimate


def _ends(denoise, starts, sigmas, tries, begins):
    """The end (pictures, numbers) of a run of all pictures with each of the tries, rows of numbers.

    begins  the step at which a try first differs from the first one, rising: until there it needs no calls of its own
    """
    count, x, history = len(starts), starts, []
    for i, (sigma, lower) in enumerate(pairwise(sigmas)):
        running = sum(begin <= i for begin in begins)
        if new := running - len(x) // count:
            x, *history = (torch.cat([each, each[:count].repeat(new, 1, 1, 1)]) for each in (x, *history))
        shifts = [rows[i][0] for rows in tries[:running]]
        denoised = torch.empty_like(x)
        for shift in dict.fromkeys(shifts):
            own = [k * count + j for k, each in enumerate(shifts) if each == shift for j in range(count)]
            denoised[own] = denoise(x[own], sigma * math.exp(shift))
        history = [denoised, *history][:NEWEST]
        numbers = torch.tensor([rows[i][1:] for rows in tries[:running]]).to(x).repeat_interleave(count, dim=0)
        x = _advance(x, sigma, lower, history, numbers.T[:, :, None, None, None])
    return list(x.flatten(1).split(count))


def _moved(rows, places, by):
    """The rows with the numbers at these places moved, and held within the limit."""
    moved = [list(row) for row in rows]
    for (i, k), step in zip(places, by):
        moved[i][k] = round(min(LIMIT, max(-LIMIT, moved[i][k] + step)), 7)
    return moved


def _error(end, goal):
    """The mean over pictures of the root mean square."""
    return (end - goal).square().mean(1).sqrt().mean().item()


@hookimpl
def register_samplers():
    return [calibrated]
