"""Index the pictures of grids beside them, so that no grid makes the same picture twice."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from samplers.noise import NOISE_VERSION
from webui.core.fields import input_fields
from webui.core.images import PictureError
from webui.core.inpainting import InputPicture
from webui.core.picture_metadata import read_picture
from webui.core.plugin_fields import PluginOrigin, PluginOrigins
from webui.core.record import MetadataError, PassRecord, Record, digest_of
from webui.core.request import Request
from webui.core.storage import CELLS
from weights.identity import ModelIdentity, weights_digest

RECENT = 25  # entries of a cost class that the time of a network call is taken from


@dataclass(frozen=True)
class CellPicture:
    """The picture of a cell: its file, and the seconds and network calls that it took."""

    path: Path
    seconds: float
    nfe: float


def key_of(
    request: Mapping[str, Any],
    sampler: PluginOrigin,
    schedule: PluginOrigin,
    guidance: PluginOrigin,
    digest: str,
    device: str,
    source: str = "",
    coefficients: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The key of a picture: a hash of settings, plugins' code, weights, device, noise, and the input's digest.

    request       a resolved request of one picture as plain data
    coefficients  of the sampler and the schedule of each pass, {} for none
    """
    unused = () if request.get("mode") == "img2img" else input_fields(Request)
    settings = {name: value for name, value in request.items() if name not in ("image", "mask", *unused)}
    plugins = [asdict(each) for each in (sampler, schedule, guidance)]
    parts = [
        settings,
        *plugins,
        digest,
        device,
        NOISE_VERSION,
        source,
        *([list(coefficients)] if any(coefficients) else []),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def key_of_request(
    request: Request,
    origins: PluginOrigins,
    model: ModelIdentity,
    source: InputPicture | None = None,
    coefficients: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The key of a resolved request of one picture on a model, with its input picture; see `key_of`."""
    sampler, schedule = origins.passes[0]
    inputs = "".join(digest_of(image) for image in (source.picture, source.mask) if image) if source else ""
    plugins = sampler, schedule, origins.guidance
    return key_of(request.to_json(), *plugins, model.digest, model.device, inputs, coefficients)


def key_of_record(record: Record) -> str | None:
    """The key of the picture that carries this record; None if it was drawn in a batch, where rounding may differ."""
    if len(record.batch) != 1 or record.noise_version != NOISE_VERSION or record.request is None:
        return None
    own = {} if record.variation_seed is None else {"variation_seed": record.variation_seed}
    request, model = {**record.request, "seed": record.seed, "count": 1, **own}, record.model
    weights = weights_digest(model.digest, model.vae, model.parts, record.patches)
    inputs = record.input_digest + record.mask_digest
    passes: list[Record | PassRecord] = [record, *record.later_passes]
    coefficients = [one for each in passes for one in (each.coefficients, each.schedule_coefficients)]
    origins = record.sampler, record.schedule, record.guidance
    return key_of(request, *origins, weights, model.device, inputs, coefficients)


class CellCache:
    """The index of a folder of pictures, as the file is now; `add` appends to it.

    A lost or broken index costs time and nothing else: a picture that it does not know is drawn once more. It passes to
    another process as the name of its folder, and is read there.
    """

    def __init__(self, outputs: Path):
        self._outputs = outputs
        self._file = outputs / CELLS
        self._entries: dict[str, dict[str, Any]] = {}
        try:
            lines = self._file.read_text("utf-8", errors="replace").splitlines()
        except OSError:
            return
        for line in lines:
            if (entry := _parsed(line)) is not None:
                # Later lines win, and are the latest in order, too.
                self._entries.pop(entry["key"], None)
                self._entries[entry["key"]] = entry

    def __reduce__(self) -> tuple[type[CellCache], tuple[Path]]:
        return CellCache, (self._outputs,)

    def find(self, key: str) -> CellPicture | None:
        """The picture of this key, if its file exists and carries the settings of the key."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        path = (self._outputs / entry["file"]).resolve()
        if not path.is_relative_to(self._outputs.resolve()) or not path.is_file():
            return None
        try:
            record = read_picture(path).record
        except (MetadataError, PictureError):
            return None
        same = record is not None and key_of_record(record) == key
        return CellPicture(path, entry["seconds"], entry["nfe"]) if same else None

    def add(self, key: str, picture: CellPicture, request: Request) -> None:
        """Add a picture that lies in the folder; where the index cannot be written, nothing happens."""
        try:
            name = picture.path.resolve().relative_to(self._outputs.resolve()).as_posix()
        except ValueError:
            return
        entry = dict(key=key, file=name, seconds=picture.seconds, nfe=picture.nfe, cost=cost_class(request))
        self._entries[key] = entry
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
        except OSError:
            return

    def seconds_a_call(self, request: Request) -> float | None:
        """The median time of a network call in recent pictures of this cost class; None where there are none."""
        wanted = cost_class(request)
        known = [
            entry["seconds"] / entry["nfe"]
            for entry in self._entries.values()
            if entry["cost"] == wanted and entry["nfe"]
        ]
        return median(known[-RECENT:]) if known else None


def cost_class(request: Request) -> str:
    """A name for all requests whose network calls cost about the same."""
    halves = 1 if request.guidance in (0.0, 1.0) else 2
    enlarged = f" x{request.hires_scale:g}" if request.is_hires else ""
    method = f" {request.guidance_method}" if request.guidance_method else ""
    return f"{request.model} {request.width}x{request.height}{enlarged} {halves}{method}"


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
        numbers = [float(entry["seconds"]), float(entry["nfe"])]
        texts = (entry["key"], entry["file"], entry["cost"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    good = all(isinstance(text, str) for text in texts) and all(
        math.isfinite(number) and number >= 0 for number in numbers
    )
    return entry if good and "\0" not in entry["file"] else None
