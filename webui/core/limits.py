"""What a request may cost, and the sentences that say so."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .text import title

if TYPE_CHECKING:
    from weights.model_info import ModelInfo

    from .request import Request

SEEDS = 2**32
MAX_STEPS, MAX_COUNT = 1000, 64
MEGA = 1_000_000
# Fields that act on the estimates with and without the prompt; empty or 0 without such.
TWO_ESTIMATES = ("guidance_method", "guidance_rescale", "guidance_low", "guidance_high")


@dataclass(frozen=True)
class Limits:
    """What one request may cost: steps, pictures, pixels of a picture and of all together, characters of a prompt.

    cells    pictures of a grid of the Lab; calls: network calls of one of its measurements
    choices  whether prompts may have random choices and wildcards
    upload   bytes of memory that an uploaded picture may take while it is decoded, see `images.check_memory`
    files    pictures that are given at once, in files and zips
    """

    steps: int = MAX_STEPS
    count: int = MAX_COUNT
    picture: int = 16 * MEGA
    total: int = 64 * MEGA
    prompt: int = 10_000
    cells: int = 400
    calls: int = 200_000
    choices: bool = True
    upload: int = 400 * MEGA
    files: int = 500

    def problem(self, name: str, value: Any) -> str:
        """Why a field of this name, valid by itself, is too much here; "" if it is not."""
        most = {"steps": self.steps, "hires_steps": self.steps, "count": self.count}.get(name)
        if most is not None and value > most:
            return f"{title(name)} is {value}; allowed here is 1 to {most}."
        if name in ("prompt", "negative_prompt") and len(value) > self.prompt:
            return f"{title(name)} has {len(value)} characters; allowed are {self.prompt}."
        return ""


LOCAL = Limits()
PUBLIC = Limits(
    steps=150,
    count=8,
    picture=1024 * 1024,
    total=8 * 1024 * 1024,
    prompt=2_000,
    cells=36,
    calls=4_000,
    choices=False,
    upload=200 * MEGA,
    files=16,
)


def size_range(info: ModelInfo) -> tuple[int, int, int]:
    """The smallest and the largest width or height that a model makes, and what both are multiples of; in pixels."""
    defaults = info.defaults
    return -(-defaults.size // 4 // defaults.multiple) * defaults.multiple, defaults.largest, defaults.multiple


def size_problem(name: str, size: int, info: ModelInfo) -> str:
    """Why a model cannot make this width or height; "" if it can."""
    smallest, largest, step = size_range(info)
    if smallest <= size <= largest and size % step == 0:
        return ""
    return f"{title(name)} is {size}; model {info.name} makes {smallest} to {largest}, in multiples of {step}."


def nearest_size(width: int, height: int, info: ModelInfo, limits: Limits = LOCAL) -> tuple[int, int]:
    """The size of about this shape that is nearest among those that a model makes and the limits allow, in pixels.

    0 is the model's own size. Where the model's card names the sides at which its pictures hold together, those alone
    count: a network that knows one size fills a larger picture with a texture.
    """
    smallest, largest, step = size_range(info)
    width, height = width or info.defaults.size, height or info.defaults.size
    if info.card and (sides := info.card.sizes):
        width, height = (min(sides, key=lambda side: abs(side - asked)) for asked in (width, height))
    scale = min(1.0, largest / max(width, height), math.sqrt(limits.picture / (width * height)))
    scale = max(scale, smallest / min(width, height))
    # Downwards where the limits cut, so that rounding does not cross them.
    near = math.floor if scale < 1 else round
    fitted = (min(largest, max(smallest, near(side * scale / step) * step)) for side in (width, height))
    return next(fitted), next(fitted)


def limit_problems(request: Request, info: ModelInfo, limits: Limits) -> list[str]:
    """What of a resolved request goes beyond its model or the limits, one sentence each."""
    width, height = request.hires_size(size_range(info)[2]) if request.is_hires else request.drawn_size
    sizes = dict(width=request.width, height=request.height)
    if (width, height) != (request.width, request.height):
        kind = "enlarged" if request.is_hires else "extended"
        sizes |= {f"{kind}_width": width, f"{kind}_height": height}
    problems = [size_problem(name, size, info) for name, size in sizes.items()]
    problems += [limits.problem(name, value) for name, value in request]
    problems += _two_estimates(request, info)
    if request.is_tiled and request.feature_reuse > 1:
        problems.append("Feature reuse is for a picture that is drawn whole, not in tiles; set it to 1, or scale to 0.")
    pixels = width * height
    if pixels > limits.picture:
        size = f"{width}x{height}"
        problems.append(f"A picture of {size} is too large; allowed are {mega(limits.picture)}.")
    if pixels * request.count > limits.total:
        problems.append(
            f"Width x height x count is {mega(pixels * request.count)}; allowed are {mega(limits.total)}, "
            f"which is {max(1, limits.total // pixels)} of this size."
        )
    return [problem for problem in problems if problem]


def second_pass_problems(request: Request, info: ModelInfo, first: ModelInfo) -> list[str]:
    """As `limit_problems`, for another model than the first that draws the second pass."""
    sizes = dict(zip(("enlarged_width", "enlarged_height"), request.hires_size(size_range(first)[2]), strict=True))
    problems = [size_problem(name, size, info) for name, size in sizes.items()]
    return [problem for problem in (*problems, *_two_estimates(request, info)) if problem]


def refiner_problems(request: Request, info: ModelInfo, first: ModelInfo) -> list[str]:
    """As `limit_problems`, for the refiner of a request on its model `first`."""
    if (info.channels, info.factor) != (first.channels, first.factor):
        return [f"Refiner {info.name} reads other latents than {first.name} makes; choose one of the same family."]
    if request.is_hires and not request.hires_model:
        return [*_size_problems(request.drawn_size, info), *second_pass_problems(request, info, first)]
    return [*_size_problems(request.drawn_size, info), *filter(None, _two_estimates(request, info))]


def _size_problems(size: tuple[int, int], info: ModelInfo) -> list[str]:
    problems = [size_problem(name, side, info) for name, side in zip(("width", "height"), size, strict=True)]
    return [problem for problem in problems if problem]


def _two_estimates(request: Request, info: ModelInfo) -> list[str]:
    if not info.takes_guidance:
        return []
    why = f"needs two estimates a call, and model {info.name}, which takes guidance as an input, makes one"
    usual = {"guidance_method": "leave it at CFG"}
    return [
        f"{title(name)} {why}; {usual.get(name, 'set it to 0')}." for name in TWO_ESTIMATES if getattr(request, name)
    ]


def mega(pixels: int) -> str:
    """A number of pixels in megapixels, rounded downwards."""
    return f"{math.floor(pixels / MEGA * 10) / 10:g} megapixels"
