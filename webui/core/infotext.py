"""A1111's "parameters" text of a picture, which other programs read.

Prompt, then "Negative prompt: ...", then one line "Steps: 20, Sampler: DDIM, ..."; readers find the last line by its
"Steps: " and want values with a comma, a colon or a line break as JSON strings.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from .fields import RequestField, fields_of
from .plugin_fields import PLUGIN_FIELDS
from .request import Request
from .upscale_request import UpscaleRequest

FIRST = ("steps", "sampler", "schedule", "guidance", "seed")  # always written, before the model
INTERVAL = "Guidance interval"  # guidance_low and guidance_high in one entry
NUMBER = r"\d[\d.]*(?:e[+-]?\d+)?"


def infotext(record: Mapping[str, Any], schema: type[Request] = Request) -> str:
    """A1111's text for a record: a fixed first part, then the fields that differ from their defaults."""
    if record["request"].get("mode") == "upscale":
        return _upscaled(record)
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
        # JSON has lists for tuples.
        field, value = known[name], tuple(request[name]) if isinstance(request[name], list) else request[name]
        if _counts(field, request) and (value != field.default or _always(field)):
            fields[infotext_name] = _text(value)
    if request.get("guidance_low") or request.get("guidance_high"):
        fields[INTERVAL] = f"{_text(request['guidance_low'])}-{_text(request['guidance_high'])}"
    # As the extension that made choices common calls them.
    written = record.get("written", {})
    for name, title in (("prompt", "Template"), ("negative_prompt", "Negative Template")):
        if name in written and written[name] != request[name]:
            fields[title] = written[name]
    fields["Styles"] = ", ".join(record.get("styles", ()))
    for each in PLUGIN_FIELDS:
        # Older records have no guidance.
        fields[each.infotext_options] = _options(request.get(each.options, {}))
    fields["Version"] = f"Sigmalab {record['packages']['sigmalab']}".strip()
    last = ", ".join(f"{key}: {_quoted(str(value))}" for key, value in fields.items() if value != "")
    negative = f"Negative prompt: {request['negative_prompt']}\n" if request["negative_prompt"] else ""
    return _clean(f"{request['prompt']}\n{negative}{last}")


def _upscaled(record: Mapping[str, Any]) -> str:
    """The text of the picture that was enlarged, and how it was: other programs still read its settings."""
    request = record["request"]
    fields = {
        field.setting.infotext: _text(request[name])
        for name, field in fields_of(UpscaleRequest).items()
        if field.setting.infotext and name in request
    }
    last = ", ".join(f"{key}: {_quoted(value)}" for key, value in fields.items())
    before = str(record.get("parameters", "")).rstrip()
    return _clean(f"{before}, {last}" if before else last)


def read_interval(text: str) -> dict[str, str]:
    """guidance_low and guidance_high from "0.3-5", as texts; {} if it is no such pair."""
    match = re.fullmatch(f"({NUMBER})-({NUMBER})", text.strip())
    return {"guidance_low": match[1], "guidance_high": match[2]} if match else {}


def _counts(field: RequestField, request: Mapping[str, Any]) -> bool:
    from_picture, setting = request["mode"] == "img2img", field.setting
    off = {"hires": "hires_scale", "variation": "variation_strength", "tiles": "scale", "refiner": "refiner"}.get(
        setting.group
    )
    if setting.group == "upscaler":
        off = "scale" if from_picture else "hires_scale"
    if off and not request.get(off):
        return False
    return from_picture if setting.needs_input else not (setting.needs_words and from_picture)


def _always(field: RequestField) -> bool:
    """Whether it is written even if it is the default, wherever it counts at all."""
    return field.setting.group in ("hires", "refiner", "upscaler") or (
        field.setting.needs_input and field.setting.group != "inpaint"
    )


def _options(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}: {_text(value)}" for name, value in options.items())


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    # Six digits, as A1111 writes them, where they are the whole number; otherwise as many as it takes.
    short = f"{value:g}" if isinstance(value, float) else str(value)
    return short if not isinstance(value, float) or float(short) == value else repr(value)


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False) if any(mark in value for mark in ',:\n"') else value


def _clean(text: str) -> str:
    # A PNG text may hold neither NUL nor lone surrogates; a plugin's own text option could.
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode("utf-8")
