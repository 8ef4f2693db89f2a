"""Import the settings of a picture, ours or another program's, and name what could not be matched."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from samplers.registry import Registry
from webui.core.menus import UPSCALERS
from webui.core.picture_metadata import PictureMetadata, read_picture
from webui.core.plugin_fields import PLUGIN_FIELDS
from webui.core.record import MetadataError, Record
from webui.core.request import Request
from webui.core.text import as_sentence, title

from .a1111 import UNNAMED, read_infotext
from .comfyui import comfy_texts, read_comfy
from .external_metadata import ExternalMetadata
from .external_request import external_request
from .json_settings import json_object, json_texts, read_json_parameters, read_keyword

LESS_THAN_A_GRAPH = ("ComfyUI", UNNAMED)


@dataclass(frozen=True)
class ImportedSettings:
    """A picture's settings.

    program  that made it
    rows     (name, value) of what it says, as text from outside
    fields   of a request, each valid by itself
    open     menus that these settings leave open: "sampler", "schedule", "guidance_method"
    missing  the plugins and models that are not here, one sentence each
    notes    what else could not be matched, one sentence each
    record   our own metadata, None from other programs
    text     A1111's parameters text, "" if there is none
    """

    program: str
    rows: tuple[tuple[str, str], ...]
    fields: Mapping[str, Any] = field(default_factory=dict)
    open: frozenset[str] = frozenset()
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    record: Record | None = None
    text: str = ""

    def to_json(self) -> dict[str, Any]:
        """What a program that asks is told of them, as plain JSON data."""
        return dict(
            program=self.program,
            settings=dict(self.rows),
            request=dict(self.fields),
            missing=list(self.missing),
            notes=list(self.notes),
        )


def read_imported_settings(
    path: Path, registry: Registry, models: Mapping[str, Any], upscalers: Collection[str] = UPSCALERS
) -> ImportedSettings:
    """The settings of a picture. Raises MetadataError or PictureError where it has none that can be read.

    upscalers  the names of those that are here
    """
    metadata = read_picture(path)
    if metadata.record is not None:
        return from_record(metadata.record, registry, models, metadata.parameters)
    return from_external(_read_external(metadata), registry, models, metadata.parameters, upscalers=upscalers)


def _read_external(metadata: PictureMetadata) -> ExternalMetadata:
    """The settings of another program, from the text that says most. Raises MetadataError if no text has any."""
    text = metadata.parameters
    graph = metadata.comfy or comfy_texts(json_object(text))
    found = read_json_parameters(text) or read_keyword(metadata.others) or read_keyword(json_texts(text))
    found = found or (read_infotext(text) if text else None)
    if graph and (found is None or found.program in LESS_THAN_A_GRAPH):
        # A text beside a graph was written by a node of it, and a graph has more to say if it can be read.
        try:
            return read_comfy(graph)
        except MetadataError:
            if found is None:
                raise
    if found is None:
        raise MetadataError(
            "The picture carries a text, but no settings that can be read: no line of it has 'Steps: ' and a number."
        )
    return found


def from_record(record: Record, registry: Registry, models: Mapping[str, Any], text: str = "") -> ImportedSettings:
    """The settings of our own record; of a picture that was enlarged, those of its drawing, if they are known.

    Raises RequestError where its request is none.
    """
    if record.is_upscaled:
        rows, drawn = _upscale_rows(record), record.source
        if drawn is None:
            return ImportedSettings("Sigmalab", rows, record=record, text=text)
        found = from_record(drawn, registry, models, text)
        return replace(found, rows=(*rows, *found.rows), record=record)
    request = record.single_request()
    fields = request.to_json()
    opened, missing = set(), []
    for place, origin in zip(PLUGIN_FIELDS, (record.sampler, record.schedule, record.guidance), strict=True):
        try:
            fields[place.name] = place.named(place.find(registry, origin.id or fields[place.name]))
            fields[place.options] = place.as_then(registry, origin, fields[place.options])
        except ValueError as error:
            opened.add(place.name)
            missing.append(as_sentence(str(error)))
    if request.model not in models:
        del fields["model"]
        missing.append(f"Model {request.model!r} is not in weights/; the form keeps the model that it has.")
    return ImportedSettings(
        "Sigmalab", _rows(record, request), fields, frozenset(opened), tuple(missing), (), record, text
    )


def from_external(
    external: ExternalMetadata,
    registry: Registry,
    models: Mapping[str, Any],
    text: str = "",
    schema: type[Request] = Request,
    upscalers: Collection[str] = UPSCALERS,
) -> ImportedSettings:
    """The settings of another program; names of methods become ours where they mean the same."""
    made = external_request(external, registry, models, schema, upscalers)
    rows = (("Prompt", external.prompt), ("Negative prompt", external.negative_prompt), *external.shown.items())
    rows = tuple((name, value) for name, value in rows if value)
    return ImportedSettings(external.program, rows, made.fields, made.open, made.missing, made.notes, None, text)


def _rows(record: Record, request: Request) -> tuple[tuple[str, str], ...]:
    settings = request.used_settings()
    del settings["count"]
    rows = [(title(name), _value(value)) for name, value in settings.items()]
    rows += [(f"{title(name)} as written", text) for name, text in record.written.items()]
    rows.append(("Styles", _value(list(record.styles))))
    rows += [("Sampler from", _said(asdict(record.sampler))), ("Schedule from", _said(asdict(record.schedule)))]
    rows.append(("Guidance from", _said(asdict(record.guidance))))
    rows += [("Model from", _said(asdict(record.model))), ("Made with", _said(record.packages))]
    rows += [("CPU threads", str(record.threads or "")), ("Drawn together", _value(list(record.batch)))]
    rows.append(("Input picture", record.input_digest))
    return tuple((label, value) for label, value in rows if value)


def _upscale_rows(record: Record) -> tuple[tuple[str, str], ...]:
    rows = [(title(name), _value(value)) for name, value in record.upscale_request().to_json().items()]
    rows += [("Upscaler from", _said(asdict(record.model))), ("Made with", _said(record.packages))]
    rows.append(("Input picture", record.input_digest))
    return tuple((label, value) for label, value in rows if value)


def _said(values: Mapping[str, str]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items() if value)


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {each}" for key, each in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value[:64]))
    return str(value)
