"""A request as a query string and back. The query holds the settings that differ from their defaults.

Texts stand as they are, numbers and truth values as JSON; an option is `options.eta=0.5`. A link comes from a
stranger: it goes through the same checks as every request. Names that begin with "__" are Gradio's own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

from .fields import fields_of
from .request import Request, RequestError, sift

MAX_QUERY = 6_000  # characters; servers and messengers cut longer addresses
MAX_NAMES = 100  # in a query


def to_query(request: Request) -> str:
    """The query string of a request, without "?". RequestError if it is too long for an address."""
    pairs = []
    for name, field in fields_of(type(request)).items():
        value = getattr(request, name)
        # The path of an upload means nothing elsewhere.
        if field.kind is Path or value == field.default:
            continue
        if field.kind is dict:
            pairs += [(f"{name}.{key}", _write(each)) for key, each in value.items()]
        else:
            pairs.append((name, value if field.kind is str else json.dumps(value)))
    query = urlencode(pairs, quote_via=quote)
    if len(query) > MAX_QUERY:
        name, value = max(pairs, key=lambda pair: len(quote(pair[1])))
        raise RequestError(
            f"These settings are too long for a link, which has room for {MAX_QUERY} characters; {len(value)} of them "
            f"are in {name.rpartition('.')[2].replace('_', ' ')}. A picture carries all of it."
        )
    return query


def from_query(query: str, schema: type[Request] = Request) -> tuple[dict[str, Any], dict[str, str]]:
    """(valid fields of a request; a sentence for each invalid one). Two empty ones if the query is empty."""
    try:
        pairs = parse_qsl(query.removeprefix("?"), keep_blank_values=True, max_num_fields=MAX_NAMES)
    except ValueError:
        return {}, {"": f"The link has more than {MAX_NAMES} settings and was not read."}
    known = fields_of(schema)
    fields: dict[str, Any] = {}
    nested: dict[str, dict[str, Any]] = {}
    for name, value in pairs:
        group, _, key = name.partition(".")
        kind = known[name].kind if name in known else str
        if name.startswith("__") or kind is Path:
            continue
        if key and group in known and known[group].kind is dict:
            nested.setdefault(group, {})[key] = read_value(value)
        else:
            fields[name] = value if kind is str else read_value(value)
    return sift(nested | fields, schema)


def _write(value: Any) -> str:
    # A text that would be read as a number is quoted.
    return value if isinstance(value, str) and read_value(value) == value else json.dumps(value)


def read_value(text: str) -> Any:
    """The number or truth value that a text stands for in JSON, else the text."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return text if isinstance(value, list | dict) or value is None else value
