"""The axes of a grid, without gradio: read the values that a user typed, and change a request for each."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

from samplers.options import BoolOption, ChoiceOption, NumberOption, Option
from samplers.registry import Registry
from webui.core.fields import RequestField, fields_of
from webui.core.menus import guidances_in_order, in_order, schedules_in_order
from webui.core.plugin_fields import PLUGIN_FIELDS
from webui.core.request import Request, RequestError, read
from webui.core.text import as_sentence
from webui.core.text import title as as_title

MAX_VALUES = 256
MAX_CHARACTERS = 32_000
NAMED = {each.name: each for each in PLUGIN_FIELDS}  # their values are names from a menu
OPTIONS = {each.options.removesuffix("s"): each for each in PLUGIN_FIELDS}  # what the kind of an option begins with
PROMPT_HINT = "red apple -> rocket, cat face"


@dataclass(frozen=True)
class Value:
    """One value of an axis: its label, and `change(fields)`, which returns the fields of a request with it put in."""

    label: str
    change: Callable[[Mapping[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class Axis:
    """One axis: its kind ("sampler", "option:eta", ...), a title for people, and its values in order."""

    kind: str
    title: str
    values: tuple[Value, ...]


def axis_fields(schema: type[Request] = Request) -> dict[str, RequestField]:
    """The fields of a request that can vary along an axis, by name; their values are typed."""
    return {name: field for name, field in fields_of(schema).items() if field.setting.axis}


def kinds(registry: Registry, schema: type[Request] = Request) -> dict[str, str]:
    """Every kind of axis with its title: the request's own settings, then each declared option."""
    titles = {name: fields_of(schema)[name].title for name in (*NAMED, *axis_fields(schema))}
    options = {
        f"{where}:{name}": f"{as_title(where)}: {as_title(name)}"
        for where, each in OPTIONS.items()
        for name in declared(each.entries(registry))
    }
    return titles | {"prompt": "Prompt replacement"} | options


def declared(entries: Mapping[str, Any]) -> dict[str, list[Option]]:
    """The options of all plugins of a kind, by name; the same name may be declared in several ways."""
    options: dict[str, list[Option]] = {}
    for entry in entries.values():
        for option in entry.item.options:
            options.setdefault(option.name, []).append(option)
    return dict(sorted(options.items()))


def menu(kind: str, registry: Registry) -> list[str] | None:
    """The names that an axis of this kind can take, None if its values are typed."""
    if kind in NAMED:
        order = {"sampler": in_order, "schedule": schedules_in_order}.get(kind, guidances_in_order)
        return order(NAMED[kind].entries(registry))
    options = _options(kind, registry)
    if options and all(isinstance(option, ChoiceOption | BoolOption) for option in options):
        texts = [option.choices if isinstance(option, ChoiceOption) else ("true", "false") for option in options]
        return list(dict.fromkeys(chain.from_iterable(texts)))
    return None


def hint(kind: str, registry: Registry, schema: type[Request] = Request) -> str:
    """What can be typed for an axis of this kind."""
    if kind in axis_fields(schema):
        return axis_fields(schema)[kind].setting.axis
    options = _options(kind, registry)
    return PROMPT_HINT if kind == "prompt" else ", ".join(dict.fromkeys(option.allowed for option in options))


def read_axis(kind: str, given: str | Sequence[str], registry: Registry, schema: type[Request] = Request) -> Axis:
    """The axis that a user described; RequestError says what is wrong and what is allowed.

    given  the typed text, or the names chosen from the menu
    """
    known = kinds(registry, schema)
    if kind not in known:
        raise RequestError(f"Unknown axis {kind!r}; known are {', '.join(known)}.")
    title = known[kind]
    if sum(map(len, given)) > MAX_CHARACTERS:
        raise RequestError(f"The axis {title} is too long; allowed are {MAX_CHARACTERS} characters.")
    if kind == "prompt":
        values = _replacements(given if isinstance(given, str) else ", ".join(given))
    else:
        texts = split(given) if isinstance(given, str) else [str(name) for name in given]
        values = [
            _value(kind, text, title, registry, schema) for text in _expanded(kind, texts, registry, title, schema)
        ]
    if not values:
        examples = hint(kind, registry, schema) or "at least one name"
        raise RequestError(f"The axis {title} has no values; give {examples}.")
    if len(values) > MAX_VALUES:
        raise RequestError(f"The axis {title} has too many values; allowed are {MAX_VALUES}.")
    labels = [value.label for value in values]
    if twice := next((label for label in labels if labels.count(label) > 1), None):
        raise RequestError(f"The axis {title} has {twice!r} twice.")
    return Axis(kind, title, tuple(values))


