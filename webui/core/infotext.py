"""A1111's "parameters" text of a picture, which other programs read.

Prompt, then "Negative prompt: ...", then one line "Steps: 20, Sampler: DDIM, ..."; readers find the last line by its
"Steps: " and want values with a comma, a colon or a line break as JSON strings.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def infotext(record: Mapping[str, Any]) -> str:
    """A1111's text for a record."""
    request, size = record["request"], "{width}x{height}".format(**record["request"])
    fields: dict[str, Any] = {
        "Steps": request["steps"],
        "Sampler": request["sampler"],
        "Schedule type": request["schedule"],
        "CFG scale": f"{request['guidance']:g}",
        "Seed": record["image"]["seed"],
        "Size": size,
        "Model hash": record["model"]["digest"],
        "Model": record["model"]["name"],
    }
    if "vae" in record["model"]:
        fields["VAE hash"] = record["model"]["vae"]
    if request["mode"] == "img2img":
        fields["Denoising strength"] = f"{request['strength']:g}"
    if request.get("clip_skip", 1) > 1:
        fields["Clip skip"] = request["clip_skip"]
    if request.get("guidance_rescale"):
        fields["Guidance rescale"] = f"{request['guidance_rescale']:g}"
    if request.get("guidance_low") or request.get("guidance_high"):
        fields["Guidance interval"] = f"{request['guidance_low']:g}-{request['guidance_high']:g}"
    fields["Sampler options"] = _options(request["options"])
    fields["Schedule options"] = _options(request["schedule_options"])
    fields["Version"] = f"Sigmalab {record['packages']['sigmalab']}".strip()
    last = ", ".join(f"{key}: {_quoted(str(value))}" for key, value in fields.items() if value != "")
    negative = f"Negative prompt: {request['negative_prompt']}\n" if request["negative_prompt"] else ""
    return _clean(f"{request['prompt']}\n{negative}{last}")


def _options(options: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name}: {value:g}" if isinstance(value, float) else f"{name}: {value}" for name, value in options.items()
    )


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False) if any(mark in value for mark in ',:\n"') else value


def _clean(text: str) -> str:
    # A PNG text may hold neither NUL nor lone surrogates; a plugin's own text option could.
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode("utf-8")
