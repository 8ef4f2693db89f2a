"""An SQLite index of the pictures under outputs/, which searches a million of them quickly.

The index is derived from the files: it is updated by comparing folders, newest day first, in small steps. Any number of
threads and programs may use it at once.
"""

from __future__ import annotations

import json
import logging
import re
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from webui.core.limits import SEEDS
from webui.core.picture_metadata import read_picture
from webui.core.request import RequestError
from webui.importers.a1111 import read_infotext

log = logging.getLogger(__name__)

FILE = "history.sqlite3"
VERSION = 1
STEP = 100  # files between commits, and between pauses for the rest of the program
PAUSE = 0.005  # seconds
CLOCK_GRAIN = 2_000_000_000  # nanoseconds within which two changes of a folder may have the same time
END = 1 << 62  # later than every picture
DAY, NAME = re.compile(r"\d{4}-\d{2}-\d{2}"), re.compile(r"[\w-]{1,100}\.png")
# Ids are the time of the picture in microseconds, so the key orders both tables by age. Emoji are words.
TABLES = """
CREATE TABLE pictures (
    id INTEGER PRIMARY KEY, day TEXT, name TEXT, sampler TEXT, model TEXT, seed INTEGER, UNIQUE (day, name)
);
CREATE INDEX by_sampler ON pictures (sampler);
CREATE INDEX by_model ON pictures (model);
CREATE INDEX by_both ON pictures (sampler, model);
CREATE TABLE days (day TEXT PRIMARY KEY, changed INTEGER);
CREATE VIRTUAL TABLE words USING fts5 (prompt, tokenize = "unicode61 remove_diacritics 2 categories 'L* N* Co S*'");
"""


# (time in microseconds, day, name, prompt, sampler, model, seed)
Row = tuple[int, str, str, str, str, str, int | None]


@dataclass(frozen=True)
class HistoryEntry:
    """A picture of the history; `id` orders them in time, `path` is inside the outputs folder."""

    id: int
    path: Path
    prompt: str
    sampler: str
    model: str
    seed: int | None


