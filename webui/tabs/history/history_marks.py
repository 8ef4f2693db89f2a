"""What is remembered of pictures beside them: those with a heart, the Lab's cells, and those that were deleted.

A picture is named as in the index, "2026-11-27/101500-7.png". Nothing here is in the index, which may be lost.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path

from webui.core.storage import CELLS, move, write_over

HEARTS, DELETED = "hearts.txt", ".deleted"


class Marks:
    """The marks of the pictures in a folder; safe to use from any thread."""

    def __init__(self, folder: Path):
        self._folder, self._lock = folder, threading.Lock()

    def name_of(self, path: Path) -> str:
        """How a picture of the folder is named."""
        return f"{path.parent.name}/{path.name}"

    def hearts(self) -> list[str]:
        """The pictures with a heart."""
        try:
            return list(dict.fromkeys(filter(None, (self._folder / HEARTS).read_text("utf-8").splitlines())))
        except OSError:
            return []

    def turn_heart(self, path: Path) -> bool:
        """Give a picture a heart or take it away; whether it has one now. Raises OSError."""
        name = self.name_of(path)
        with self._lock:
            before = self.hearts()
            after = [each for each in before if each != name] if name in before else [*before, name]
            write_over(self._folder / HEARTS, "".join(f"{each}\n" for each in after).encode())
        return name in after

    def cells(self) -> list[str]:
        """The pictures that the Lab drew as cells of grids."""
        try:
            lines = (self._folder / CELLS).read_text("utf-8", errors="replace").splitlines()
        except OSError:
            return []
        names = []
        for line in lines:
            try:
                names.append(str(json.loads(line)["file"]))
            except (ValueError, TypeError, KeyError, RecursionError):
                continue
        return names

    def delete(self, path: Path) -> Path:
        """Move a picture out of the history; where it is then. Raises OSError."""
        return move(path, self._folder / DELETED / path.parent.name)

    def bring_back(self, path: Path) -> Path:
        """Undo `delete`; where the picture is then. Raises OSError."""
        return move(path, self._folder / path.parent.name)
