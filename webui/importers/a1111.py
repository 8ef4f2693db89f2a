"""Read the "parameters" text of A1111, Forge and SD.Next: prompt, "Negative prompt: ...", a line "Steps: 20, ...".

A value with a comma, a colon or a line break is a JSON string there; some programs write JSON lists and objects as they
are. The prompt may have any text and any line.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping

from webui.core.fields import fields_of
from webui.core.infotext import INTERVAL, read_interval
from webui.core.plugin_fields import PLUGIN_FIELDS
from webui.core.request import Request

from .external_metadata import ExternalMetadata

KEY = re.compile(r'\s*([A-Za-z][^:,"\n]{0,60}): ?')
PAIR = re.compile(KEY.pattern + r'("(?:[^"\\]|\\.)*"|[^,]*)(?:,|$)')
STEPS = re.compile(r"\bSteps: ?\d")
NEGATIVE = "Negative prompt:"
ENOUGH = 3  # pairs that make a line the one of the settings
NAMES = ("sampler", "schedule", "model")  # fields whose values are names of the other program
# Names of the same settings in SD.Next.
ALIASES = {"Schedule type": "Sampler sigma", "Hires upscale": "Hires scale"}
# Shown on the page, but of no use to a run.
ABOUT = {"Version", "App", "Model hash", "Hashes", "Lora hashes", "User", "Civitai resources", "Civitai metadata"}
ABOUT |= {"Template", "Negative Template"}  # the prompt before its random choices; the prompt itself is what came out
OURS = {each.infotext_options for each in PLUGIN_FIELDS}
UNNAMED = "a program with A1111's settings"  # one that does not say its name
FIRST_PASS = "First pass size"
SIZES = ("Size", FIRST_PASS, "Hires resize", "Hires size")
OLD_FIRST_AREA = 512 * 512  # pixels of the first pass where an early A1111 chose its size
EXTRA_NETWORK = re.compile(r"<(lora|lyco|hypernet):([^:<>]{1,100})[^<>]{0,200}>")


def read_infotext(text: str, schema: type[Request] = Request) -> ExternalMetadata | None:
    """The settings in such a text; None if it has no line of them."""
    lines = text.replace("\r\n", "\n").split("\n")
    at = _settings_line(lines)
    if at is None:
        return None
    # What stands behind that line, such as the template of a prompt, is no setting.
    fields = _pairs(lines[at])
    prompt, negative = _prompts(lines[:at])
    said = {key.casefold(): key for key in fields}
    known = {name: field.setting.infotext for name, field in fields_of(schema).items() if field.setting.infotext}
    found = {name: said.get(key.casefold()) or said.get(ALIASES.get(key, "").casefold()) for name, key in known.items()}
    values: dict[str, object] = {name: fields[key] for name, key in found.items() if key is not None}
    sampler, schedule, model = (str(values.pop(name, "")) for name in NAMES)
    interval = read_interval(fields.get(INTERVAL, ""))
    values |= _sizes(fields) | interval
    program = _program(fields)
    taken = {*filter(None, found.values()), *SIZES, *ABOUT, *(OURS if program == "Sigmalab" else ())}
    taken |= {INTERVAL} if interval else set()
    unread = [f"{key}: {value}" for key, value in fields.items() if key not in taken]
    unread += [f"{match[1]} {match[2]!r} in the prompt" for match in EXTRA_NETWORK.finditer(f"{prompt}\n{negative}")]
    return ExternalMetadata(
        program,
        prompt,
        negative,
        fields,
        sampler,
        schedule,
        model,
        values=values,
        # SD.Next leaves the schedule to the model's own settings, which the picture does not carry.
        unnamed_is_uniform=program not in ("Sigmalab", "SD.Next"),
        all_hires_steps_run=program != "Sigmalab",
        unread=tuple(unread),
    )


def options_in(text: str) -> dict[str, bool | int | float | str]:
    """Our own options from "eta: 0.5, solver: heun"."""
    return {key.strip(): _value(value.strip()) for key, value in _pairs(text).items()}


def _value(text: str) -> bool | int | float | str:
    if text in ("True", "False"):
        return text == "True"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def _settings_line(lines: list[str]) -> int | None:
    """The index of the last line with the steps and other pairs; else of the last that begins with the steps."""
    named = [i for i, line in enumerate(lines) if STEPS.search(line)]
    full = [i for i in named if len(_pairs(lines[i])) >= ENOUGH]
    alone = [i for i, line in enumerate(lines) if line.lstrip().startswith("Steps:")]
    return next((found[-1] for found in (full, alone) if found), None)


def _prompts(lines: list[str]) -> tuple[str, str]:
    at = next((i for i, line in enumerate(lines) if line.lstrip().startswith(NEGATIVE)), len(lines))
    negative = "\n".join(lines[at:]).lstrip().removeprefix(NEGATIVE).strip()
    return "\n".join(lines[:at]).strip(), negative


def _sizes(fields: Mapping[str, str]) -> dict[str, object]:
    """Width and height of the first pass, and the scale of a second one where early A1111 says both sizes."""
    size, first = (_size(fields.get(name, "")) for name in ("Size", FIRST_PASS))
    if size is None or not all(size):
        return {}
    if first is None:
        final = None if "Hires upscale" in fields else _size(fields.get("Hires resize", ""))
        scale = {"hires_scale": f"{final[0] / size[0]:g}"} if final else {}
        return {"width": size[0], "height": size[1], **scale}
    if not all(first):
        # The program's own choice: some 512x512 pixels in whole multiples of 64.
        shrink = math.sqrt(OLD_FIRST_AREA / (size[0] * size[1]))
        first = (math.ceil(shrink * size[0] / 64) * 64, math.ceil(shrink * size[1] / 64) * 64)
    return {"width": first[0], "height": first[1], "hires_scale": f"{size[0] / first[0]:g}"}


def _size(text: str) -> tuple[int, int] | None:
    """(width, height) from "512x768"."""
    match = re.fullmatch(r"(\d{1,5}) ?x ?(\d{1,5})", text.strip())
    return (int(match[1]), int(match[2])) if match else None


def _pairs(line: str) -> dict[str, str]:
    pairs, at = dict[str, str](), 0
    while at < len(line):
        if found := _json_value(line, at):
            key, value, at = found
        elif match := PAIR.match(line, at):
            key, value, at = match[1], _unquoted(match[2].strip()), match.end()
        else:
            # Not a pair: go on behind the next comma.
            at = line.find(",", at) + 1 or len(line)
            continue
        pairs.setdefault(key.strip(), value)
    return pairs


def _json_value(line: str, at: int) -> tuple[str, str, int] | None:
    """(key, value, index behind it) of a pair whose value is a JSON list or object, which may have commas."""
    key = KEY.match(line, at)
    if key is None or line[key.end() : key.end() + 1] not in ("[", "{"):
        return None
    try:
        _, end = json.JSONDecoder().raw_decode(line, key.end())
    except (ValueError, RecursionError):
        return None
    rest = re.compile(r"\s*(?:,|$)").match(line, end)
    return (key[1], line[key.end() : end], rest.end()) if rest else None


def _unquoted(value: str) -> str:
    if not value.startswith('"'):
        return value
    try:
        return str(json.loads(value))
    except ValueError:
        return value


def _program(fields: Mapping[str, str]) -> str:
    """The program by its version: Forge's starts with "f", "neo" or "classic", A1111's with "v"; others say a name."""
    if fields.get("App"):
        return fields["App"]
    version = fields.get("Version", "")
    for start, program in (
        ("Sigmalab", "Sigmalab"),
        ("f", "Forge"),
        ("neo", "Forge"),
        ("classic", "Forge"),
        ("v", "AUTOMATIC1111"),
        ("ComfyUI", "ComfyUI"),
    ):
        if version.startswith(start):
            return program
    return "Civitai" if "Civitai resources" in fields else UNNAMED