class Index:
    """The index of a folder of pictures. Methods raise sqlite3.Error or OSError only."""

    def __init__(self, folder: Path):
        self._folder, self._file = folder, folder / FILE

    def find(
        self,
        prompt: str = "",
        sampler: str = "",
        model: str = "",
        before: int = END,
        limit: int = 24,
        only: Sequence[str] | None = None,
        without: Sequence[str] = (),
    ) -> list[HistoryEntry]:
        """At most `limit` pictures older than the id `before`, newest first.

        prompt  words that all begin a word of the prompt; sampler and model are exact; "" is any
        only    names as "day/name": no other picture; `without` are names of pictures to leave out
        """
        if not self._file.exists():
            return []
        sql, values = statement(prompt, sampler, model, before, limit, only, without)
        with self._open() as db:
            rows = db.execute(sql, values).fetchall()
        return [HistoryEntry(id, self._folder / day / name, text, *rest) for id, day, name, text, *rest in rows]

    def count(
        self,
        prompt: str = "",
        sampler: str = "",
        model: str = "",
        only: Sequence[str] | None = None,
        without: Sequence[str] = (),
    ) -> int:
        """How many pictures `find` finds in all."""
        if not self._file.exists():
            return 0
        sql, values = statement(prompt, sampler, model, END, -1, only, without)
        with self._open() as db:
            (found,) = db.execute(f"SELECT count(*) FROM ({sql})", values).fetchone()
        return int(found)

    def names(self, column: str) -> list[str]:
        """The samplers or models of all pictures; `column` is "sampler" or "model"."""
        if column not in ("sampler", "model"):
            raise ValueError(f"column is {column!r}; allowed are 'sampler' and 'model'")
        if not self._file.exists():
            return []
        # From name to name through the index: a DISTINCT would read every picture.
        sql = (
            f"WITH RECURSIVE each (value) AS (SELECT min({column}) FROM pictures UNION ALL "
            f"SELECT (SELECT min({column}) FROM pictures WHERE {column} > value) FROM each WHERE value IS NOT NULL) "
            "SELECT value FROM each WHERE value <> ''"
        )
        with self._open() as db:
            return [name for (name,) in db.execute(sql)]

    def sync(self, between: Callable[[], None] = lambda: None) -> None:
        """Update the index from the files.

        between  called between the steps, so that a new picture does not wait for a million old ones
        """
        if not self._folder.is_dir():
            return
        days = sorted(
            (entry.name for entry in self._folder.iterdir() if DAY.fullmatch(entry.name) and entry.is_dir()),
            reverse=True,
        )
        with self._open() as db:
            known = dict(db.execute("SELECT day, changed FROM days"))
            for gone in known.keys() - set(days):
                forget(db, [id for (id,) in db.execute("SELECT id FROM pictures WHERE day = ?", (gone,))])
                with _writing(db):
                    db.execute("DELETE FROM days WHERE day = ?", (gone,))
            for day in days:
                changed = (self._folder / day).stat().st_mtime_ns
                if known.get(day) != changed:
                    self._sync_day(db, day, between)
                    # A file added within the grain of the clock does not change the time, so the day is read once more.
                    trusted = changed if time.time_ns() - changed > CLOCK_GRAIN else 0
                    with _writing(db):
                        db.execute("INSERT OR REPLACE INTO days VALUES (?, ?)", (day, trusted))

    def _sync_day(self, db: sqlite3.Connection, day: str, between: Callable[[], None]) -> None:
        # The index before the files: a picture that is added in between is then among the files, and not deleted.
        known = dict(db.execute("SELECT name, id FROM pictures WHERE day = ?", (day,)))
        there = {path.name for path in (self._folder / day).iterdir() if NAME.fullmatch(path.name)}
        forget(db, [id for name, id in known.items() if name not in there])
        new = sorted(there - known.keys(), reverse=True)
        for at in range(0, len(new), STEP):
            insert(db, list(filter(None, (self._read(day, name) for name in new[at : at + STEP]))))
            between()
            time.sleep(PAUSE)

    def _read(self, day: str, name: str) -> Row | None:
        """The row of a picture; one that cannot be read has a row without texts. None if the file is gone."""
        path = self._folder / day / name
        try:
            made = path.stat().st_mtime_ns // 1000
        except OSError:
            return None  # gone since it was listed
        try:
            return (made, day, name, *facts(path))
        except RequestError:
            pass
        except Exception:  # one damaged file must not hide all others
            log.warning("%s/%s cannot be read", day, name, exc_info=True)
        return (made, day, name, "", "", "", None)

    def put(self, paths: Iterable[Path]) -> None:
        """Add pictures that were just saved; those outside the folders of days are ignored."""
        places = [(path.parent.name, path.name) for path in paths if self._has_place_for(path)]
        if places:
            with self._open() as db:
                insert(db, list(filter(None, (self._read(*place) for place in places))))

    def remove(self) -> None:
        """Delete the index; `sync` rebuilds it."""
        for end in ("", "-wal", "-shm"):
            self._file.with_name(self._file.name + end).unlink(missing_ok=True)

    def _has_place_for(self, path: Path) -> bool:
        day = path.parent
        return day.parent == self._folder and bool(DAY.fullmatch(day.name) and NAME.fullmatch(path.name))

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        db = sqlite3.connect(self._file, timeout=10)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            # After a power cut the index is rebuilt from the files, so it need not be safe on disk at once.
            db.execute("PRAGMA synchronous = NORMAL")
            if db.execute("PRAGMA user_version").fetchone()[0] != VERSION:
                _make_tables(db)
            yield db
        finally:
            db.close()


def facts(path: Path) -> tuple[str, str, str, int | None]:
    """(prompt, sampler, model, seed) of a picture. Raises RequestError where it has no metadata."""
    carried = read_picture(path)
    record = carried.record
    if record is not None and record.is_upscaled:
        record = record.source
    if record is not None and record.request is not None:
        prompt, sampler, model = (_text(record.request.get(name)) for name in ("prompt", "sampler", "model"))
        return prompt, sampler, model, record.seed if record.seed in range(SEEDS) else None
    other = read_infotext(carried.parameters)
    return (_text(other.prompt), _text(other.sampler), _text(other.model), None) if other else ("", "", "", None)


