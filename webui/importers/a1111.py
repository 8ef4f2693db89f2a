"""Reads the "parameters" text of A1111 and Forge: prompt, "Negative prompt: ...", and a line "Steps: 20, ...".

A value with a comma, a colon or a line break is a JSON string there. The prompt may have any text and any line.
"""

from __future__ import annotations

import json
import re

from webui.core.fields import fields_of
from webui.core.request import Request

from .external_metadata import ExternalMetadata

PAIR = re.compile(r'\s*([A-Za-z][^:,"\n]{0,60}): ?("(?:[^"\\]|\\.)*"|[^,]*)(?:,|$)')
NEGATIVE = "Negative prompt:"
NAMES = ("sampler", "schedule", "model")  # fields whose values are names of the other program
# Shown on the page, but of no use to a run.
ABOUT = {"Version", "Model hash", "Hashes", "Lora hashes", "User"}
OURS = {"Sampler options", "Schedule options"}
EXTRA_NETWORK = re.compile(r"<(lora|lyco|hypernet):([^:<>]{1,100})[^<>]{0,200}>")


def read_infotext(text: str, schema: type[Request] = Request) -> ExternalMetadata | None:
    """The settings in such a text; None if it has no line of them."""
    lines = text.replace("\r\n", "\n").split("\n")
    at = max((i for i, line in enumerate(lines) if line.startswith("Steps: ")), default=None)
    if at is None:
        return None
    fields = _pairs(" ".join(lines[at:]))
    prompt, negative = _prompts(lines[:at])
    width, _, height = fields.get("Size", "").partition("x")
    known = {field.setting.infotext: name for name, field in fields_of(schema).items() if field.setting.infotext}
    values = {name: fields[infotext_name] for infotext_name, name in known.items() if infotext_name in fields}
    sampler, schedule, model = (values.pop(name, "") for name in NAMES)
    values |= {"width": width, "height": height} if height else {}
    program = _program(fields.get("Version", ""))
    taken = {*known, "Size", *ABOUT, *(OURS if program == "Sigmalab" else ())}
    unread = [f"{key}: {value}" for key, value in fields.items() if key not in taken]
    unread += [f"{match[1]} {match[2]!r} in the prompt" for match in EXTRA_NETWORK.finditer(f"{prompt}\n{negative}")]
    return ExternalMetadata(
        program, prompt, negative, fields, sampler, schedule, model, values=values, unread=tuple(unread)
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


def _prompts(lines: list[str]) -> tuple[str, str]:
    at = max((i for i, line in enumerate(lines) if line.startswith(NEGATIVE)), default=len(lines))
    negative = "\n".join(lines[at:]).removeprefix(NEGATIVE).strip()
    return "\n".join(lines[:at]).strip(), negative


def _pairs(line: str) -> dict[str, str]:
    pairs, at = {}, 0
    while at < len(line):
        match = PAIR.match(line, at)
        if match is None:
            # Not a pair: go on behind the next comma.
            at = line.find(",", at) + 1 or len(line)
            continue
        pairs[match[1].strip()] = _unquoted(match[2].strip())
        at = match.end()
    return pairs


def _unquoted(value: str) -> str:
    if not value.startswith('"'):
        return value
    try:
        return str(json.loads(value))
    except ValueError:
        return value


def _program(version: str) -> str:
    """The program of this version: Forge's starts with "f" or "neo", A1111's with "v", ComfyUI's may name it."""
    for start, program in (
        ("Sigmalab", "Sigmalab"),
        ("f", "Forge"),
        ("neo", "Forge"),
        ("v", "AUTOMATIC1111"),
        ("ComfyUI", "ComfyUI"),
    ):
        if version.startswith(start):
            return program
    return "a program with A1111's settings"
