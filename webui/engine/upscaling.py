"""The task that enlarges a picture without a model's denoiser: tiles, their progress, and the file with its record."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from webui.core.images import open_picture
from webui.core.limits import Limits
from webui.core.menus import UPSCALERS
from webui.core.new_record import make_upscale_record
from webui.core.picture_metadata import read_picture
from webui.core.record import ModelOrigin, Record, digest_of, encode_png
from webui.core.request import RequestError
from webui.core.storage import keep_input, save_or_keep
from webui.core.upscale_request import UpscaleRequest, check_upscaled_size
from weights.extra_networks import ExtraNetworks
from weights.identity import hardware_of
from weights.upscaler import Upscaler, enlarged

from .errors import naming_problems, not_saved
from .events import Picture, Progress
from .job_context import JobContext
from .run_environment import DEFAULT_ENVIRONMENT, RunEnvironment, check_digest

STEM = "upscaled"  # of the files, behind their time


@dataclass(frozen=True, eq=False)
class Upscaling:
    """A task of the queue, see `Task`.

    request      resolved: its upscaler is named and there
    picture      RGB
    parameters   A1111's text of how the picture was made, "" if it has none
    source       the record of its drawing, None if it has none
    environment  `digest` is that of the upscaler which a replay needs
    """

    request: UpscaleRequest
    picture: Image.Image
    parameters: str = ""
    source: Record | None = None
    environment: RunEnvironment = DEFAULT_ENVIRONMENT
    model: str = ""

    @property
    def held(self) -> int:
        """Bytes of the picture, about."""
        return 3 * self.picture.width * self.picture.height

    def run(self, context: JobContext) -> dict[str, Any]:
        """Enlarge the picture and save it. Raises Stopped, ModelError, NotSaved and MemoryError."""
        began = context.clock()
        upscaler = context.upscalers.open(self.request.upscaler)
        tiles_made = 0

        def on_tile(done: int, tiles: int) -> None:
            nonlocal tiles_made
            context.raise_if_stopped()
            seconds = context.clock() - began
            tiles_made += 1
            context.tell(
                Progress(
                    step=done,
                    steps=tiles,
                    calls=done,
                    total_calls=tiles,
                    seconds=seconds,
                    remaining=seconds * (tiles - done) / done if done else None,
                    text=f"tile {done + 1} of {tiles}",
                )
            )

        context.raise_if_stopped()
        result = enlarged(self.picture, self.request.size_of(self.picture.size), upscaler, on_tile)
        context.raise_if_stopped()
        self._save(result, upscaler, context)
        return {
            **self.request.to_json(),
            "width": result.width,
            "height": result.height,
            "tiles": tiles_made,
            "seconds": round(context.clock() - began, 3),
            "stopped": False,
        }

    def _save(self, result: Image.Image, upscaler: Upscaler | None, context: JobContext) -> None:
        digest = digest_of(self.picture)
        if not context.public:
            context.on_head(partial(keep_input, context.outputs, self.picture, digest))
        origin, pixels = self._origin(upscaler), digest_of(result)
        record = make_upscale_record(self.request, origin, digest, pixels, self.parameters, self.source)
        saved = context.on_head(partial(save_or_keep, context.outputs, STEM, encode_png(result, record)))
        if saved.path:
            context.on_saved(saved.path)
            context.tell(Picture(saved.path, None, 0))
        if saved.problem:
            raise not_saved([saved], context.public)

    def _origin(self, upscaler: Upscaler | None) -> ModelOrigin:
        """What made the picture; Lanczos is Pillow's, and the same everywhere."""
        if upscaler is None:
            return ModelOrigin(self.request.upscaler)
        return ModelOrigin(
            self.request.upscaler,
            upscaler.digest,
            str(upscaler.device),
            str(upscaler.dtype).removeprefix("torch."),
            hardware_of(upscaler.device),
        )


def open_upscaling(
    request: UpscaleRequest, limits: Limits, extra: ExtraNetworks, environment: RunEnvironment = DEFAULT_ENVIRONMENT
) -> Upscaling:
    """The task of a resolved request, its upload opened and its upscaler checked. Raises RequestError."""
    if request.image is None:
        raise RequestError("There is no picture to enlarge: upload one.")
    check_upscaler(request.upscaler, extra, environment)
    return upscaling_of(request, request.image, limits, environment)


def upscaling_of(
    request: UpscaleRequest, image: Path, limits: Limits, environment: RunEnvironment = DEFAULT_ENVIRONMENT
) -> Upscaling:
    """The task of a request whose upscaler was checked, on an uploaded picture. Raises RequestError."""
    picture = open_picture(image, limits)
    check_upscaled_size(request, picture.size, limits)
    return Upscaling(request, picture, *_metadata(image), environment)


def check_upscaler(name: str, extra: ExtraNetworks, environment: RunEnvironment = DEFAULT_ENVIRONMENT) -> None:
    """Raises RequestError unless an upscaler can be used and is the one that a replay needs."""
    if name in UPSCALERS:
        return
    with naming_problems():
        digest = extra.upscaler_patch(name).digest
    check_digest("Upscaler", name, digest, environment.digest)


def _metadata(path: Path) -> tuple[str, Record | None]:
    """What a picture says about how it was drawn: A1111's text and our record, through any number of enlargements."""
    try:
        metadata = read_picture(path)
    except RequestError:
        return "", None
    record = metadata.record
    return metadata.parameters, record.source if record is not None and record.is_upscaled else record
