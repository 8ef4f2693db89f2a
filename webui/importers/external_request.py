"""Turn another program's settings into fields of a request, and say what has no equal here."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from samplers.registry import Registry
from webui.core.fields import fields_of
from webui.core.limits import MAX_STEPS, SEEDS
from webui.core.menus import UPSCALERS
from webui.core.plugin_fields import GUIDANCE
from webui.core.prompt_dialects import unapplied, uses_syntax
from webui.core.request import Request, sift
from webui.core.text import title
from weights.prompt_schedule import subprompts

from .a1111 import UNNAMED, options_in
from .external_metadata import ExternalMetadata
from .sampler_names import Match, levels, method, split
from .upscaler_names import match_upscaler

NOISE_NOTE = "Its noise: each program draws its own, so the same seed gives another picture."
STEPS_NOTE = "Strength counts the steps in another way in other programs, by one step or two."
WEIGHTS = (".safetensors", ".ckpt", ".pt", ".pth")
NUMBERS = ("steps", "guidance", "seed")  # what a picture from words cannot be made without
SAME = ("", "use same sampler", "use same scheduler", "use same checkpoint")  # A1111's entries for "as above"
# Fields that name another model: what a note calls it, and what is without it.
MODEL_FIELDS = {
    "hires_model": ("Hires checkpoint", "the second pass has the model of the first"),
    "refiner": ("Refiner", "the picture's own model draws all steps"),
}
# Programs whose prompts are read as ours are; random choices in them had been made.
KINDRED = ("AUTOMATIC1111", "Forge", "SD.Next", "Civitai", UNNAMED)
SHOWN = 60  # characters of a value in a sentence


@dataclass(frozen=True)
class ExternalRequest:
    """The fields of a request that are valid by themselves; `open`, `missing` and `notes` as in ImportedSettings."""

    fields: Mapping[str, Any]
    open: frozenset[str]
    missing: tuple[str, ...]
    notes: tuple[str, ...]


def external_request(
    external: ExternalMetadata,
    registry: Registry,
    models: Mapping[str, Any],
    schema: type[Request] = Request,
    upscalers: Collection[str] = UPSCALERS,
) -> ExternalRequest:
    """The settings of another program; names of methods become ours where they mean the same."""
    fields: dict[str, Any] = {"prompt": external.prompt, "negative_prompt": external.negative_prompt}
    opened, missing, notes = set(), [], [f"{each}." for each in external.unread]
    for place, (theirs, ours, known) in _places(external, registry).items():
        if ours is not None and ours.name in known:
            fields[place] = ours.name
            fields["options" if place == "sampler" else "schedule_options"] = dict(ours.options)
            notes += [ours.note] if ours.note else []
            continue
        opened.add(place)
        if not theirs:
            missing.append(f"The picture names no {place}; choose one.")
            continue
        here = f" is {ours.name} here, and that is not loaded" if ours else f": no {place} here is known to be the same"
        missing.append(f"{place.capitalize()} {theirs!r}{here}; choose one.")
    model = model_named(external.model, models)
    if model:
        fields["model"] = model
    else:
        named = f"Model {external.model!r} is not in weights/" if external.model else "The picture names no model"
        missing.append(f"{named}; the form keeps the model that it has.")
    values = dict(external.values)
    for name in [name for name in MODEL_FIELDS if name in values]:
        notes += _other_model(name, values, models)
    if external.program != "Sigmalab":
        notes += _second_pass(values, external, fields, registry, upscalers)
    elif name := str(values.get(GUIDANCE.name, "")):
        fields[GUIDANCE.options] = options_in(external.shown.get(GUIDANCE.infotext_options, ""))
        if name not in registry.guidances:
            opened.add(GUIDANCE.name)
            missing.append(f"Guidance {name!r} is not loaded; choose one.")
            del values[GUIDANCE.name], fields[GUIDANCE.options]
    for name, value in values.items():
        fields[name] = fields_of(schema)[name].parse(str(value))
        if fields[name] is None:
            notes.append(f"{title(name)} {str(value)[:SHOWN]!r} cannot be read.")
            del fields[name]
    notes += _strength(fields, external)
    notes += _seed(fields)
    if unnamed := [title(name).lower() for name in NUMBERS if name not in external.values]:
        notes.append(f"The picture does not name its {' and '.join(unnamed)}; the form keeps what it has.")
    if external.program != "Sigmalab":
        notes += [*_syntax(external, fields), NOISE_NOTE]
    good, problems = sift(fields, schema)
    told = (f"{text[:-1]}, and is {str(fields[name])[:SHOWN]!r}." for name, text in problems.items())
    return ExternalRequest(good, frozenset(opened), tuple(missing), (*told, *notes))


def _places(external: ExternalMetadata, registry: Registry) -> dict[str, tuple[str, Match | None, Mapping[str, Any]]]:
    """By place: their name, ours if it is known, and what is loaded."""
    sampler, schedule = external.sampler, external.schedule
    ours: tuple[Match | None, Match | None]
    if external.program == "Sigmalab":
        said = {name: options_in(external.shown.get(f"{name} options", "")) for name in ("Sampler", "Schedule")}
        ours = Match(sampler, said["Sampler"]), Match(schedule, said["Schedule"])
    else:
        first, second, comfy = split(sampler, schedule, external.unnamed_is_uniform)
        ours = method(first), levels(second, comfy or external.comfy)
        schedule = second or schedule
    return {"sampler": (sampler, ours[0], registry.samplers), "schedule": (schedule, ours[1], registry.schedules)}


def _second_pass(
    values: dict[str, object],
    external: ExternalMetadata,
    fields: Mapping[str, Any],
    registry: Registry,
    upscalers: Collection[str],
) -> list[str]:
    """Replace the names in a second pass by ours, or leave them out; sentences about those left out."""
    notes = []
    sampler, schedule, upscaler = (
        str(values.pop(name, "")) for name in ("hires_sampler", "hires_schedule", "upscaler")
    )
    first, second, comfy = split("" if sampler.casefold() in SAME else sampler, schedule, False)
    for name, theirs, ours in (
        ("hires_sampler", first, method(first)),
        ("hires_schedule", second, levels(second, comfy or external.comfy)),
    ):
        place = name.removeprefix("hires_")
        # The second pass has the options of the first one only with the same method; else it has the defaults.
        if ours and (ours.name == fields.get(place) or _are_defaults(ours, place, registry)):
            values[name] = ours.name
        elif theirs.casefold() not in SAME:
            notes.append(f"Hires {place} {theirs[:SHOWN]!r}; the second pass has the {place} of the first.")
    if ours_by_name := match_upscaler(upscaler, upscalers):
        values["upscaler"] = ours_by_name
    elif upscaler and upscaler.casefold() != "none":
        notes.append(f"Upscaler {upscaler[:SHOWN]!r} is not here; {UPSCALERS[0]} enlarges instead.")
    return notes


def _other_model(field: str, values: dict[str, object], models: Mapping[str, Any]) -> list[str]:
    """Replace the name of another model than the picture's own by ours, or leave it out; a sentence if it is."""
    # A1111 writes the start of the hash behind it.
    name = re.sub(r"\s*\[[0-9a-fA-F]+\]$", "", str(values.pop(field)))
    if ours := model_named(name, models):
        values[field] = ours
    elif name.casefold() not in SAME:
        what, without = MODEL_FIELDS[field]
        return [f"{what} {name[:SHOWN]!r} is not in weights/; {without}."]
    return []


