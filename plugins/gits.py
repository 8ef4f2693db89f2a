"""GITS: steps where the sampling trajectory bends (Chen et al. 2024, arXiv:2405.14224).

All trajectories of a model bend alike, so a few of them tell where steps are needed. The authors found, by dynamic
programming on Stable Diffusion 1.5, which of 101 evenly spaced timesteps to keep for each number of steps; these lists
are theirs.
"""

from typing import Annotated

import numpy as np

from samplers import Choice, hookimpl, schedule

# By the coefficient that weighs the error of the steps before: for 2 steps, for 3 steps, ... the places that are kept
# between 100, the first, and 0, which is run as sigma 0.
PLACES = {
    "1.1": (
        "32",
        "61 26",
        "83 50 20",
        "86 62 38 15",
        "86 67 49 29 10",
        "86 68 50 32 16 4",
        "86 68 54 38 23 10 2",
        "88 79 66 50 34 19 7 1",
        "88 79 67 55 42 29 16 6 1",
        "88 79 68 57 46 34 23 13 5 1",
        "88 79 69 60 50 39 29 19 11 5 1",
        "88 79 70 62 52 42 32 23 15 9 4 1",
        "88 80 72 66 57 48 38 29 21 14 8 4 1",
        "88 80 72 66 58 50 42 34 26 19 13 8 4 1",
        "88 83 77 69 62 54 46 38 30 23 17 11 6 3 1",
        "88 83 77 69 62 55 48 41 34 27 21 15 10 6 3 1",
        "88 83 77 71 66 59 52 45 38 31 25 19 14 10 6 3 1",
        "96 88 83 77 71 66 59 52 45 38 31 25 19 14 10 6 3 1",
        "96 88 83 77 71 66 59 52 45 38 32 26 21 16 12 8 5 3 1",
    ),
    "1.2": (
        "29",
        "49 18",
        "61 33 11",
        "66 42 21 6",
        "83 57 34 15 3",
        "83 62 42 23 8 1",
        "83 62 45 29 15 6 1",
        "83 66 50 34 21 11 4 1",
        "83 66 51 38 27 17 9 4 1",
        "83 67 54 42 30 21 13 7 3 1",
        "83 68 56 45 34 25 17 11 6 3 1",
        "86 71 61 49 38 29 21 15 10 6 3 1",
        "86 71 62 50 40 31 23 17 12 8 5 3 1",
        "88 78 68 58 48 38 30 23 17 12 8 5 3 1",
        "88 78 68 58 48 38 30 23 17 13 9 6 4 2 1",
        "88 78 68 58 48 38 30 23 17 13 10 7 5 3 2 1",
        "88 78 68 59 50 41 33 26 20 15 11 8 6 4 3 2 1",
        "88 78 68 59 50 42 34 27 21 16 12 9 7 5 4 3 2 1",
        "88 78 68 59 50 42 34 27 21 17 13 10 8 6 5 4 3 2 1",
    ),
    "1.3": (
        "26",
        "42 14",
        "49 21 5",
        "54 29 11 2",
        "61 36 18 6 1",
        "66 45 27 13 5 1",
        "68 49 32 19 10 4 1",
        "68 50 34 22 13 7 3 1",
        "83 62 45 30 19 11 6 3 1",
        "83 62 46 33 23 15 10 6 3 1",
        "83 64 49 36 26 17 11 7 4 2 1",
        "83 66 50 37 27 19 13 9 6 4 2 1",
        "83 66 50 38 28 20 14 10 7 5 3 2 1",
        "83 66 50 38 29 21 15 11 8 6 4 3 2 1",
        "83 66 50 38 29 21 16 12 9 7 5 4 3 2 1",
        "83 66 52 40 30 23 17 13 10 8 6 5 4 3 2 1",
        "83 66 52 40 30 23 18 14 11 9 7 6 5 4 3 2 1",
        "83 66 53 42 33 26 20 15 12 10 8 7 6 5 4 3 2 1",
        "83 66 53 42 33 26 20 16 13 11 9 8 7 6 5 4 3 2 1",
    ),
}


@schedule("GITS", paper="arXiv:2405.14224")
def gits(
    model,
    steps,
    *,
    coefficient: Annotated[str, Choice(*PLACES), "smaller: more steps at high noise"] = "1.2",
):
    """The published lists for 2 to 20 steps; more of them lie on the longest list, evenly in log sigma between two.

    On a model of other noise levels the same shares of its timesteps are kept.
    """
    lists = PLACES[coefficient]
    kept = [100, *map(int, lists[min(steps, len(lists) + 1) - 2].split())] if steps > 1 else [100]
    sigmas = [model.sigma(model.bottom + (model.top - model.bottom) * place / 100) for place in kept]
    if steps <= len(sigmas):
        return sigmas
    logs = np.log([*sigmas, model.sigma_min])
    places = np.arange(steps) * (len(sigmas) / steps)
    return [model.sigma_max, *np.exp(np.interp(places, range(len(logs)), logs)).tolist()[1:]]


@hookimpl
def register_schedules():
    return [gits]
