"""Part of the evaluation: do many seeds of a name give many pictures, and are they as crisp as real ones?"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

from . import drawing, measures
from .classifier import Judge
from .measures import share, show

SEEDS = 9
ON_SHEET = 6  # names
#: Sets by different hands: Fluent's three show one composition, so one of them stands for all.
HANDS = ("noto", "flat", "twemoji")


def judge_the_variety(
    pipe: StableDiffusionPipeline, judge: Judge, model: str, real: dict[str, torch.Tensor], sheet: Path
) -> None:
    """Distances between seeds of a name beside those between drawings of it by different hands; the first to ``sheet``.

    real  the drawings of each name that is asked for, on white
    """
    names = list(real)
    images = drawing.draw(pipe, [name for name in names for _ in range(SEEDS)])
    drawings = torch.cat(list(real.values())).to(images.device)
    of_seeds, of_hands = [SEEDS] * len(names), [len(each) for each in real.values()]
    for what, vectors, unit in (
        (f"in pixels at {measures.PIXELS_SIDE} px", measures.pixels, " of 255"),
        ("in the judge's features", judge.features, ""),
    ):
        between = [measures.apart(vectors(each), sizes) for each, sizes in ((images, of_seeds), (drawings, of_hands))]
        digits = 0 if unit else 2
        figure = " / ".join(f"{distance:.{digits}f}" for distance in between) + unit
        show(f"{model}: distance of two seeds of a name / of two real drawings of it, {what}", figure)
    rank = judge.rank(images, [name for name in names for _ in range(SEEDS)])
    show(f"{model}: recognized, {len(names)} plain names x {SEEDS} seeds: first / top 5", share(rank < 1, rank < 5))
    drawing.sheet(sheet, images[: SEEDS * ON_SHEET], SEEDS)
