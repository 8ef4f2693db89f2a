"""A request as a query string and back: what differs from a request's defaults, as short as it can be read.

Texts stand as they are, numbers and truth values as JSON; an option is `options.eta=0.5`. A link comes from a
stranger: what it says goes through the same checks as every request. Names that begin with "__" are Gradio's own.
"""

from __future__ import annotations

import json
from typing import Any, Literal, get_origin
from urllib.parse import parse_qsl, quote, urlencode

from webui.core.request import sift

from .request import Request, RequestError

LONGEST = 6_000  # characters of a query; servers and messengers cut longer addresses
MOST = 100  # names in a query
NESTED = ("options", "schedule_options")
# The path of an upload means nothing elsewhere.
LEFT_OUT = ("image",)


def to_query(request: Request) -> str:
    """The query string of a request, without "?". RequestError if it is too long for an address."""
    pairs = []
    for name, field in Request.model_fields.items():
        value = getattr(request, name)
        if name in LEFT_OUT or value == field.default:
            continue
        if name in NESTED:
            pairs += [(f"{name}.{key}", _write(each)) for key, each in value.items()]
        else:
            pairs.append((name, value if _is_text(name) else json.dumps(value)))
    query = urlencode(pairs, quote_via=quote)
    if len(query) > LONGEST:
        name, value = max(pairs, key=lambda pair: len(quote(pair[1])))
        raise RequestError(
            f"These settings are too long for a link, which has room for {LONGEST} characters; {len(value)} of them are in "
            f"{name.rpartition('.')[2].replace('_', ' ')}. A picture carries all of it."
        )
    return query


def from_query(query: str) -> tuple[dict[str, Any], dict[str, str]]:
    """(the fields of a request, each valid by itself; a sentence for each that is not). Nothing in it: two empty ones."""
    try:
        pairs = parse_qsl(query.removeprefix("?"), keep_blank_values=True, max_num_fields=MOST)
    except ValueError:
        return {}, {"": f"The link has more than {MOST} settings and was not read."}
    fields: dict[str, Any] = {}
    nested: dict[str, dict[str, Any]] = {}
    for name, value in pairs:
        group, _, key = name.partition(".")
        if name.startswith("__"):
            continue
        if group in NESTED and key:
            nested.setdefault(group, {})[key] = _read(value)
        else:
            fields[name] = value if _is_text(name) or name not in Request.model_fields else _read(value)
    for name in LEFT_OUT:
        fields.pop(name, None)
    return sift(nested | fields)


def _is_text(name: str) -> bool:
    field = Request.model_fields.get(name)
    return field is not None and (field.annotation is str or get_origin(field.annotation) is Literal)


def _write(value: Any) -> str:
    # A text that would be read as a number is quoted.
    return value if isinstance(value, str) and _read(value) == value else json.dumps(value)


def _read(text: str) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return text if isinstance(value, list | dict) or value is None else value
