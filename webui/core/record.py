"""The metadata of a picture: A1111's "parameters" text for other programs, and a lossless record of our own."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from io import BytesIO
from typing import Any, TypeGuard

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from weights.identity import Patch

from .fields import MAX_NAME
from .infotext import infotext
from .plugin_fields import NO_PLUGIN, PluginOrigin
from .prompt_dialects import uses_syntax
from .request import Request, RequestError, read, read_as
from .upscale_request import UpscaleRequest

KEYWORD, A1111_KEYWORD = "sigmalab", "parameters"
SCHEMA = 1
COEFFICIENTS = "coefficients", "schedule_coefficients"  # of a pass, where it has any
MAX_TEXT = 1_000_000  # characters of a chunk that are read; ours have some ten thousand at most


class MetadataError(RequestError):
    """A file without settings that can be read; the text says why."""


@dataclass(frozen=True)
class PassRecord:
    """What ran in a pass: its sigmas, where they and its sampler came from, and the coefficients of both, if any."""

    sigmas: tuple[float, ...]
    sampler: PluginOrigin
    schedule: PluginOrigin
    coefficients: Mapping[str, Any] = field(default_factory=dict)
    schedule_coefficients: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The pass as JSON data."""
        data = asdict(self) | {"sigmas": list(self.sigmas)}
        return {name: each for name, each in data.items() if each or name not in COEFFICIENTS}


@dataclass(frozen=True)
class ModelOrigin:
    """What drew a picture, see `weights.identity.ModelIdentity`; `digest` is that of the weights.

    A picture that names no backend was computed by torch, or by torch.compile where it says `compiled`.
    """

    name: str = ""
    digest: str = ""
    device: str = ""
    dtype: str = ""
    hardware: str = ""
    vae: str = ""
    parts: str = ""
    prediction: str = ""
    compiled: str = ""
    backend: str = ""


@dataclass(frozen=True)
class Record:
    """Everything that is needed to make a picture again.

    Records come from outside. What a picture does not say, as older ones may not, or says in a wrong type, is "", (),
    None or 0 here; whoever cannot do without raises the error.

    data           the JSON data of the file, with anything that is not known here
    request        the fields of the resolved request of all its pictures, not checked; see `single_request`
    sigmas         the ones that ran; `sampler` and `schedule` are their origins
    guidance       the origin of the guidance of all passes; empty for CFG
    later_passes   the passes that followed, such as the second one of hires fix
    nfe            denoise calls a picture
    batch          what tells the pictures drawn together apart, see `Request.own_seeds`: kernels may round differently
                   for another number of them
    noise_version  of samplers.noise
    packages       versions by name
    threads        of the CPU
    patches        those of `weights.identity.ModelIdentity`: LoRAs, textual inversions, and the upscaler of a second
                   pass
    written        the prompts as they were written, where the request has what came of their styles and random choices
    styles         the names of these styles
    coefficients, schedule_coefficients  of the first pass, see `PassRecord`
    pixels         digest of the picture, see `digest_of`; `input_digest` is that of the fitted input picture and
                   `mask_digest` that of the fitted mask
    source         of a picture that was only enlarged: the record of the drawing, None if it is not known
    """

    data: Mapping[str, Any]
    request: Mapping[str, Any] | None
    seed: int | None
    variation_seed: int | None
    sigmas: tuple[float, ...]
    nfe: float
    sampler: PluginOrigin
    schedule: PluginOrigin
    model: ModelOrigin
    noise_version: object
    packages: Mapping[str, str]
    batch: tuple[int, ...]
    threads: int | None
    pixels: str
    input_digest: str
    mask_digest: str
    later_passes: tuple[PassRecord, ...]
    patches: tuple[Patch, ...] = ()
    source: Record | None = None
    guidance: PluginOrigin = NO_PLUGIN
    written: Mapping[str, str] = field(default_factory=dict)
    styles: tuple[str, ...] = ()
    coefficients: Mapping[str, Any] = field(default_factory=dict)
    schedule_coefficients: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_upscaled(self) -> bool:
        """Whether the picture was enlarged and not drawn, see `upscale_request`; nothing ran in passes then."""
        return self.request is not None and self.request.get("mode") == "upscale"

    def upscale_request(self) -> UpscaleRequest:
        """The request that enlarged it, without its input picture. Raises RequestError where it is none."""
        return read_as(UpscaleRequest, {**(self.request or {}), "image": None})

    def single_request(self) -> Request:
        """The request of this one picture: its own seed, count 1. For img2img, the input picture and the mask
        have to be added.

        Raises RequestError where the recorded request is not one.
        """
        if self.request is None:
            raise MetadataError("The picture's settings are incomplete.")
        if self.is_upscaled:
            raise MetadataError("The picture was enlarged and not drawn: there is no run to show or to repeat.")
        own = {} if self.variation_seed is None else {"variation_seed": self.variation_seed}
        return read({**self.request, "seed": self.seed, "count": 1, "image": None, "mask": None, **own})