def insert(db: sqlite3.Connection, rows: Iterable[Row]) -> None:
    """Add pictures; known ones are left alone."""
    # One transaction, so that nobody takes an id between the search for a free one and its use.
    with _writing(db):
        for made, day, name, prompt, sampler, model, seed in rows:
            # Of two pictures of one microsecond the second one is moved by a microsecond.
            while db.execute("SELECT 1 FROM pictures WHERE id = ?", (made,)).fetchone():
                made += 1
            added = db.execute(
                "INSERT OR IGNORE INTO pictures VALUES (?, ?, ?, ?, ?, ?)", (made, day, name, sampler, model, seed)
            )
            if added.rowcount:
                db.execute("INSERT INTO words (rowid, prompt) VALUES (?, ?)", (made, prompt))


def forget(db: sqlite3.Connection, ids: Sequence[int]) -> None:
    """Delete pictures from the index."""
    with _writing(db):
        for id in ids:
            db.execute("DELETE FROM pictures WHERE id = ?", (id,))
            db.execute("DELETE FROM words WHERE rowid = ?", (id,))


def statement(
    prompt: str,
    sampler: str,
    model: str,
    before: int,
    limit: int,
    only: Sequence[str] | None = None,
    without: Sequence[str] = (),
) -> tuple[str, Sequence[Any]]:
    """(SQL, values) of `History.find`. CROSS JOIN keeps the order of the tables, and so the order of the result."""
    terms = [f'"{word}"*' for word in re.findall(r'[^\s"]+', prompt.replace("\0", ""))]
    first, second = ("words", "pictures") if terms else ("pictures", "words")
    key = {"words": "words.rowid", "pictures": "pictures.id"}
    where = ["words MATCH ?"] * bool(terms) + [f"{key[first]} < ?"]
    values: list[Any] = [" ".join(terms)] * bool(terms) + [before]
    for column, wanted in (("sampler", sampler), ("model", model)):
        if wanted:
            where.append(f"pictures.{column} = ?")
            values.append(wanted)
    if only is not None:
        # Each is found by its own name, since a million others may be newer.
        where.append(
            "pictures.id IN (SELECT named.id FROM json_each(?) CROSS JOIN pictures AS named ON "
            "named.day = substr(value, 1, 10) AND named.name = substr(value, 12))"
        )
        values.append(json.dumps(list(only)))
    if without:
        where.append("day || '/' || name NOT IN (SELECT value FROM json_each(?))")
        values.append(json.dumps(list(without)))
    columns = "pictures.id, day, name, prompt, sampler, model, seed"
    joined = f"{first} CROSS JOIN {second} ON pictures.id = words.rowid"
    sql = f"SELECT {columns} FROM {joined} WHERE {' AND '.join(where)} ORDER BY {key[first]} DESC LIMIT ?"
    return sql, [*values, limit]


def _make_tables(db: sqlite3.Connection) -> None:
    with _writing(db):
        # Another thread may have been here first.
        if db.execute("PRAGMA user_version").fetchone()[0] == VERSION:
            return
        for table in ("pictures", "days", "words"):
            db.execute(f"DROP TABLE IF EXISTS {table}")
        for each in filter(str.strip, TABLES.split(";")):
            db.execute(each)
        db.execute(f"PRAGMA user_version = {VERSION}")


@contextmanager
def _writing(db: sqlite3.Connection) -> Iterator[None]:
    """A transaction of the only writer; others wait for it."""
    with db:
        db.execute("BEGIN IMMEDIATE")
        yield


def _text(value: Any) -> str:
    # JSON may have lone surrogates, which no database stores.
    return value.encode("utf-8", "replace").decode("utf-8") if isinstance(value, str) else ""