def split(text: str) -> list[str]:
    """The values of a typed list: apart at commas and line breaks, "quoted" where they contain some."""
    try:
        rows = list(csv.reader(text.splitlines(), skipinitialspace=True))
    except csv.Error as error:
        raise RequestError(f"The values of an axis cannot be read ({error}); give them apart by commas.") from None
    return [value.strip() for row in rows for value in row if value.strip()]


def _options(kind: str, registry: Registry) -> list[Option]:
    where, _, name = kind.partition(":")
    return declared(OPTIONS[where].entries(registry)).get(name, []) if where in OPTIONS else []


def _expanded(kind: str, texts: Sequence[str], registry: Registry, title: str, schema: type[Request]) -> list[str]:
    """Write out ranges like 5..30 +5, for numbers only; stop above MAX_VALUES."""
    field = axis_fields(schema).get(kind)
    numeric = (field is not None and field.kind in (int, float)) or any(
        isinstance(option, NumberOption) for option in _options(kind, registry)
    )
    expanded: list[str] = []
    for text in texts:
        expanded += _range(text, title) if numeric and ".." in text else [text]
        if len(expanded) > MAX_VALUES:
            break
    return expanded


def _range(text: str, title: str) -> list[str]:
    first, _, rest = text.partition("..")
    last, plus, by = rest.partition("+")
    try:
        low, high, step = float(first), float(last), float(by) if plus else 1.0
        # A little more than half of the rounding that decimal steps collect.
        count = math.floor((high - low) / step + 1e-9) + 1
    except (ValueError, ZeroDivisionError, OverflowError):
        raise RequestError(f"The axis {title}: {text!r} is no range; write it like 5..30 +5.") from None
    if count < 1:
        raise RequestError(f"The axis {title}: the range {text!r} is empty; write the lower end first.")
    if count > MAX_VALUES:
        raise RequestError(f"The axis {title}: the range {text!r} has {count} values; allowed are {MAX_VALUES}.")
    return [
        f"{round(low + i * step, 9):g}" if abs(low + i * step) < 1e5 else f"{low + i * step:.0f}" for i in range(count)
    ]


def _value(kind: str, text: str, title: str, registry: Registry, schema: type[Request]) -> Value:
    where, _, name = kind.partition(":")
    if where in OPTIONS:
        return _option_value(OPTIONS[where].options, name, text, _options(kind, registry))
    if kind in NAMED:
        try:
            chosen = NAMED[kind].find(registry, text)
        except ValueError as error:
            raise RequestError(as_sentence(str(error))) from None
        return Value(chosen.name, partial(_with, kind, NAMED[kind].named(chosen)))
    field = axis_fields(schema)[kind]
    value = _number(text) if field.kind in (int, float) else field.parse(text)
    if value is None:
        raise RequestError(f"The axis {title}: {text!r} is no number.")
    if kind in ("seed", "variation_seed") and value == -1:
        raise RequestError(f"The axis {title}: -1 would be another random seed each time; give numbers from 0 on.")
    # Checked by the request's own rules: a wrong value is reported once here, not in every cell.
    read({kind: value}, schema)
    return _setting(kind, value)


def _setting(name: str, value: bool | int | float | str) -> Value:
    return Value(_shown(value), partial(_with, name, value))


def _with(name: str, value: bool | int | float | str, fields: Mapping[str, Any]) -> dict[str, Any]:
    return {**fields, name: value}


def _option_value(group: str, name: str, text: str, options: Sequence[Option]) -> Value:
    switch, number = {"true": True, "false": False}.get(text.lower()), _number(text)

    def chosen(value: bool | int | float | str) -> Value:
        return Value(_shown(value), lambda fields: {**fields, group: {**fields.get(group, {}), name: value}})

    for guess in (switch, number, text):
        for option in options:
            try:
                if guess is not None and option.check(guess) is not None:
                    return chosen(guess)
            except ValueError:
                continue
    allowed = " or ".join(dict.fromkeys(option.allowed for option in options))
    raise RequestError(f"Option {name!r} is {text!r}; allowed is {allowed}.")


def _replacements(text: str) -> list[Value]:
    old, arrow, new = text.partition("->")
    old = old.strip()
    if not arrow or not old or not split(new):
        raise RequestError(
            f"Prompt replacement needs the words to replace, an arrow and their replacements: {PROMPT_HINT}."
        )

    def replaced(by: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        texts = {name: fields.get(name, "") for name in ("prompt", "negative_prompt")}
        if not any(old in each for each in texts.values()):
            raise RequestError(f"Prompt replacement: {old!r} does not occur in the prompt.")
        return {**fields, **{name: each.replace(old, by) for name, each in texts.items()}}

    return [Value(by, partial(replaced, by)) for by in split(new)]


def _number(text: str) -> int | float | None:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _shown(value: bool | int | float | str) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)
