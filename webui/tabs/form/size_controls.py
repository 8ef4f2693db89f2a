"""The sizes that a form offers: buttons for those that a model draws well, and the ranges of the sliders."""

from __future__ import annotations

import math
from typing import Any

from webui.core.limits import size_range
from webui.templates import render
from weights.model_info import ModelInfo

FINE = 64  # pixels that the sides of offered sizes are multiples of


def sizes_html(mode: str, info: ModelInfo | None, width: Any, height: Any) -> str:
    """Buttons of the sizes that a model draws well, the chosen one pressed; another size is shown beside them."""
    sizes = good_sizes(info) if info else []
    if all(isinstance(side, int) for side in (width, height)) and (width, height) not in sizes:
        sizes = [*sizes, (width, height)]
    return render("form", "sizes", mode, sizes, (width, height))


def good_sizes(info: ModelInfo) -> list[tuple[int, int]]:
    """(width, height) of the squares in a model's card; without one, its own square, an upright and a wide picture."""
    if info.card and info.card.sizes:
        return [(side, side) for side in info.card.sizes]
    side = info.defaults.size
    if side < FINE * 8:
        return [(side, side)]
    # About as many pixels, two by three.
    short, long = (round(side * share / FINE) * FINE for share in (math.sqrt(2 / 3), math.sqrt(3 / 2)))
    return [(side, side), (short, long), (long, short)]


def size_slider(info: ModelInfo | None) -> dict[str, int]:
    """Range, step and value of the width or height slider for a model."""
    if info is None:
        return dict(minimum=8, maximum=1024, step=8, value=64)
    smallest, largest, _ = size_range(info)
    return dict(minimum=smallest, maximum=largest, step=info.defaults.step, value=info.defaults.size)
