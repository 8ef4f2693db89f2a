"""Compare a picture with its replay, and name what may make them differ."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import ImageChops

from webui.core.images import decoding, open_picture, open_untrusted
from webui.core.picture_metadata import read_picture
from webui.core.record import MetadataError, Record, digest_of

from .replay import Recipe, UpscaleRecipe, backend_of

MODEL_TITLES = {
    "device": "the device",
    "dtype": "the number format",
    "hardware": "the processor",
    "prediction": "the prediction type",
}


@dataclass(frozen=True)
class Verdict:
    """The result of a replay.

    largest  the largest difference of any channel of any pixel, of 255; 0 is bit-equal
    changed  what was different this time, one phrase each
    lossy    the file has lossy pixels, so the digest of the original ones was compared; `largest` does not count
    """

    largest: int
    changed: tuple[str, ...] = ()
    lossy: bool = False

    @property
    def equal(self) -> bool:
        """Whether every bit of every pixel is the same."""
        return self.largest == 0

    def __str__(self) -> str:
        before = " to the picture before it was saved as JPEG" if self.lossy and self.equal else ""
        how = f"bit-equal{before}" if self.equal else f"differs by at most {self.largest}/255"
        if not self.changed:
            return how if self.equal else f"{how}; nothing that is recorded has changed"
        return f"{how}, although {'; '.join(self.changed)}" if self.equal else f"{how}; {'; '.join(self.changed)}"


def compare(path: Path, made: Path, recipe: Recipe | UpscaleRecipe) -> Verdict:
    """Compare a picture with its replay. Raises PictureError and MetadataError."""
    now = read_picture(made).record
    if now is None:
        raise MetadataError("The replay carries no settings to compare.")
    with decoding():
        new = open_picture(made)
        # Before it is decoded: a stranger's file may be of any size.
        with open_untrusted(path) as file:
            size, lossy = file.size, file.format == "JPEG"
        if size != new.size:
            raise MetadataError(f"The file is {size[0]}x{size[1]} and its settings make {new.width}x{new.height}.")
        # One pair a channel; Pillow's annotation is that of pictures of one channel as well.
        extrema: Any = ImageChops.difference(open_picture(path), new).getextrema()
        largest = max(high for _, high in extrema)
    own_grid = isinstance(recipe, Recipe) and any(plan.own_grid for plan in recipe.resolved.plans)
    changed = tuple(changes(recipe.record, now, own_grid))
    if lossy and recipe.record.pixels == digest_of(new):
        return Verdict(0, changed, lossy)
    return Verdict(
        max(largest, 1) if lossy else largest, (*changed, "the file is a lossy JPEG") if lossy else changed, lossy
    )


def changes(old: Record, new: Record, own_grid: bool = False) -> list[str]:
    """What may make the pictures of two records differ, a phrase each: "torch is 2.11.0 and was 2.10.0"."""
    before, after = asdict(old.model), asdict(new.model)
    pairs: list[tuple[str, Any, Any]] = [
        *((name, version, old.packages.get(name)) for name, version in new.packages.items()),
        *((title, after[name], before[name]) for name, title in MODEL_TITLES.items()),
        ("the backend", backend_of(new), backend_of(old)),
        ("the thread count", new.threads, old.threads),
        ("the number of pictures drawn together", len(new.batch), len(old.batch)),
    ]
    origins = [(new.sampler, old.sampler), (new.schedule, old.schedule)]
    origins += [(new.guidance, old.guidance)] if new.guidance.id else []
    for now, then in zip(new.later_passes, old.later_passes, strict=False):
        origins += [(now.sampler, then.sampler), (now.schedule, then.schedule)]
    for origin, recorded in dict.fromkeys(origins):
        pairs.append((f"the version of {origin.id}", origin.version, recorded.version))
        pairs.append((f"the digest of {origin.id}", origin.digest, recorded.digest))
    # A picture from before something was recorded says nothing about it.
    phrases = [
        f"{title} is {after} and was {before}" for title, after, before in pairs if before not in (None, "", after)
    ]
    ran = [(one.sigmas, *(each.sigmas for each in one.later_passes)) for one in (old, new)]
    return [*phrases, "its sigmas were others"] if own_grid and ran[0] != ran[1] else phrases
