"""Named settings that are kept on the server: one JSON file each, in the folder "settings" of the outputs."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .fields import MAX_NAME
from .request import RequestError
from .storage import SETTINGS, write_over

PRESETS, STYLES = "presets", "styles"
MAX_FILES = 1000  # of a kind
MAX_BYTES = 256 * 1024  # of a file
PLAIN = re.compile(r"[a-z0-9][a-z0-9 _-]{0,60}")  # names that are file names everywhere
# Of devices of Windows, which are no names of files there.
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)")

log = logging.getLogger(__name__)


class SettingsFolder:
    """JSON objects by name. Names that differ in upper and lower case alone are the same; files may also be edited.

    outputs  the outputs folder; it need not exist
    kind     PRESETS or STYLES, the name of the folder
    """

    def __init__(self, outputs: Path, kind: str):
        self._folder, self._kind = outputs / SETTINGS / kind, kind

    def all(self) -> dict[str, dict[str, Any]]:
        """What is kept, by name and in their order; what cannot be read is left out."""
        found = dict(each for path in self._paths() if (each := _read(path)))
        return dict(sorted(found.items(), key=lambda each: each[0].casefold()))

    def save(self, name: str, data: dict[str, Any]) -> None:
        """Keep an object under a name, in place of one that has it. Raises RequestError."""
        self.save_all({name: data})

    def save_all(self, given: Mapping[str, dict[str, Any]]) -> None:
        """Keep objects under their names, in place of those that have them. Raises RequestError."""
        texts = {name: _text_of(name, data) for name, data in given.items()}
        known = self._by_name()
        new = {name.casefold() for name in texts} - known.keys()
        if new and len(self._paths()) + len(new) > MAX_FILES:
            raise RequestError(f"There would be more than {MAX_FILES} {self._kind}; delete some first.")
        for name, text in texts.items():
            path = known.get(name.casefold(), self._folder / file_name(name))
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                write_over(path, text.encode())
            except OSError as error:
                raise RequestError(f"{name} cannot be kept in {self._kind}: {error.strerror or error}.") from None

    def delete(self, name: str) -> None:
        """Forget an object. Raises RequestError where there is none of this name."""
        path = self._by_name().get(name.casefold())
        if path is None:
            raise RequestError(f"There is no {self._kind.removesuffix('s')} {name[:MAX_NAME]!r}.")
        try:
            path.unlink()
        except OSError as error:
            raise RequestError(f"{name} cannot be deleted: {error.strerror or error}.") from None

    def _paths(self) -> list[Path]:
        # Hidden ones are being written.
        return sorted(path for path in self._folder.glob("*.json") if not path.name.startswith("."))[:MAX_FILES]

    def _by_name(self) -> dict[str, Path]:
        # Of files that say the same name, the first counts.
        return {found[0].casefold(): path for path in reversed(self._paths()) if (found := _read(path))}


def check_name(name: str) -> None:
    """Raises RequestError unless settings can be kept under this name."""
    if not 0 < len(name) <= MAX_NAME or name != name.strip() or not name.isprintable():
        raise RequestError(f"A name has 1 to {MAX_NAME} characters, without line breaks.")


def file_name(name: str) -> str:
    """The name of a file that exists on no system yet for another name."""
    small = name.casefold()
    if PLAIN.fullmatch(small) and not small.endswith(" ") and not RESERVED.fullmatch(small):
        return f"{small}.json"
    readable = re.sub(r"[^a-z0-9]+", "-", small).strip("-")[:40] or "settings"
    return f"{readable}-{hashlib.sha256(small.encode()).hexdigest()[:8]}.json"


def _text_of(name: str, data: dict[str, Any]) -> str:
    """The text of a file; RequestError where it cannot be kept."""
    check_name(name)
    text = json.dumps({**data, "name": name}, ensure_ascii=False, indent=1)
    if len(text) > MAX_BYTES:
        raise RequestError(f"{name} is too long to be kept; allowed are {MAX_BYTES >> 10} KB.")
    return text


def _read(path: Path) -> tuple[str, dict[str, Any]] | None:
    try:
        if path.stat().st_size > 4 * MAX_BYTES:
            raise ValueError("too long")
        data = json.loads(path.read_text("utf-8"))
        name = data.get("name", path.stem)
        check_name(name)
        return name, data
    # From outside: anything may be wrong with it.
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        log.warning("the settings %s cannot be read: %s", path, error)
        return None
