"""What a request may contain and cost, and the sentences that say so."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from samplers.options import MOST_LENGTH

if TYPE_CHECKING:
    from weights.catalog import ModelInfo

    from .request import Request

SEEDS = 2**32
MAX_STEPS, MAX_COUNT, MAX_GUIDANCE = 1000, 64, 30.0
MAX_CLIP_SKIP, MAX_SIGMA = 12, 1e6
MEGA = 1_000_000
MAX_NAME = 200  # characters


@dataclass(frozen=True)
class Limits:
    """What one request may cost: steps, pictures, pixels of a picture and of all together, characters of a prompt.

    cells  pictures of a grid of the Lab; calls: network calls of one of its measurements
    """

    steps: int = MAX_STEPS
    count: int = MAX_COUNT
    picture: int = 16 * MEGA
    total: int = 64 * MEGA
    prompt: int = 10_000
    cells: int = 400
    calls: int = 200_000


LOCAL = Limits()
PUBLIC = Limits(steps=150, count=8, picture=1024 * 1024, total=8 * 1024 * 1024, prompt=2_000, cells=36, calls=4_000)

ALLOWED = {
    "mode": "'txt2img' or 'img2img'",
    "steps": f"a whole number from 1 to {MAX_STEPS}",
    "guidance": f"a finite number from 0 to {MAX_GUIDANCE:g}",
    "width": "a whole number of pixels, or 0 for the model's own size",
    "height": "a whole number of pixels, or 0 for the model's own size",
    "seed": f"a whole number from 0 to {SEEDS - 1}, or -1 for a random one",
    "count": f"a whole number from 1 to {MAX_COUNT}",
    "image": "the path of a picture",
    "strength": "a number from 0.01 to 1",
    "strength_as": "'steps' or 'noise'",
    "fit": "'crop', 'pad' or 'stretch'",
    "clip_skip": f"a whole number from 1, the text encoder's last layer, to {MAX_CLIP_SKIP}",
    "guidance_rescale": "a number from 0 to 1",
    "guidance_low": "a sigma, a number from 0 on",
    "guidance_high": "a sigma, a number from 0 on, where 0 is no upper end",
}


def sentence(problem: Mapping[str, Any], known: Iterable[str]) -> str:
    """One pydantic problem of a request in our words; `known` are the names of its settings."""
    where = [str(part) for part in problem["loc"]]
    name, kind = where[0] if where else "request", problem["type"]
    if kind == "extra_forbidden":
        return f"Unknown setting {name[:MAX_NAME]!r}; known are {', '.join(known)}."
    if name in ("options", "schedule_options"):
        option = f" option {where[1]!r}" if len(where) > 1 else ""
        allowed = (
            f"a number, a text of at most {MOST_LENGTH} characters, true or false" if option else "names with values"
        )
        return f"{_title(name)}:{option} must be {allowed}."
    longest = LOCAL.prompt if name.endswith("prompt") else MAX_NAME
    allowed = ALLOWED.get(name, f"a text of at most {longest} characters")
    if kind == "value_error":
        allowed = "a text without NUL characters and broken Unicode (lone surrogates)"
    return f"{_title(name)} must be {allowed}."


def sides(found: ModelInfo) -> tuple[int, int, int]:
    """The smallest and the largest width or height that a model makes, and what both are multiples of; in pixels."""
    defaults = found.defaults
    return -(-defaults.size // 4 // defaults.multiple) * defaults.multiple, defaults.largest, defaults.multiple


def too_much(request: Request, found: ModelInfo, limits: Limits) -> list[str]:
    """What of a request goes beyond its model or the limits, one sentence each."""
    problems = []
    smallest, largest, step = sides(found)
    for name in ("width", "height"):
        side = getattr(request, name)
        if side % step or not smallest <= side <= largest:
            problems.append(
                f"{name.capitalize()} is {side}; model {found.name} makes {smallest} to {largest}, in multiples of {step}."
            )
    if request.steps > limits.steps:
        problems.append(f"Steps is {request.steps}; allowed here is 1 to {limits.steps}.")
    if request.count > limits.count:
        problems.append(f"Count is {request.count}; allowed here is 1 to {limits.count}.")
    pixels = request.width * request.height
    if pixels > limits.picture:
        problems.append(
            f"A picture of {request.width}x{request.height} is too large; allowed are {_mega(limits.picture)}."
        )
    if pixels * request.count > limits.total:
        problems.append(
            f"Width x height x count is {_mega(pixels * request.count)}; allowed are {_mega(limits.total)}, "
            f"which is {max(1, limits.total // pixels)} of this size."
        )
    for name in ("prompt", "negative_prompt"):
        length = len(getattr(request, name))
        if length > limits.prompt:
            problems.append(f"{_title(name)} has {length} characters; allowed are {limits.prompt}.")
    return problems


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _mega(pixels: int) -> str:
    return f"{math.floor(pixels / MEGA * 10) / 10:g} megapixels"
