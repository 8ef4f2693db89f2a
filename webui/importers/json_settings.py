"""Read the settings that programs write as JSON: SwarmUI, Fooocus, RuinedFooocus, NovelAI, InvokeAI and others."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from typing import Any

from webui.core.text import title

from .external_metadata import ExternalMetadata
from .json_formats import BY_KEYWORD, IN_PARAMETERS, JsonFormat

NAMES = ("prompt", "negative_prompt", "sampler", "schedule", "model")


# The options of InvokeAI's first command line, which it wrote into pictures.
DREAM = {
    "-s": "steps",
    "-S": "seed",
    "-W": "width",
    "-H": "height",
    "-C": "guidance",
    "-A": "sampler",
    "-f": "strength",
}
NONE: tuple[Any, ...] = (None, False, "", "None", [], {})
NATIVE = {"native": "normal"}  # NovelAI's name


def read_json_parameters(text: str) -> ExternalMetadata | None:
    """The settings in a "parameters" text that is JSON; None if it is not, or of no known program."""
    data = json_object(text)
    known = (each for each in IN_PARAMETERS if all(mark in data for mark in each.marks))
    found = next(known, None)
    return _read(found, data) if found else None


def read_keyword(texts: Mapping[str, str]) -> ExternalMetadata | None:
    """The settings in the texts of a picture by their keywords; None if they are of no known program."""
    for keyword, known in BY_KEYWORD.items():
        if data := json_object(texts.get(keyword, "")):
            return _read(
                known, data | ({"prompt": texts["Description"]} if _lacks_prompt(keyword, data, texts) else {})
            )
    return _read_dream(texts["Dream"]) if "Dream" in texts else None


def json_texts(text: str) -> dict[str, str]:
    """The texts in a JSON object: NovelAI's WebP has all that its PNG has by keyword in one."""
    return {key: value for key, value in json_object(text).items() if isinstance(value, str)}


def json_object(text: str) -> dict[str, Any]:
    """A text's JSON object; an empty one if it is none."""
    if not text.lstrip().startswith("{"):
        return {}
    try:
        data = json.loads(text.strip(" \r\n\t\0"))
    except (ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def _lacks_prompt(keyword: str, data: Mapping[str, Any], texts: Mapping[str, str]) -> bool:
    return keyword == "Comment" and "prompt" not in data and "Description" in texts


def _read(known: JsonFormat, data: Mapping[str, Any]) -> ExternalMetadata:
    root = data.get(known.root, data) if known.root else data
    values = {name: _value(root, places) for name, places in known.keys.items()}
    values = {name: value for name, value in values.items() if value is not None}
    shown = {title(name): str(value) for name, value in values.items() if name not in ("prompt", "negative_prompt")}
    size = re.fullmatch(r"\(?(\d{1,5})\D{1,3}(\d{1,5})\)?", str(values.pop("size", "")))
    if size:
        values |= {"width": size[1], "height": size[2]}
    if str(values.get("seed")) == "-1":
        del values["seed"]
    texts = {name: str(values.pop(name, "")) for name in NAMES}
    if known.program == "InvokeAI":
        _invoke(texts)
    texts["schedule"] = NATIVE.get(texts["schedule"], texts["schedule"])
    if "upscaler" in values:
        values["upscaler"] = str(values["upscaler"]).removeprefix("pixel-").replace("latent-", "Latent ")
    unread = [
        f"{title(key.rsplit('.', 1)[-1])}: {_short(value)}"
        for key in known.unread
        if (value := _at(root, key)) not in NONE
    ]
    people = _at(root, "v4_prompt.caption.char_captions")
    if isinstance(people, list) and people:
        unread.append(f"{len(people)} prompts for single characters")
    return _metadata(known.program, texts, shown, values, tuple(unread), known.comfy)


def _metadata(
    program: str,
    texts: Mapping[str, str],
    shown: Mapping[str, str],
    values: Mapping[str, object],
    unread: tuple[str, ...] = (),
    comfy: bool = False,
) -> ExternalMetadata:
    prompt, negative, sampler, schedule, model = (texts.get(name, "") for name in NAMES)
    return ExternalMetadata(
        program, prompt, negative, shown, sampler, schedule, model, values=values, comfy=comfy, unread=unread
    )


def _invoke(texts: dict[str, str]) -> None:
    """InvokeAI marks Karras at a sampler's name; its early versions have the negative prompt in square brackets."""
    for ending in ("_karras", "_k"):
        if texts["sampler"].endswith(ending):
            texts |= {"sampler": texts["sampler"].removesuffix(ending), "schedule": "karras"}
    if not texts["negative_prompt"]:
        texts["negative_prompt"] = ", ".join(re.findall(r"\[([^\[\]]*)\]", texts["prompt"]))
        texts["prompt"] = re.sub(r"\[[^\[\]]*\]", "", texts["prompt"]).strip()


def _read_dream(text: str) -> ExternalMetadata | None:
    try:
        words = shlex.split(text)
    except ValueError:
        return None
    if not words:
        return None
    values: dict[str, Any] = {
        DREAM[key]: value for key, value in zip(words[1:], words[2:], strict=False) if key in DREAM
    }
    shown = {title(name): str(value) for name, value in values.items()}
    texts = {"prompt": words[0], "negative_prompt": "", "sampler": values.pop("sampler", ""), "schedule": ""}
    _invoke(texts)
    return _metadata("InvokeAI", texts, shown, values)


def _value(data: Any, places: tuple[str, ...]) -> str | int | float | None:
    for place in places:
        value = _at(data, place)
        # InvokeAI's early versions have a list of prompts with weights.
        if isinstance(value, list) and value and isinstance(value[0], dict):
            value = value[0].get("prompt")
        if isinstance(value, str | int | float) and not isinstance(value, bool) and value != "":
            return value
    return None


def _at(data: Any, place: str) -> Any:
    """The value at keys that are joined by dots; None if there is none."""
    for key in place.split("."):
        data = data.get(key) if isinstance(data, Mapping) else None
    return data


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:200]}…"
