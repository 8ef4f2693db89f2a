"""What a picture offers to a form: its settings as ours, and in words whatever could not be matched."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from samplers.registry import Entry, Registry
from webui.core.fields import fields_of
from webui.core.picture_metadata import read_picture
from webui.core.record import MetadataError, Record
from webui.core.request import Request, sift
from webui.core.text import as_sentence, title

from .a1111 import options_in, read_infotext
from .comfyui import read_comfy
from .external_metadata import ExternalMetadata
from .sampler_names import COMFY_LEVELS, COMFY_METHODS, Match, levels, method, split

NOISE_NOTE = "Its noise: each program draws its own, so the same seed gives another picture."
WEIGHTS = (".safetensors", ".ckpt", ".pt", ".pth")


@dataclass(frozen=True)
class ImportedSettings:
    """A picture's settings.

    program  that made it
    rows     (name, value) of what it says, as text from outside
    fields   of a request, each valid by itself
    open     menus that nothing here may fill: "sampler", "schedule", "model"
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


def read_imported_settings(path: Path, registry: Registry, models: Mapping[str, Any]) -> ImportedSettings:
    """The offer of a picture. Raises MetadataError or PictureError where it says nothing that can be read."""
    carried = read_picture(path)
    if carried.record is not None:
        return of_record(carried.record, registry, models, carried.parameters)
    foreign = read_infotext(carried.parameters) if carried.parameters else None
    if foreign is None and carried.comfy:
        foreign = read_comfy(carried.comfy)
    if foreign is None:
        raise MetadataError(
            "The picture carries a text, but no settings that can be read: no line of it begins with 'Steps: '."
        )
    return of_foreign(foreign, registry, models, carried.parameters)


def of_record(record: Record, registry: Registry, models: Mapping[str, Any], text: str = "") -> ImportedSettings:
    """The offer of our own metadata. Raises RequestError where its request is none."""
    request = record.single_request()
    fields = request.to_json()
    opened, missing = set(), []
    places: tuple[tuple[str, Callable[[str], Entry], str], ...] = (
        ("sampler", registry.sampler, record.sampler.id),
        ("schedule", registry.schedule, record.schedule.id),
    )
    for place, look_up, wanted in places:
        try:
            fields[place] = look_up(wanted or fields[place]).name
        except ValueError as error:
            opened.add(place)
            missing.append(as_sentence(str(error)))
    if request.model not in models:
        opened.add("model")
        missing.append(f"Unknown model {request.model!r}; known are {', '.join(models)}.")
    return ImportedSettings(
        "Sigmalab", _rows(record, request), fields, frozenset(opened), tuple(missing), (), record, text
    )


def of_foreign(
    foreign: ExternalMetadata,
    registry: Registry,
    models: Mapping[str, Any],
    text: str = "",
    schema: type[Request] = Request,
) -> ImportedSettings:
    """The offer of another program's settings; names that mean the same method here are ours in it."""
    fields: dict[str, Any] = {"prompt": foreign.prompt, "negative_prompt": foreign.negative_prompt}
    opened, missing, notes = set(), [], [f"{each}." for each in foreign.unread]
    for place, (theirs, ours, known) in _places(foreign, registry).items():
        if ours is not None and ours.name in known:
            fields[place] = ours.name
            fields["options" if place == "sampler" else "schedule_options"] = dict(ours.options)
            notes += [ours.note] if ours.note else []
        elif theirs:
            opened.add(place)
            here = (
                f" is {ours.name} here, and that is not loaded"
                if ours
                else f": no {place} here is known to be the same"
            )
            missing.append(f"{place.capitalize()} {theirs!r}{here}; choose one.")
    model = _model(foreign.model, models)
    if model:
        fields["model"] = model
    elif foreign.model:
        opened.add("model")
        missing.append(f"Model {foreign.model!r} is not in weights/; choose one.")
    for name, value in foreign.values.items():
        fields[name] = fields_of(schema)[name].parse(str(value))
        if fields[name] is None:
            notes.append(f"{title(name)} {str(value)[:40]!r} cannot be read.")
            del fields[name]
    if "strength" in fields:
        fields |= {"mode": "img2img", "strength_as": "steps"}
        notes.append("Strength counts the steps in another way in other programs, by one step or two.")
    if foreign.program != "Sigmalab":
        notes.append(NOISE_NOTE)
    good, problems = sift(fields, schema)
    rows = (("Prompt", foreign.prompt), ("Negative prompt", foreign.negative_prompt), *foreign.shown.items())
    rows = tuple((name, value) for name, value in rows if value)
    return ImportedSettings(
        foreign.program, rows, good, frozenset(opened), tuple(missing), (*problems.values(), *notes), None, text
    )


def _places(foreign: ExternalMetadata, registry: Registry) -> dict[str, tuple[str, Match | None, Mapping[str, Any]]]:
    """By place: their name, ours if it is known, and what is loaded."""
    sampler, schedule = foreign.sampler, foreign.schedule
    ours: tuple[Match | None, Match | None]
    if foreign.program == "Sigmalab":
        said = {name: options_in(foreign.shown.get(f"{name} options", "")) for name in ("Sampler", "Schedule")}
        ours = Match(sampler, said["Sampler"]), Match(schedule, said["Schedule"])
    elif foreign.comfy:
        ours = method(COMFY_METHODS.get(sampler, "")), COMFY_LEVELS.get(schedule)
    else:
        first, second = split(sampler, schedule) if sampler else ("", schedule)
        ours = method(first), levels(second)
        schedule = schedule or (second if sampler else "")
    return {"sampler": (sampler, ours[0], registry.samplers), "schedule": (schedule, ours[1], registry.schedules)}


def _model(name: str, models: Mapping[str, Any]) -> str | None:
    """Our model of this name, with or without folder and ending, upper or lower case."""

    def plain(text: str) -> str:
        text = text.replace("\\", "/").rsplit("/", 1)[-1].casefold()
        return next((text.removesuffix(end) for end in WEIGHTS if text.endswith(end)), text)

    return next((model for model in models if name and plain(model) == plain(name)), None)


def _rows(record: Record, request: Request) -> tuple[tuple[str, str], ...]:
    def said(values: Mapping[str, str]) -> str:
        return ", ".join(f"{key} {value}" for key, value in values.items() if value)

    settings = request.used_settings()
    del settings["count"]
    rows = [(title(name), _value(value)) for name, value in settings.items()]
    rows += [("Sampler from", said(asdict(record.sampler))), ("Schedule from", said(asdict(record.schedule)))]
    rows += [("Model from", said(asdict(record.model))), ("Made with", said(record.packages))]
    rows += [("CPU threads", str(record.threads or "")), ("Drawn together", _value(list(record.batch)))]
    rows.append(("Input picture", record.input_digest))
    return tuple((label, value) for label, value in rows if value)


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {each}" for key, each in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value[:64]))
    return str(value)
