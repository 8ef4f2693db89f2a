"""Part of the evaluation: is a thing as its words say, in colour, number, place and size?"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

from . import drawing, measures
from .captions import HUES, NUMBERS, PLACES, Look, article, describe
from .classifier import Judge
from .measures import count, show
from .scenes import COLOURED

PROMPTS = 100  # for colours
SEVERAL, ABOVE = 50, 50  # prompts for each number, and for pairs
ON_SHEET = 48
#: A thing is at a place when its centre lies this far there, in halves of the picture's side.
ASIDE = 0.2
#: A small thing has at most this share of the area of the same thing when nothing is said of its size.
SMALL = 0.45


def colours_of(names: list[str]) -> list[tuple[str, str]]:
    """Colours in turn for names that say none of their own, (colour, name)."""
    plain = [name for name in names if not COLOURED & set(name.split())][:PROMPTS]
    return [(HUES[i % len(HUES)], name) for i, name in enumerate(plain)]


def whole(names: list[str], real: Callable[[str], torch.Tensor], most: int) -> list[str]:
    """The first names whose real drawings on white all are of one part: several of them can be counted."""
    found: list[str] = []
    for name in names:
        if len(found) < most and (measures.parts(real(name)) == 1).all():
            found.append(name)
    return found


def placed_right(images: torch.Tensor, places: list[str]) -> torch.Tensor:
    """Whether each picture's thing lies where a key of `captions.PLACES` says."""
    asked = torch.tensor([PLACES[place] for place in places])
    return (measures.centres(images) * asked).sum(1) > ASIDE


def judge_the_words(
    pipe: StableDiffusionPipeline,
    judge: Judge,
    model: str,
    plain: list[str],
    familiar: list[str],
    real: Callable[[str], torch.Tensor],
    sheet: Path,
) -> None:
    """What a model draws when more is said of a thing than its name; the colours go to ``sheet``.

    plain     names that places and sizes are asked of; the other questions go on to ``familiar`` ones
    real      the drawings of a name on white
    """

    def draw(whats: list[str]) -> torch.Tensor:
        return drawing.draw(pipe, drawing.on_white(whats))

    names = plain + [name for name in familiar if name not in plain]
    asked = colours_of(names)
    images = draw([describe(name, Look(colour=colour)) for colour, name in asked])
    right = torch.tensor([hue == colour for hue, (colour, _) in zip(measures.hues(images), asked, strict=True)])
    # A ground in that colour is none of the thing's.
    right &= measures.grounds_right(images, ["white"] * len(asked))
    show(f"{model}: colour of the thing right", count(right))
    drawing.sheet(sheet, images[:ON_SHEET])

    single = whole(names, real, SEVERAL)
    for number, word in NUMBERS.items():
        there = measures.parts(draw([describe(name, Look(count=number)) for name in single]))
        show(f"{model}: {word} of a thing, so many parts", count(there == number))

    for place in PLACES:
        images = draw([describe(name, Look(place=place)) for name in plain])
        show(f"{model}: {place}", count(placed_right(images, [place] * len(plain))))

    small, large = (
        measures.areas(draw([describe(name, Look(small=small)) for name in plain])) for small in (True, False)
    )
    show(f"{model}: small", count((small > 0) & (small < SMALL * large)))

    both = list(pairwise(names))[:ABOVE]
    sides = measures.halves(draw([f"{article(a)} above {article(b)}" for a, b in both]).mT)
    there = [judge.rank(side.mT, [pair[i] for pair in both]) < 5 for i, side in enumerate(sides)]
    show(f"{model}: one thing above another, both in the top 5 of their half", count(there[0] & there[1]))
