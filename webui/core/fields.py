"""The fields of a request as data, read from its annotations.

    steps: Annotated[Whole, Field(ge=1, le=1000), Setting("Steps", infotext="Steps", axis="5, 10, 20")] = 20

Type, range and default are pydantic's; `Setting` has the rest. Widgets, API arguments, the browser's memory, links,
infotext, grid axes and error sentences are derived from this one line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from samplers.options import MOST_LENGTH

from .text import title

MAX_NAME = 200  # characters
Group = Literal[
    "",
    "method",
    "conditioning",
    "interval",
    "size",
    "seed",
    "input",
    "inpaint",
    "tiles",
    "upscaler",
    "hires",
    "refiner",
    "variation",
]


@dataclass(frozen=True)
class Setting:
    """How the program shows a field of a request.

    label        of its widget; a field without a label has no widget that is built from this description
    help         shown below the widget
    group        the row of the form where the widget stands; "" if the form places it by name
    step         of a slider; a number without a step gets a number box
    choices      labels for the values of a Literal, in their order; by default the capitalised values
    infotext     name in A1111's "parameters" text
    axis         examples of values on an axis of a grid; a field without examples is no axis
    allowed      for the error sentence, where type and range do not say enough
    needs_input  the field counts only with an input picture
    needs_words  the field counts only without one
    conditioning  the field is an argument of `Model.denoiser` of the same name
    """

    label: str = ""
    help: str = ""
    group: Group = ""
    step: float | None = None
    choices: tuple[str, ...] = ()
    infotext: str = ""
    axis: str = ""
    allowed: str = ""
    needs_input: bool = False
    needs_words: bool = False
    conditioning: bool = False


@dataclass(frozen=True)
class RequestField:
    """One field: its type (int, float, bool, str, dict, tuple or Path), default, range and Setting.

    values   the allowed ones of a Literal
    longest  characters of a text
    item     the type of what a tuple holds
    """

    name: str
    kind: type
    default: Any
    setting: Setting
    low: float | None = None
    high: float | None = None
    values: tuple[str, ...] = ()
    longest: int | None = None
    item: type = int

    @property
    def title(self) -> str:
        """The name as a label."""
        return title(self.name)

    @property
    def is_upload(self) -> bool:
        """Whether its value is the path of an uploaded file, which means nothing elsewhere."""
        return self.kind is Path

    @property
    def choices(self) -> list[tuple[str, str]]:
        """(label, value) of each value of a Literal."""
        return list(zip(self.setting.choices or [title(value) for value in self.values], self.values, strict=True))

    @property
    def allowed(self) -> str:
        """What a user may give, in words."""
        if self.setting.allowed:
            return self.setting.allowed
        if self.values:
            *first, last = map(repr, self.values)
            return f"{', '.join(first)} or {last}"
        if self.kind is bool:
            return "true or false"
        if self.kind in (int, float):
            number = "a whole number" if self.kind is int else "a number"
            return f"{number} from {self.low:g} to {self.high:g}"
        return f"a text of at most {self.longest} characters" if self.kind is str else "names with values"

    def parse(self, text: str) -> int | float | bool | str | None:
        """The value that a text stands for, its range unchecked; None if it is not of the field's type."""
        if self.kind is bool:
            return {"true": True, "false": False}.get(text.strip().lower())
        if self.kind in (str, tuple):
            return text
        try:
            # Whole numbers not through a float: the seeds of some programs have 64 bits.
            whole = self.kind is int and text.strip().lstrip("-").isdigit()
            return int(text) if whole else self.kind(float(text))
        except (ValueError, OverflowError):
            return None


@cache
def fields_of(schema: type[BaseModel]) -> Mapping[str, RequestField]:
    """The fields of a request class by name."""
    return MappingProxyType({name: _field(name, info) for name, info in schema.model_fields.items()})


def form_fields(schema: type[BaseModel]) -> list[RequestField]:
    """The fields that have a widget built from their description, in their order."""
    return [field for field in fields_of(schema).values() if field.setting.label]


def input_fields(schema: type[BaseModel]) -> list[str]:
    """The names of the fields that count only with an input picture."""
    return [field.name for field in fields_of(schema).values() if field.setting.needs_input]


def upload_fields(schema: type[BaseModel]) -> list[str]:
    """The names of the fields whose values are uploaded files."""
    return [field.name for field in fields_of(schema).values() if field.is_upload]


def problem_text(problem: Mapping[str, Any], fields: Mapping[str, RequestField]) -> str:
    """One of pydantic's problems with a request as a sentence that says what is allowed."""
    where = [str(part) for part in problem["loc"]]
    name = where[0] if where else "request"
    if problem["type"] == "extra_forbidden":
        return f"Unknown setting {name[:MAX_NAME]!r}; known are {', '.join(fields)}."
    if name not in fields:
        return f"The request cannot be read: {problem['msg']}."
    if len(where) > 1 and fields[name].kind is dict:
        allowed = f"a number, a text of at most {MOST_LENGTH} characters, true or false"
        return f"{title(name)}: option {where[1]!r} must be {allowed}."
    if problem["type"] == "value_error" and fields[name].kind is str:
        return f"{title(name)} must be a text without NUL characters and broken Unicode (lone surrogates)."
    return f"{title(name)} must be {fields[name].allowed}."


def _field(name: str, info: FieldInfo) -> RequestField:
    def limit(attribute: str) -> Any:
        return next((getattr(each, attribute) for each in info.metadata if hasattr(each, attribute)), None)

    setting = next((each for each in info.metadata if isinstance(each, Setting)), Setting())
    annotation = info.annotation
    values = get_args(annotation) if get_origin(annotation) is Literal else ()
    kinds = (bool, int, float, str, dict, tuple, Path)
    among = (annotation, get_origin(annotation), *get_args(annotation))
    kind = str if values else next(each for each in kinds if each in among)
    item = str if kind is tuple and any(str in get_args(each) for each in get_args(annotation)) else int
    return RequestField(name, kind, info.default, setting, limit("ge"), limit("le"), values, limit("max_length"), item)
