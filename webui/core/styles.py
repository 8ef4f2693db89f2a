"""Prompt styles: words that are put around a prompt or behind it, by name; and how other programs keep theirs."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from .fields import MAX_NAME
from .limits import LOCAL
from .request import Request, RequestError
from .settings_folder import STYLES, SettingsFolder, check_name

PLACE = "{prompt}"  # of the prompt in a style; a style without it is added behind a comma
MAX_BYTES = 4 * 1024 * 1024  # of a file with styles


@dataclass(frozen=True)
class Style:
    """Words for a prompt and for a negative prompt."""

    name: str
    prompt: str = ""
    negative_prompt: str = ""

    def to_json(self) -> dict[str, str]:
        """Its fields by name."""
        return asdict(self)


def read_style(data: Mapping[str, Any], name: str) -> Style | None:
    """A style from JSON data; None if it is none."""
    texts = [data.get(field, "") for field in ("prompt", "negative_prompt")]
    if not all(isinstance(text, str) and len(text) <= LOCAL.prompt for text in texts) or not any(texts):
        return None
    return Style(name, *texts)


def kept_styles(outputs: Path) -> dict[str, Style]:
    """The styles that are kept in an outputs folder, by name."""
    found = {name: read_style(data, name) for name, data in SettingsFolder(outputs, STYLES).all().items()}
    return {name: style for name, style in found.items() if style is not None}


def styled(text: str, styles: Iterable[str]) -> str:
    """A prompt with the words of styles, in their order: in place of {prompt}, or behind it."""
    for words in filter(None, map(str.strip, styles)):
        text = words.replace(PLACE, text) if PLACE in words else ", ".join(filter(None, (text.strip(), words)))
    return text


def with_styles(request: Request, styles: Mapping[str, Style]) -> Request:
    """The request with its styles written into its prompts, and without their names. RequestError if one is unknown."""
    if not request.styles:
        return request
    if unknown := [name for name in request.styles if name not in styles]:
        known = f"known are {', '.join(styles)}" if styles else "none is kept here yet"
        raise RequestError(f"Unknown style {unknown[0]!r}; {known}.")
    chosen = [styles[name] for name in request.styles]
    return request.model_copy(
        update=dict(
            prompt=styled(request.prompt, [style.prompt for style in chosen]),
            negative_prompt=styled(request.negative_prompt, [style.negative_prompt for style in chosen]),
            styles=(),
        )
    )


def read_styles(path: Path, name: str) -> list[Style]:
    """The styles of a file of another program: A1111's styles.csv, or the JSON lists of Fooocus and others.

    name  of the file as it was uploaded
    Raises RequestError where there is none in it.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise RequestError(f"{name} is larger than {MAX_BYTES >> 20} MB, which no file of styles is.")
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise RequestError(f"{name} is no text in UTF-8; save it as CSV UTF-8.") from None
    except OSError:
        raise RequestError(f"{name} cannot be read; upload it again.") from None
    entries = _from_json(text) if text.lstrip().startswith(("[", "{")) else _from_csv(text)
    found: dict[str, Style] = {}
    for entry in entries:
        title = str(entry.get("name") or "").strip()[:MAX_NAME]
        # Lines with a name alone divide A1111's menu.
        if style := read_style(entry, title) if title else None:
            found[title] = style
    for title in found:
        check_name(title)
    if not found:
        raise RequestError(
            f"{name} has no styles: it must be A1111's styles.csv, with the columns name, prompt and negative_prompt, "
            "or a JSON list of objects with these names."
        )
    return list(found.values())


def keep_styles(outputs: Path, styles: Sequence[Style]) -> None:
    """Keep styles in an outputs folder, in place of those with their names. Raises RequestError."""
    SettingsFolder(outputs, STYLES).save_all({style.name: style.to_json() for style in styles})


def _from_csv(text: str) -> list[dict[str, Any]]:
    try:
        rows = list(csv.DictReader(StringIO(text, newline="")))
    except csv.Error:
        return []
    # The oldest files call the prompt "text".
    return [
        {
            **row,
            "prompt": row.get("prompt") or row.get("text") or "",
            "negative_prompt": row.get("negative_prompt") or "",
        }
        for row in rows
    ]


def _from_json(text: str) -> list[dict[str, Any]]:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return []
    if isinstance(data, dict):
        data = [data]
    return [each for each in data if isinstance(each, dict)]
