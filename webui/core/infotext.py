"""A1111's "parameters" text of a picture, which other programs read.

Prompt, then "Negative prompt: ...", then one line "Steps: 20, Sampler: DDIM, ..."; readers find the last line by its
"Steps: " and want values with a comma, a colon or a line break as JSON strings.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .fields import RequestField, fields_of
from .request import Request

FIRST = ("steps", "sampler", "schedule", "guidance", "seed")  # always written, before the model


def infotext(record: Mapping[str, Any], schema: type[Request] = Request) -> str:
    """A1111's text for a record: a fixed first part, then the fields that differ from their defaults."""
    own = {name: value for name, value in record["image"].items() if name != "index"}
    request, model = {**record["request"], **own}, record["model"]
    known = {name: field for name, field in fields_of(schema).items() if field.setting.infotext and name in request}
    names = {name: field.setting.infotext for name, field in known.items()}
    fields: dict[str, Any] = {names.pop(name): _text(request[name]) for name in FIRST}
    fields |= {"Size": f"{request['width']}x{request['height']}", "Model hash": model["digest"]}
    fields |= {names.pop("model"): model["name"], "VAE hash": model.get("vae", "")}
    for kind, title in (("lora", "Lora hashes"), ("embedding", "TI hashes")):
        named = (patch for patch in model.get("patches", ()) if patch["kind"] == kind)
        fields[title] = ", ".join(f"{patch['name']}: {patch['digest']}" for patch in named)
    for name, infotext_name in names.items():
        field, value = known[name], request[name]
        if _counts(field, request) and (value != field.default or _always(field)):
            fields[infotext_name] = _text(value)
    if request.get("guidance_low") or request.get("guidance_high"):
        fields["Guidance interval"] = f"{request['guidance_low']:g}-{request['guidance_high']:g}"
    fields["Sampler options"] = _options(request["options"])
    fields["Schedule options"] = _options(request["schedule_options"])
    fields["Version"] = f"Sigmalab {record['packages']['sigmalab']}".strip()
    last = ", ".join(f"{key}: {_quoted(str(value))}" for key, value in fields.items() if value != "")
    negative = f"Negative prompt: {request['negative_prompt']}\n" if request["negative_prompt"] else ""
    return _clean(f"{request['prompt']}\n{negative}{last}")


def _counts(field: RequestField, request: Mapping[str, Any]) -> bool:
    from_picture, setting = request["mode"] == "img2img", field.setting
    off = {"hires": "hires_scale", "variation": "variation_strength"}.get(setting.group)
    if off and not request.get(off):
        return False
    return from_picture if setting.needs_input else not (setting.needs_words and from_picture)


def _always(field: RequestField) -> bool:
    """Whether it is written even if it is the default, wherever it counts at all."""
    return field.setting.group == "hires" or (field.setting.needs_input and field.setting.group != "inpaint")


def _options(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}: {_text(value)}" for name, value in options.items())


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False) if any(mark in value for mark in ',:\n"') else value


def _clean(text: str) -> str:
    # A PNG text may hold neither NUL nor lone surrogates; a plugin's own text option could.
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode("utf-8")
