"""Options of samplers and schedules: a function's keyword-only arguments are their whole description.

    def ddim(denoise, x, sigmas, noise, *, eta: Annotated[float, Range(0, 1), "how much fresh noise"] = 0.0)

From this signature come the page's controls, the API's schema, the metadata and every error message.
"""

from __future__ import annotations

import inspect
import math
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

KINDS = {float: "float", int: "int", bool: "bool", str: "text"}
USUAL_LENGTH, MOST_LENGTH = 1_000, 100_000  # characters of a text: undeclared, and as much as may be declared


@dataclass(frozen=True)
class Range:
    """Allowed values of a number, both ends included; `step` is what a slider moves by."""

    low: float
    high: float
    step: float | None = None


@dataclass(frozen=True, init=False)
class Choice:
    """Allowed values of a text: `Choice("dopri5", "heun")`."""

    values: tuple[str, ...]

    def __init__(self, *values: str):
        object.__setattr__(self, "values", values)


@dataclass(frozen=True)
class Length:
    """The most characters of a text, 100,000 at most; without it a text has room for 1,000."""

    characters: int


@dataclass(frozen=True)
class Option:
    """One declared option: its name, kind ("float", "int", "bool", "choice" or "text"), default and limits.

    longest  characters of a text
    """

    name: str
    kind: str
    default: Any
    low: float | None = None
    high: float | None = None
    step: float | None = None
    choices: tuple[str, ...] = ()
    help: str = ""
    longest: int = USUAL_LENGTH

    @property
    def allowed(self) -> str:
        """What a user may give, in words."""
        if self.kind == "choice":
            return "one of " + ", ".join(map(repr, self.choices))
        if self.kind == "bool":
            return "true or false"
        if self.kind == "text":
            return f"a text of at most {self.longest} characters"
        number = "a whole number" if self.kind == "int" else "a number"
        return f"{number} from {self.low:g} to {self.high:g}"

    def check(self, value: Any) -> Any:
        """Return the value as this option's type, or raise ValueError saying what is allowed."""
        accepted = self._accept(value)
        if accepted is None:
            what = f"has {len(value)} characters" if self._too_long(value) else f"is {value!r}"
            raise ValueError(f"option {self.name!r} {what}; allowed is {self.allowed}")
        return accepted

    def _accept(self, value: Any) -> Any:
        if self.kind == "bool":
            return value if isinstance(value, bool) else None
        if self.kind in ("choice", "text"):
            fits = isinstance(value, str) and (self.kind == "text" or value in self.choices)
            return value if fits and not self._too_long(value) else None
        # bool is an int in Python, but `steps=True` is a slip, never a number.
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return None
        # This refuses NaN and infinity too, and takes whole numbers too large for a float.
        if not self.low <= value <= self.high:
            return None
        if self.kind == "int":
            return int(value) if value == int(value) else None
        return float(value)

    def _too_long(self, value: Any) -> bool:
        return self.kind == "text" and isinstance(value, str) and len(value) > self.longest

    def schema(self) -> dict[str, Any]:
        """The option as plain JSON data, without the fields that do not apply."""
        fields = dict(name=self.name, kind=self.kind, default=self.default, help=self.help)
        if self.kind in ("int", "float"):
            fields |= dict(low=self.low, high=self.high, step=self.step)
        if self.kind == "choice":
            fields |= dict(choices=list(self.choices))
        if self.kind == "text":
            fields |= dict(longest=self.longest)
        return fields


def read_options(function: Callable, positional: tuple[str, ...]) -> tuple[Option, ...]:
    """Read the options of a function whose leading arguments must be `positional`, in any spelling.

    Raises TypeError, naming the function and the argument, where the signature is not of this form.
    """
    parameters = list(inspect.signature(function).parameters.values())
    leading = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    options = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    where = f"{function.__name__}()"
    if len(leading) != len(positional) or len(leading) + len(options) != len(parameters):
        raise TypeError(f"{where} must take ({', '.join(positional)}) and, after a *, its options")
    hints = typing.get_type_hints(function, include_extras=True)
    return tuple(_option(where, p, hints.get(p.name)) for p in options)


def _option(where: str, parameter: inspect.Parameter, hint: Any) -> Option:
    name, default = parameter.name, parameter.default
    extras = getattr(hint, "__metadata__", ())
    kind = KINDS.get(typing.get_args(hint)[0] if extras else hint)
    limits = next((e for e in extras if isinstance(e, (Range, Choice))), None)
    text = next((e for e in extras if isinstance(e, str)), "")
    longest = next((e.characters for e in extras if isinstance(e, Length)), USUAL_LENGTH)
    if not 1 <= longest <= MOST_LENGTH:
        raise TypeError(f"{where}: option {name!r} has a length of {longest}; allowed is 1 to {MOST_LENGTH}")
    if kind is None or default is parameter.empty:
        raise TypeError(f"{where}: option {name!r} needs a type (float, int, bool or str) and a default")
    if kind in ("float", "int"):
        if not isinstance(limits, Range) or not limits.low < limits.high < math.inf or limits.low == -math.inf:
            raise TypeError(f"{where}: option {name!r} is a number and needs Annotated[{kind}, Range(low, high)]")
        option = Option(name, kind, default, limits.low, limits.high, limits.step, help=text)
    elif kind == "text" and isinstance(limits, Choice):
        option = Option(name, "choice", default, choices=limits.values, help=text)
    else:
        option = Option(name, kind, default, help=text, longest=longest)
    try:
        option.check(default)
    except ValueError as error:
        raise TypeError(f"{where}: the default of {error}") from None
    return option


def resolve(owner: str, options: tuple[Option, ...], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return every option's value, the given ones checked and the others at their defaults.

    Raises ValueError that names `owner`, the option and what is allowed.
    """
    known = {option.name: option for option in options}
    unknown = [name for name in given if name not in known]
    if unknown:
        takes = ", ".join(known) or "no options"
        raise ValueError(f"{owner} has no option {unknown[0]!r}; it takes {takes}")
    try:
        return {name: option.check(given.get(name, option.default)) for name, option in known.items()}
    except ValueError as error:
        raise ValueError(f"{owner}: {error}") from None
