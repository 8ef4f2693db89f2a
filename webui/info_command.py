"""`python launch.py info FILE...`: the settings that pictures carry, as PNG Info shows them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .core.request import RequestError
from .engine.engine import Engine
from .engine.plugin_reloading import find_plugins
from .importers.imported_settings import read_imported_settings
from .settings import Settings


def show_files(settings: Settings, files: Sequence[Path], as_json: bool = False) -> int:
    """Print what each file says, `name: value` a line, and what of it has no counterpart; 0 if all could be read."""
    engine = Engine(find_plugins(settings), settings)
    found = [describe(file, engine) for file in files]
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        for one in found:
            print_settings(one, titled=len(found) > 1)
    return 1 if any("error" in one for one in found) else 0


def describe(file: Path, engine: Engine) -> dict[str, Any]:
    """The settings of a file as JSON data; of one that cannot be read, its name and an "error"."""
    try:
        read = read_imported_settings(file, engine.registry, engine.models(), engine.upscalers())
    except RequestError as error:
        return dict(file=str(file), error=str(error))
    return dict(
        file=str(file),
        **read.to_json(),
        parameters=read.text,
    )


def print_settings(one: dict[str, Any], titled: bool) -> None:
    """Print the settings of a file; everything in them comes from outside."""
    if titled:
        print(f"== {one['file']}")
    if "error" in one:
        print(f"{'' if titled else one['file'] + ': '}{printable(one['error'])}")
        return
    print(f"Program: {printable(one['program'])}")
    for name, value in one["settings"].items():
        print(f"{printable(name)}: {printable(value)}")
    for sentence in (*one["missing"], *one["notes"]):
        print(f"Not matched: {printable(sentence)}")


def printable(text: str) -> str:
    """A text with what a terminal would act on, line breaks among it, as escapes."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)
