"""The types of a request's fields: how untrusted values are read, beside pydantic's own rules."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from samplers.options import MOST_LENGTH

from .fields import MAX_NAME
from .limits import LOCAL

MAX_SIDE = 4096  # pixels that a picture is extended by
MAX_NAMES = 16  # in a list of names


def _whole(value: Any) -> Any:
    # Sliders and JSON clients send 20.0 for 20; True and "20" are slips, which strict mode refuses.
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _encodable(value: Any) -> Any:
    if isinstance(value, str) and any(character == "\0" or "\ud800" <= character <= "\udfff" for character in value):
        raise ValueError("text must not contain NUL characters or broken Unicode (lone surrogates)")
    return value


def _sides(value: Any) -> Any:
    # A text box has "0, 0, 64, 0"; JSON has a list.
    if isinstance(value, str):
        words = value.strip("[]() ").replace(",", " ").split()
        value = [int(word) if word.isascii() and word.isdigit() and len(word) < 6 else word for word in words] or [
            0
        ] * 4
    return tuple(value) if isinstance(value, list) else value


def _names(value: Any) -> Any:
    # A link has a JSON list, a command line names with commas between.
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.startswith("[") else value.split(",")
        except ValueError:
            return value
        value = [name.strip() if isinstance(name, str) else name for name in value if name]
    return tuple(value) if isinstance(value, list) else value


Whole = Annotated[int, BeforeValidator(_whole)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Text = Annotated[str, BeforeValidator(_encodable)]
Prompt = Annotated[Text, Field(max_length=LOCAL.prompt)]
Name = Annotated[Text, Field(max_length=MAX_NAME)]
Options = dict[Name, bool | int | float | Annotated[Text, Field(max_length=MOST_LENGTH)]]
_Side = Annotated[Whole, Field(ge=0, le=MAX_SIDE, strict=True)]
Sides = Annotated[tuple[_Side, _Side, _Side, _Side], BeforeValidator(_sides)]
Names = Annotated[tuple[Name, ...], Field(max_length=MAX_NAMES), BeforeValidator(_names)]
