"""Render the page's HTML from the jinja2 macros in this folder. Values are escaped; a missing value is an error."""

from __future__ import annotations

import base64
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup


def render(file: str, macro: str, /, *values: Any, **named: Any) -> Markup:
    """The HTML of a macro in `file`.html; an empty string where the macro gives nothing.

    Text is escaped and `Markup`, which this function returns, is not: so macros can be put into one another. Joining
    Markup with `+` or `Markup().join` keeps that; an f-string makes a plain text of it, which is escaped once more.
    """
    return Markup(getattr(_environment().get_template(f"{file}.html").module, macro)(*values, **named).strip())


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters["base64"] = lambda data: base64.b64encode(data).decode("ascii")
    return environment