def _are_defaults(match: Match, place: str, registry: Registry) -> bool:
    """Whether a sampler or schedule has these options by itself."""
    loaded: Mapping[str, Any] = registry.samplers if place == "sampler" else registry.schedules
    if match.name not in loaded:
        return not match.options
    item = loaded[match.name].item
    return bool(item.resolve(match.options) == item.resolve({}))


def _strength(fields: dict[str, Any], external: ExternalMetadata) -> list[str]:
    """Give the strength to the pass that it belongs to, and count its steps as they are counted here."""
    if "strength" in fields and fields.get("hires_scale"):
        # The same name is that of the second pass where there is one.
        strength = fields.pop("strength")
        fields.setdefault("hires_strength", strength)
        steps = fields.get("hires_steps") or fields.get("steps")
        if not external.all_hires_steps_run or steps is None:
            return []
        fields["hires_steps"] = whole_run(steps, fields["hires_strength"])
        return [f"Hires steps: {steps} run in the second pass; here that is a share of {fields['hires_steps']}."]
    if "strength" not in fields:
        return []
    fields |= {"mode": "img2img", "strength_as": "steps"}
    if not external.all_steps_run or "steps" not in fields:
        return [STEPS_NOTE]
    steps, fields["steps"] = fields["steps"], whole_run(fields["steps"], fields["strength"])
    return [f"Steps: {steps} run at this strength; here that is a share of {fields['steps']}."]


def whole_run(steps: int, strength: float) -> int:
    """The steps of a whole run of which `steps` are run at a strength."""
    return int(min(MAX_STEPS, steps / strength)) if 0 < strength < 1 and steps <= MAX_STEPS else steps


def _seed(fields: dict[str, Any]) -> list[str]:
    """Bring a seed of 64 bits into the range of ours."""
    seed = fields.get("seed")
    if seed is None or seed < SEEDS:
        return []
    # torch's generator on a CPU takes only these bits of a seed.
    fields["seed"] = seed % SEEDS
    return [f"Seed {seed} has more than 32 bits; the form has its lower 32 bits, {fields['seed']}."]


def _syntax(external: ExternalMetadata, fields: dict[str, Any]) -> list[str]:
    """Choose the syntax that the prompts were written in; sentences about what of them is drawn as words."""
    text = f"{external.prompt}\n{external.negative_prompt}"
    syntax = "fixed" if external.program in KINDRED else "weights"
    if uses_syntax(text):
        fields["prompt_syntax"] = syntax if len(subprompts(external.negative_prompt)) == 1 else "weights"
    return unapplied(text, fields.get("prompt_syntax", syntax))


def model_named(name: str, models: Mapping[str, Any]) -> str | None:
    """Our model of this name, with or without folder and ending, upper or lower case."""

    def plain(text: str) -> str:
        text = text.replace("\\", "/").rsplit("/", 1)[-1].casefold()
        return next((text.removesuffix(end) for end in WEIGHTS if text.endswith(end)), text)

    return next((model for model in models if name and plain(model) == plain(name)), None)
