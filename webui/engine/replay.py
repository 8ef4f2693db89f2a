"""Makes a picture again from what it carries, in the environment that it records, and says what differs.

Sampler, schedule and model are those recorded or the replay is refused; nothing is put in their place. The device,
the thread count and the number of pictures drawn together are restored where this machine can, since the last bits of
a picture depend on them; what cannot be restored is named.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from samplers.noise import NOISE_VERSION
from webui.core.images import open_input, open_picture
from webui.core.limits import SEEDS
from webui.core.picture_metadata import read_picture
from webui.core.record import MetadataError, digest_of, replay
from webui.core.request import Request, RequestError
from webui.core.resolved_request import ResolvedRequest
from webui.core.storage import input_path
from weights.catalog import ModelError
from weights.opening import pick_device

from .engine import Engine
from .run_environment import RunEnvironment

THREADS = 4 * (os.cpu_count() or 1)  # more are a slip or an attack, and would only wait for each other
PLACES = ("sampler", "schedule")
ABOUT_MODEL = {
    "device": "the device",
    "dtype": "the number format",
    "hardware": "the processor",
    "prediction": "the prediction type",
}


@dataclass(frozen=True)
class Recipe:
    """A picture to be made again: the request and environment of its whole batch, and its index there."""

    resolved: ResolvedRequest
    environment: RunEnvironment
    index: int
    record: Mapping[str, Any]


@dataclass(frozen=True)
class Verdict:
    """How a replay turned out.

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


def recipe(path: Path, engine: Engine, one_at_a_time: bool = False, image: Path | None = None) -> Recipe:
    """What to draw to make this picture again.

    one_at_a_time  draw it alone, whatever its batch was
    image          the input picture of img2img; by default the one that was kept under outputs/inputs/
    Raises MetadataError for a picture without usable settings, RequestError for a plugin, model or input that is
    missing, and PictureError.
    """
    record = read_picture(path).record
    if record is None:
        raise MetadataError(
            "Only pictures with Sigmalab's own settings can be made again, bit for bit; this has others."
        )
    if record.get("noise_version") != NOISE_VERSION:
        made = f"version {str(record.get('noise_version'))[:20]!r}"
        raise MetadataError(f"The picture was made with noise streams of {made}; this Sigmalab has {NOISE_VERSION!r}.")
    single, public = replay(record), engine.settings.public
    batch = [single.seed] if one_at_a_time else _batch(record, single.seed)
    named = {place: _id(record, place) for place in PLACES}
    if single.has_input:
        image = image or _kept_input(record, engine)
    request = single.model_copy(update=dict(named, seed=batch[0], count=len(batch), image=image))
    resolved = engine.resolve(request)
    if image is not None:
        _check_input(record, resolved.request)
    if not resolved.plan.own_grid:
        resolved = resolved.with_sigmas(_sigmas(record, engine))
    environment = RunEnvironment(
        device=None if public else _device(record),
        threads=_threads(record),
        batch=len(batch),
        digest=_text(record, "model", "digest"),
        vae=_text(record, "model", "vae") or "",
        # Older pictures do not say it.
        parts=_text(record, "model", "parts"),
    )
    return Recipe(resolved, environment, batch.index(single.seed), record)


