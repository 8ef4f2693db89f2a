"""The request to enlarge a picture without drawing on it: what a user asks for, and its checks."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from weights.model_info import ModelError

from .field_types import Name, Number
from .fields import Setting
from .limits import Limits, mega
from .menus import LATENT, UPSCALERS
from .request import RequestError
from .text import as_sentence

if TYPE_CHECKING:
    from weights.extra_networks import ExtraNetworks


class UpscaleRequest(BaseModel):
    """A picture enlarged by a factor. Its upscaler is Lanczos or a network of weights/upscalers/; "" is Lanczos."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)

    mode: Literal["upscale"] = "upscale"
    image: Annotated[Path | None, Field(strict=False), Setting(allowed="the path of a picture")] = None
    scale: Annotated[Number, Field(ge=1, le=8), Setting("Enlarge by", step=0.25, infotext="Postprocess upscale by")] = (
        2.0
    )
    upscaler: Annotated[Name, Setting("Upscaler", infotext="Postprocess upscaler")] = ""

    def size_of(self, size: tuple[int, int]) -> tuple[int, int]:
        """(width, height) of a picture of this size once it is enlarged."""
        width, height = (max(1, round(side * self.scale)) for side in size)
        return width, height

    def to_json(self) -> dict[str, Any]:
        """The request as JSON data, without the path of the upload."""
        return self.model_dump(mode="json", exclude={"image"})


def pixel_upscalers(names: Collection[str]) -> list[str]:
    """The upscalers among these that enlarge pictures and not latents."""
    return [name for name in names if name not in LATENT]


def resolve_upscale(request: UpscaleRequest, names: Collection[str]) -> UpscaleRequest:
    """The request with its upscaler filled in and checked. Raises RequestError.

    names  all upscalers that are here
    """
    check_upscaler_name(request.upscaler, pixel_upscalers(names))
    return request.model_copy(update={"upscaler": request.upscaler or UPSCALERS[0]})


def check_upscaler_name(name: str, known: Collection[str]) -> None:
    """Raises RequestError unless an upscaler is among those that are known; "" is the default."""
    if name and name not in known:
        raise RequestError(f"Unknown upscaler {name!r}; known are {', '.join(known)}.")


def check_upscaler_file(name: str, extra: ExtraNetworks | None) -> None:
    """Raises RequestError for an upscaler whose file cannot be used."""
    try:
        if extra is not None and name not in UPSCALERS:
            extra.find_upscaler(name)
    except ModelError as error:
        raise RequestError(as_sentence(str(error))) from None


def check_upscaled_size(request: UpscaleRequest, size: tuple[int, int], limits: Limits) -> None:
    """Raises RequestError if a picture of this (width, height) would become too large."""
    width, height = request.size_of(size)
    if width * height > limits.total:
        raise RequestError(
            f"Enlarged, the picture would be {width}x{height}; allowed are {mega(limits.total)}. "
            "Choose a smaller factor."
        )
