"""What a picture carries: A1111's "parameters" text for other programs, and our own lossless JSON."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from samplers.noise import NOISE_VERSION
from samplers.registry import Entry

from .images import open_untrusted
from .infotext import infotext
from .request import Request, RequestError, read

KEYWORD, A1111_KEYWORD = "sigmalab", "parameters"
SCHEMA = 1
MAX_TEXT = 1_000_000  # characters of a chunk that are read; ours have some ten thousand at most
PROJECT = Path(__file__).parents[2] / "pyproject.toml"
PACKAGES = ("sigmalab", "torch", "diffusers", "transformers", "gradio")


class MetadataError(RequestError):
    """A file without settings that can be read; the text says why."""


@dataclass(frozen=True)
class Carried:
    """What a picture carries: A1111's text, "" if none, and our record, None if another program made the picture.

    comfy  ComfyUI's "prompt" and "workflow", as JSON texts, whichever there are
    """

    parameters: str
    record: dict[str, Any] | None
    comfy: Mapping[str, str] = field(default_factory=dict)


def record(
    request: Request,
    index: int,
    sampler: Entry,
    schedule: Entry,
    sigmas: Sequence[float],
    nfe: float,
    model: Mapping[str, Any],
    batch: Sequence[int],
    **facts: Any,
) -> dict[str, Any]:
    """Everything needed to make image `index` of a resolved request again, as plain JSON data.

    sigmas  the ones that ran
    model   name, digest and device
    batch   seeds of the images drawn together: kernels may round differently for another number of them
    facts   more to remember, as JSON data
    """
    return dict(
        schema=SCHEMA,
        request=request.to_json(),
        image=dict(index=index, seed=request.seeds[index]),
        sigmas=[float(sigma) for sigma in sigmas],
        nfe=nfe,
        sampler=_origin(sampler),
        schedule=_origin(schedule),
        model=dict(model),
        noise_version=NOISE_VERSION,
        packages=packages(),
        batch=list(batch),
        **facts,
    )


def packages() -> dict[str, str]:
    """The versions of what makes pictures here, by package; "" for one that is not installed."""
    return {name: _version(name) for name in PACKAGES}


def digest_of(image: Image.Image) -> str:
    """What names the pixels of an RGB picture: the start of their SHA-256, whatever file they are kept in."""
    return hashlib.sha256(image.convert("RGB").tobytes()).hexdigest()[:16]


def encode_png(image: Image.Image, record: Mapping[str, Any]) -> bytes:
    """The bytes of a PNG with its settings; what is not Latin-1 goes into iTXt chunks."""
    chunks, buffer = PngInfo(), BytesIO()
    chunks.add_text(A1111_KEYWORD, infotext(record))
    chunks.add_text(KEYWORD, json.dumps(record, allow_nan=False))
    image.save(buffer, "PNG", pnginfo=chunks)
    return buffer.getvalue()


def read_png(path: Path) -> Carried:
    """The settings that a PNG carries, without decoding its pixels. Raises MetadataError or PictureError.

    The record comes from outside: its shape is checked, its `request` only by `replay`.
    """
    with open_untrusted(path, ("PNG",)) as image:
        texts = {key: str(image.info[key]) for key in (KEYWORD, A1111_KEYWORD) if isinstance(image.info.get(key), str)}
    if not texts:
        raise MetadataError(
            "The picture carries no settings; pictures lose them when they are edited or sent by messengers."
        )
    if max(map(len, texts.values())) > MAX_TEXT:
        raise MetadataError(f"The picture's settings are longer than {MAX_TEXT} characters and were not read.")
    record = parse_record(texts[KEYWORD]) if KEYWORD in texts else None
    return Carried(texts.get(A1111_KEYWORD, ""), record)


def replay(record: Mapping[str, Any]) -> Request:
    """The request that makes this one picture again: its own seed, count 1. For img2img, the input has to be added.

    Raises RequestError where the record's request is not one.
    """
    request, image = record.get("request"), record.get("image")
    if not isinstance(request, dict) or not isinstance(image, dict):
        raise MetadataError("The picture's settings are incomplete.")
    return read({**request, "seed": image.get("seed"), "count": 1, "image": None})


def parse_record(text: str) -> dict[str, Any]:
    """Our record from its JSON text; its shape is checked no further than its version. Raises MetadataError."""
    try:
        record = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise MetadataError("The picture's settings are damaged: its chunk 'sigmalab' is not JSON.") from None
    if not isinstance(record, dict) or not isinstance(record.get("schema"), int):
        raise MetadataError("The picture's settings are damaged: they have no schema version.")
    if record["schema"] > SCHEMA:
        raise MetadataError(
            f"The picture was made by a newer Sigmalab (settings {record['schema']}, known {SCHEMA}); update."
        )
    return record


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _origin(entry: Entry) -> dict[str, str]:
    return dict(id=entry.id, version=entry.version, digest=entry.digest)


def _version(package: str) -> str:
    try:
        # The program is usually run from its folder and not installed; an installed one may be another version.
        if package == "sigmalab" and PROJECT.is_file():
            return tomllib.loads(PROJECT.read_text("utf-8"))["project"]["version"]
        # Builds of one version, for CPU or CUDA, are told apart by torch alone.
        return torch.__version__ if package == "torch" else version(package)
    except PackageNotFoundError:
        return ""