def into(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with its pictures in a folder of their own."""
    return replace(recipe, environment=replace(recipe.environment, outputs=folder))


def compare(path: Path, made: Path, recipe: Recipe) -> Verdict:
    """Compare a picture with its replay. Raises PictureError and MetadataError."""
    old, new, now = open_picture(path), open_picture(made), read_picture(made).record
    if old.size != new.size:
        raise MetadataError(f"The file is {old.width}x{old.height} and its settings make {new.width}x{new.height}.")
    changed = tuple(changes(recipe.record, now, own_grid=recipe.resolved.plan.own_grid))
    with Image.open(path) as file:
        lossy = file.format == "JPEG"
    largest = int(np.abs(np.asarray(old, np.int16) - np.asarray(new, np.int16)).max())
    if lossy and recipe.record.get("pixels") == digest_of(new):
        return Verdict(0, changed, lossy)
    return Verdict(
        max(largest, 1) if lossy else largest, (*changed, "the file is a lossy JPEG") if lossy else changed, lossy
    )


def changes(old: Mapping[str, Any], new: Mapping[str, Any], own_grid: bool = False) -> Sequence[str]:
    """What of two records could make their pictures differ, one phrase each: "torch is 2.11.0 and was 2.10.0"."""
    pairs: list[tuple[str, Any, Any]] = []
    for name, version in new["packages"].items():
        pairs.append((name, version, _text(old, "packages", name)))
    for name, title in ABOUT_MODEL.items():
        pairs.append((title, new["model"].get(name), _text(old, "model", name)))
    compiled = new["model"].get("compiled"), _text(old, "model", "compiled")
    pairs.append(("compilation", *("on" if each else "off" for each in compiled)))
    pairs.append(("the thread count", new["threads"], old.get("threads")))
    pairs.append(("the number of pictures drawn together", len(new["batch"]), len(old.get("batch") or ())))
    for place in PLACES:
        for what in ("version", "digest"):
            before = _text(old, place, what)
            pairs.append((f"the {what} of {new[place]['id']}", new[place][what], before))
    # A picture from before something was recorded says nothing about it.
    said = [f"{title} is {now} and was {before}" for title, now, before in pairs if before not in (None, "", now)]
    if own_grid and old.get("sigmas") != new["sigmas"]:
        said.append("its sigmas were others")
    return said


def _batch(record: Mapping[str, Any], seed: int) -> list[int]:
    batch = record.get("batch")
    good = isinstance(batch, list) and batch and seed in batch and all(type(each) is int for each in batch)
    if not good or any(each != (batch[0] + i) % SEEDS for i, each in enumerate(batch)):
        raise MetadataError(
            "The picture's settings are damaged: its batch is not a row of seeds with its own among them."
        )
    return batch


def _id(record: Mapping[str, Any], place: str) -> str:
    name = _text(record, place, "id")
    if not name:
        raise MetadataError(f"The picture's settings are incomplete: they name no {place}.")
    return name


def _text(record: Mapping[str, Any], part: str, name: str) -> str | None:
    found = record.get(part)
    value = found.get(name) if isinstance(found, dict) else None
    return value[:200] if isinstance(value, str) else None


def _threads(record: Mapping[str, Any]) -> int | None:
    count = record.get("threads")
    return count if type(count) is int and 1 <= count <= THREADS else None


def _device(record: Mapping[str, Any]) -> str | None:
    """The recorded device if it is here; else the engine's own, which `changes` will tell."""
    name = (_text(record, "model", "device") or "").partition(":")[0]
    try:
        return str(pick_device(name)) if name not in ("", "auto") else None
    except ModelError:
        return None


def _sigmas(record: Mapping[str, Any], engine: Engine) -> tuple[float, ...]:
    """The recorded levels, exact to the last bit."""
    sigmas = record.get("sigmas")
    if (
        not isinstance(sigmas, list)
        or not all(map(_is_level, sigmas))
        or not 2 <= len(sigmas) <= engine.limits.steps + 1
        or sigmas[-1] != 0
    ):
        raise MetadataError(
            "The picture's settings are damaged: its sigmas are not a list of numbers that ends with 0."
        )
    if any(lower >= sigma for sigma, lower in zip(sigmas, sigmas[1:], strict=False)):
        raise MetadataError("The picture's settings are damaged: its sigmas do not fall.")
    return tuple(map(float, sigmas))


def _is_level(value: Any) -> bool:
    # JSON has whole numbers that no float holds.
    return type(value) in (int, float) and -sys.float_info.max <= value <= sys.float_info.max


def _kept_input(record: Mapping[str, Any], engine: Engine) -> Path:
    if engine.settings.public:
        # Else anyone who has a picture could get at the one that it was made from.
        raise RequestError("Pictures from img2img are not made again on a shared page, which keeps no input pictures.")
    digest = record.get("input_digest")
    if not isinstance(digest, str) or not digest.isalnum():
        raise MetadataError("The picture's settings are incomplete: they do not name its input picture.")
    path = input_path(engine.settings.outputs, digest)
    if not path.is_file():
        raise RequestError(f"Its input picture inputs/{digest}.png is not in the outputs folder; give it with --input.")
    return path


def _check_input(record: Mapping[str, Any], request: Request) -> None:
    fitted = open_input(request)
    if fitted is not None and digest_of(fitted) != record.get("input_digest"):
        raise RequestError("The input picture is another one than this picture was made from.")