def read_record(data: Mapping[str, Any], is_source: bool = False) -> Record:
    """A record from its JSON data. Nothing is refused here, see `Record`.

    is_source  whether it is that of a drawing inside another record; it has none inside itself
    """
    image, request, nfe, threads = (data.get(name) for name in ("image", "request", "nfe", "threads"))
    seed, varied = (image.get(name) if isinstance(image, dict) else None for name in ("seed", "variation_seed"))
    batch, later, source = data.get("batch"), data.get("later_passes"), data.get("source")
    styles = data.get("styles")
    first = _pass(data)
    return Record(
        data,
        _with_syntax(request) if isinstance(request, dict) else None,
        seed if type(seed) is int else None,
        varied if type(varied) is int else None,
        first.sigmas,
        nfe if _is_float(nfe) else 0,
        first.sampler,
        first.schedule,
        ModelOrigin(**_texts(data, "model", ModelOrigin)),
        data.get("noise_version"),
        _texts(data, "packages"),
        tuple(batch) if isinstance(batch, list) and all(type(each) is int for each in batch) else (),
        threads if type(threads) is int else None,
        _text(data.get("pixels")),
        _text(data.get("input_digest")),
        _text(data.get("mask_digest")),
        tuple(_pass(each) for each in later if isinstance(each, dict)) if isinstance(later, list) else (),
        _patches(data.get("model")),
        read_record(source, is_source=True) if isinstance(source, dict) and not is_source else None,
        PluginOrigin(**_texts(data, "guidance", PluginOrigin)),
        _texts(data, "written", longest=MAX_TEXT),
        tuple(_text(each) for each in styles if isinstance(each, str)) if isinstance(styles, list) else (),
        first.coefficients,
        first.schedule_coefficients,
    )


def digest_of(image: Image.Image) -> str:
    """What names the pixels of an RGB picture: the start of their SHA-256, whatever file they are kept in."""
    return hashlib.sha256(image.convert("RGB").tobytes()).hexdigest()[:16]


def encode_png(image: Image.Image, record: Record) -> bytes:
    """The bytes of a PNG with its settings; what is not Latin-1 goes into iTXt chunks."""
    chunks, buffer = PngInfo(), BytesIO()
    chunks.add_text(A1111_KEYWORD, infotext(record.data))
    chunks.add_text(KEYWORD, json.dumps(record.data, allow_nan=False))
    image.save(buffer, "PNG", pnginfo=chunks)
    return buffer.getvalue()


def parse_record(text: str) -> Record:
    """A record from its JSON text; of its shape only the version is checked. Raises MetadataError."""
    try:
        data = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise MetadataError("The picture's settings are damaged: its chunk 'sigmalab' is not JSON.") from None
    if not isinstance(data, dict) or not isinstance(data.get("schema"), int):
        raise MetadataError("The picture's settings are damaged: they have no schema version.")
    if data["schema"] > SCHEMA:
        raise MetadataError(
            f"The picture was made by a newer Sigmalab (settings {data['schema']}, known {SCHEMA}); update."
        )
    return read_record(data)


def _pass(data: Mapping[str, Any]) -> PassRecord:
    sigmas, coefficients = data.get("sigmas"), [data.get(name) for name in COEFFICIENTS]
    return PassRecord(
        tuple(map(float, sigmas)) if isinstance(sigmas, list) and all(map(_is_float, sigmas)) else (),
        PluginOrigin(**_texts(data, "sampler", PluginOrigin)),
        PluginOrigin(**_texts(data, "schedule", PluginOrigin)),
        *(each if isinstance(each, dict) else {} for each in coefficients),
    )


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _is_float(value: Any) -> TypeGuard[float]:
    # JSON has whole numbers that no float holds.
    return type(value) in (int, float) and -sys.float_info.max <= value <= sys.float_info.max


def _text(value: Any, longest: int = MAX_NAME) -> str:
    return value[:longest] if isinstance(value, str) else ""


def _with_syntax(request: dict[str, Any]) -> dict[str, Any]:
    """A recorded request; one from before prompts had more syntax than weights was drawn without it."""
    texts = (request.get(name) for name in ("prompt", "negative_prompt"))
    if "prompt_syntax" in request or not any(isinstance(text, str) and uses_syntax(text) for text in texts):
        return request
    return {**request, "prompt_syntax": "weights"}


def _texts(
    data: Mapping[str, Any],
    part: str,
    known: type[PluginOrigin] | type[ModelOrigin] | None = None,
    longest: int = MAX_NAME,
) -> dict[str, str]:
    """The texts in a part of a record, of a dataclass's fields if one is given."""
    values = data.get(part)
    names = {field.name for field in fields(known)} if known else None
    if not isinstance(values, dict):
        return {}
    return {
        name: _text(value, longest)
        for name, value in values.items()
        if isinstance(value, str) and (not names or name in names)
    }


def _patches(model: Any) -> tuple[Patch, ...]:
    given = model.get("patches") if isinstance(model, dict) else None
    return tuple(
        Patch(
            _text(one.get("name")),
            _text(one.get("digest")),
            float(one["unet"]),
            float(one["text"]),
            _text(one.get("kind")),
        )
        for one in (given if isinstance(given, list) else [])
        if isinstance(one, dict) and all(_is_float(one.get(part)) for part in ("unet", "text"))
    )
