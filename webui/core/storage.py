"""Store pictures by date: each is written to a temporary name and renamed; no existing picture is replaced."""

from __future__ import annotations

import logging
import os
import secrets
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import chain, count
from pathlib import Path

from PIL import Image

from .images import png_bytes

TRIES = 10_000
FOLDER_TRIES = 100  # to make the folder of a day, which another program may remove
TEMPORARY = ".part"  # ending of files that are being written
LEFTOVER_AGE = 60  # seconds
SETTINGS = "settings"  # folder of the folders of named settings, among the pictures' own
INPUTS = "inputs"  # folder of the input pictures of img2img, among the pictures' own folders
CELLS = Path("lab", "cells.jsonl")  # the index of the pictures that are cells of the Lab's grids, beside them

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Saved:
    """Where a picture is. `problem` says why it is elsewhere, None if it is not; `path` is None if it is lost."""

    path: Path | None
    problem: str | None = None


def write_new(path: Path, data: bytes) -> None:
    """Write a file in one step: readers see all of it or nothing. FileExistsError if there is one already; OSError."""
    with _written_beside(path, data) as temporary:
        _move_new(temporary, path)


def write_over(path: Path, data: bytes) -> None:
    """Write a file in one step, in place of the one that is there: readers see all of one of them. Raises OSError."""
    with _written_beside(path, data) as temporary:
        os.replace(temporary, path)


@contextmanager
def _written_beside(path: Path, data: bytes) -> Iterator[Path]:
    """A temporary file beside a path that has all of these bytes; it is gone afterwards."""
    # A name of its own, so that what a killed process left behind stands in nobody's way.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{TEMPORARY}")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _move_new(source: Path, target: Path) -> None:
    try:
        # Unlike a rename, a link fails where another writer was faster.
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:
        # A file system without hard links.
        if target.exists():
            raise FileExistsError(target) from None
        os.replace(source, target)


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files that a killed process left in a folder of pictures; those in use are younger."""
    places = (place.glob(f".*{TEMPORARY}") for place in (folder, *folder.glob("*/"), *folder.glob(f"{SETTINGS}/*/")))
    for path in chain.from_iterable(places):
        try:
            if time.time() - path.stat().st_mtime > LEFTOVER_AGE:
                path.unlink()
        except OSError as error:
            log.warning("the leftover file %s could not be removed: %s", path, error)


def save(folder: Path, label: int | str, data: bytes, now: datetime | None = None) -> Path:
    """Write a PNG as folder/YYYY-MM-DD/HHMMSS-label.png, or -2, -3 ... where that is taken. Raises OSError.

    label  the seed of a drawn picture
    """
    now = now or datetime.now()
    day = folder / now.strftime("%Y-%m-%d")
    for name in _names(f"{now:%H%M%S}-{label}"):
        try:
            _write_in(day, name, data)
            return day / name
        except FileExistsError:
            if not day.is_dir():
                raise
    raise FileExistsError(f"{day} has {TRIES} pictures of this second and name")


def _write_in(day: Path, name: str, data: bytes) -> None:
    """Write a new file of a folder that is made first. Raises OSError, FileExistsError if the file is there."""
    for left in reversed(range(FOLDER_TRIES)):
        try:
            day.mkdir(parents=True, exist_ok=True)
            write_new(day / name, data)
            return
        except (FileNotFoundError, FileExistsError):
            # Another program that moves its pictures elsewhere removes the folder when it is empty, maybe just now.
            if not left or (day / name).exists() or (day.exists() and not day.is_dir()):
                raise


def save_or_keep(folder: Path, label: int | str, data: bytes) -> Saved:
    """Save a picture; if that fails, save it in the system's temporary folder and name the problem."""
    try:
        return Saved(save(folder, label, data))
    except OSError as error:
        problem = f"pictures cannot be written to {folder}: {error.strerror or error}"
    try:
        return Saved(save(Path(tempfile.mkdtemp(prefix="sigmalab-")), label, data), problem)
    except OSError:
        return Saved(None, problem)


def move(path: Path, folder: Path) -> Path:
    """Move a file into a folder, under its name or with -2, -3 ... where that is taken. Raises OSError.

    Its folder goes as well if nothing else is in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in _names(path.stem):
        try:
            _move_new(path, folder / name)
        except FileExistsError:
            continue
        # A link leaves its source behind.
        path.unlink(missing_ok=True)
        with suppress(OSError):
            path.parent.rmdir()
        return folder / name
    raise FileExistsError(f"{folder} has {TRIES} pictures of this name")


def input_path(folder: Path, digest: str) -> Path:
    """Where the input picture with this digest of its pixels is kept, if it is."""
    return folder / INPUTS / f"{digest}.png"


def keep_input(folder: Path, image: Image.Image, digest: str) -> None:
    """Keep the input of img2img, as it was fitted, once for all pictures made from it: a replay needs it.

    A folder that cannot be written is no reason to draw nothing: then only the log says so.
    """
    path = input_path(folder, digest)
    try:
        if path.exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        write_new(path, png_bytes(image))
    except OSError as error:
        log.warning("the input picture could not be kept: %s", error)


def _names(stem: str) -> Iterator[str]:
    yield f"{stem}.png"
    for number in count(2):
        if number > TRIES:
            return
        yield f"{stem}-{number}.png"
