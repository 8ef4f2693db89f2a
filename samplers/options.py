"""Options of samplers and schedules: a function's keyword-only arguments are their whole description.

    def ddim(denoise, x, sigmas, noise, *, eta: Annotated[float, Range(0, 1), "how much fresh noise"] = 0.0)

From this signature come the page's controls, the API's schema, the metadata and every error message.
"""

from __future__ import annotations

import inspect
import math
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

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
class Former:
    """What a plugin of an earlier `version` did, before it had this option: pictures of it are drawn again so."""

    version: str
    value: Any


@dataclass(frozen=True)
class Option(ABC):
    """One declared option. Its kind, "float", "int", "bool", "choice" or "text", is a class of its own below."""

    name: str
    default: Any
    help: str = field(default="", kw_only=True)
    former: Former | None = field(default=None, kw_only=True)

    @property
    @abstractmethod
    def kind(self) -> str:
        """The word for it in schemas."""

    @property
    @abstractmethod
    def allowed(self) -> str:
        """What a user may give, in words."""

    @abstractmethod
    def check(self, value: Any) -> Any:
        """Return the value as this option's type, or raise ValueError saying what is allowed."""

    def schema(self) -> dict[str, Any]:
        """The option as plain JSON data."""
        return dict(name=self.name, kind=self.kind, default=self.default, help=self.help) | self._limits()

    def _limits(self) -> dict[str, Any]:
        return {}

    def _refuse(self, what: str) -> ValueError:
        return ValueError(f"option {self.name!r} {what}; allowed is {self.allowed}")


@dataclass(frozen=True)
class NumberOption(Option):
    """A number from low to high, both included; `step` is what a slider moves by, `whole` allows no fractions."""

    low: float
    high: float
    step: float | None = None
    whole: bool = field(default=False, kw_only=True)

    @property
    def kind(self) -> str:
        """See `Option`."""
        return "int" if self.whole else "float"

    @property
    def allowed(self) -> str:
        """See `Option`."""
        return f"a {'whole ' if self.whole else ''}number from {self.low:g} to {self.high:g}"

    def check(self, value: Any) -> int | float:
        """See `Option`."""
        # bool is an int in Python, but `steps=True` is a slip, never a number.
        number = isinstance(value, int | float) and not isinstance(value, bool)
        # The comparison refuses NaN and infinity too, and takes whole numbers too large for a float.
        if not number or not self.low <= value <= self.high or (self.whole and value != int(value)):
            raise self._refuse(f"is {value!r}")
        return int(value) if self.whole else float(value)

    def _limits(self) -> dict[str, Any]:
        return dict(low=self.low, high=self.high, step=self.step)


@dataclass(frozen=True)
class BoolOption(Option):
    """True or false."""

    @property
    def kind(self) -> str:
        """See `Option`."""
        return "bool"

    @property
    def allowed(self) -> str:
        """See `Option`."""
        return "true or false"

    def check(self, value: Any) -> bool:
        """See `Option`."""
        if not isinstance(value, bool):
            raise self._refuse(f"is {value!r}")
        return value


@dataclass(frozen=True)
class ChoiceOption(Option):
    """One of several texts."""

    choices: tuple[str, ...]

    @property
    def kind(self) -> str:
        """See `Option`."""
        return "choice"

    @property
    def allowed(self) -> str:
        """See `Option`."""
        return "one of " + ", ".join(map(repr, self.choices))

    def check(self, value: Any) -> str:
        """See `Option`."""
        if not isinstance(value, str) or value not in self.choices:
            raise self._refuse(f"is {value!r}")
        return value

    def _limits(self) -> dict[str, Any]:
        return dict(choices=list(self.choices))


@dataclass(frozen=True)
class TextOption(Option):
    """Any text of at most `longest` characters."""

    longest: int = USUAL_LENGTH

    @property
    def kind(self) -> str:
        """See `Option`."""
        return "text"

    @property
    def allowed(self) -> str:
        """See `Option`."""
        return f"a text of at most {self.longest} characters"

    def check(self, value: Any) -> str:
        """See `Option`."""
        if not isinstance(value, str):
            raise self._refuse(f"is {value!r}")
        if len(value) > self.longest:
            raise self._refuse(f"has {len(value)} characters")
        return value

    def _limits(self) -> dict[str, Any]:
        return dict(longest=self.longest)


def read_options(function: Callable, positional: tuple[str, ...], others: tuple[str, ...] = ()) -> tuple[Option, ...]:
    """Read the options of a function whose leading arguments must be `positional`, in any spelling.

    others  keyword-only arguments that it has beside its options
    Raises TypeError, naming the function and the argument, where the signature is not of this form.
    """
    parameters = list(inspect.signature(function).parameters.values())
    leading = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    options = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    where = f"{function.__name__}()"
    if missing := [name for name in others if name not in {p.name for p in options}]:
        raise TypeError(f"{where} must take the keyword argument {missing[0]}=None")
    if len(leading) != len(positional) or len(leading) + len(options) != len(parameters):
        raise TypeError(f"{where} must take ({', '.join(positional)}) and, after a *, its options")
    hints = typing.get_type_hints(function, include_extras=True)
    return tuple(_option(where, p, hints.get(p.name)) for p in options if p.name not in others)


def _option(where: str, parameter: inspect.Parameter, hint: Any) -> Option:
    """The option that a parameter and its annotation declare."""
    name, default = parameter.name, parameter.default
    extras = getattr(hint, "__metadata__", ())
    of_type = typing.get_args(hint)[0] if extras else hint
    limits = next((each for each in extras if isinstance(each, Range | Choice)), None)
    text = next((each for each in extras if isinstance(each, str)), "")
    longest = next((each.characters for each in extras if isinstance(each, Length)), USUAL_LENGTH)
    if not 1 <= longest <= MOST_LENGTH:
        raise TypeError(f"{where}: option {name!r} has a length of {longest}; allowed is 1 to {MOST_LENGTH}")
    if of_type not in (float, int, bool, str) or default is parameter.empty:
        raise TypeError(f"{where}: option {name!r} needs a type (float, int, bool or str) and a default")
    option: Option
    if of_type in (float, int):
        if not isinstance(limits, Range) or not -math.inf < limits.low < limits.high < math.inf:
            wanted = f"Annotated[{of_type.__name__}, Range(low, high)]"
            raise TypeError(f"{where}: option {name!r} is a number and needs {wanted}")
        option = NumberOption(name, default, limits.low, limits.high, limits.step, whole=of_type is int, help=text)
    elif of_type is bool:
        option = BoolOption(name, default, help=text)
    elif isinstance(limits, Choice):
        option = ChoiceOption(name, default, limits.values, help=text)
    else:
        option = TextOption(name, default, longest, help=text)
    try:
        option.check(default)
        former = next((each for each in extras if isinstance(each, Former)), None)
        if former:
            option = replace(option, former=Former(former.version, option.check(former.value)))
    except ValueError as error:
        raise TypeError(f"{where}: the default of {error}") from None
    return option


def with_former(options: tuple[Option, ...], version: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a picture by this version of a plugin gives, and what it did where they are newer than it."""
    former = {option.name: option.former for option in options if option.former}
    return {name: each.value for name, each in former.items() if each.version == version} | dict(given)


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
