"""Update the index of the history in a thread of its own, so that saving and reading never wait for it."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .history_index import END, HistoryEntry, Index
from .history_marks import Marks

log = logging.getLogger(__name__)


class History:
    """The pictures in a folder; safe to use from any thread.

    One thread at a time writes the index, and ends when there is nothing to write. Where it cannot write, because
    another program holds the index or the folder is read-only, it logs that, and a later `refresh` adds what is
    missing by comparing the index with the files. A damaged index is rebuilt.

    marks  what is remembered of the pictures beside them
    """

    def __init__(self, folder: Path):
        self._index, self.marks = Index(folder), Marks(folder)
        self._lock = threading.Lock()
        self._saved: list[Path] = []
        self._stale = False
        self._problem: str | None = None
        self._thread: threading.Thread | None = None

    def add(self, path: Path) -> None:
        """Add a picture that was just saved; returns at once and never fails."""
        with self._lock:
            self._saved.append(path)
            self._begin()

    def refresh(self, wait: float = 0.0) -> bool:
        """Start updating the index from the files; True if it is up to date after at most `wait` seconds."""
        with self._lock:
            self._stale = True
            thread = self._begin()
        thread.join(wait)
        return not thread.is_alive()

    @property
    def problem(self) -> str | None:
        """Why the index could not be brought up to date the last time; None if it could."""
        return self._problem

    def find(
        self, prompt: str = "", sampler: str = "", model: str = "", before: int = END, limit: int = 24, **names: Any
    ) -> list[HistoryEntry]:
        """See `Index.find`. Raises sqlite3.Error and OSError."""
        return self._index.find(prompt, sampler, model, before, limit, **names)

    def count(self, prompt: str = "", sampler: str = "", model: str = "", **names: Any) -> int:
        """See `Index.count`. Raises sqlite3.Error and OSError."""
        return self._index.count(prompt, sampler, model, **names)

    def names(self, column: str) -> list[str]:
        """See `Index.names`. Raises sqlite3.Error and OSError."""
        return self._index.names(column)

    def _begin(self) -> threading.Thread:
        """The thread that writes, started if there is none. The caller holds the lock."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._write, name="sigmalab-history", daemon=True)
            self._thread.start()
        return self._thread

    def _write(self) -> None:
        while True:
            with self._lock:
                stale, self._stale = self._stale, False
                if not stale and not self._saved:
                    self._thread = None
                    return
            try:
                self._catch_up(stale)
                self._problem = None
            except Exception as error:
                # Any error: pictures must still be saved, and the next thread tries once more.
                log.warning("the index of the history could not be brought up to date: %s", error)
                self._problem = str(error)

    def _catch_up(self, stale: bool) -> None:
        try:
            self._put_saved()
            if stale:
                self._index.sync(self._put_saved)
        except sqlite3.DatabaseError as error:
            # An OperationalError is a file in use or not writable, and no damage.
            if isinstance(error, sqlite3.OperationalError):
                raise
            log.warning("the index of the history is damaged and is rebuilt: %s", error)
            self._index.remove()
            self._index.sync(self._put_saved)

    def _put_saved(self) -> None:
        with self._lock:
            saved, self._saved = self._saved, []
        self._index.put(saved)


class OwnHistory:
    """`History` of the folder of whoever asks, on a page with accounts.

    folder_of  the folder of whoever asks in this thread
    """

    def __init__(self, folder_of: Callable[[], Path]):
        self._folder_of, self._lock = folder_of, threading.Lock()
        self._all: dict[Path, History] = {}

    def add(self, path: Path) -> None:
        """See `History.add`; the picture goes to the history of the folder that it is in."""
        self._of(path.parent.parent).add(path)

    def refresh(self, wait: float = 0.0) -> bool:
        """See `History.refresh`."""
        return self._of(self._folder_of()).refresh(wait)

    @property
    def problem(self) -> str | None:
        """See `History.problem`."""
        return self._of(self._folder_of()).problem

    @property
    def marks(self) -> Marks:
        """See `History.marks`."""
        return self._of(self._folder_of()).marks

    def find(
        self, prompt: str = "", sampler: str = "", model: str = "", before: int = END, limit: int = 24, **names: Any
    ) -> list[HistoryEntry]:
        """See `History.find`."""
        return self._of(self._folder_of()).find(prompt, sampler, model, before, limit, **names)

    def count(self, prompt: str = "", sampler: str = "", model: str = "", **names: Any) -> int:
        """See `History.count`."""
        return self._of(self._folder_of()).count(prompt, sampler, model, **names)

    def names(self, column: str) -> list[str]:
        """See `History.names`."""
        return self._of(self._folder_of()).names(column)

    def _of(self, folder: Path) -> History:
        with self._lock:
            return self._all.setdefault(folder, History(folder))
