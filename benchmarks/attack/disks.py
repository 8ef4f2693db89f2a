"""Disks that are full, read-only or gone while the page draws: words, nothing lost, and it goes on afterwards."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from .server import Page

SIZE = "2m"


def disks(page: Page, numbers: range) -> Iterator[tuple[int, list[str], dict[str, float]]]:
    """A case is a way in which a disk fails. The outputs are on a small disk of their own."""
    cases: tuple[Callable[[Page], Iterator[str]], ...] = (_full, _all_full, _read_only, _vanished)
    with _small_disk(page.outputs):
        for number in numbers:
            case = cases[number % len(cases)]
            findings = [f"{case.__name__.strip('_')}: {told}" for told in (*case(page), *_goes_on(page))]
            yield 1, findings, {}


def _full(page: Page) -> Iterator[str]:
    """Outputs are full: pictures are kept in the temporary folder, and the answer says so."""
    filler = page.outputs / "filler"
    _fill(filler)
    yield from _words(page, "kept as")
    filler.unlink(missing_ok=True)


def _all_full(page: Page) -> Iterator[str]:
    """Outputs and the temporary folder are full: the picture is lost, and the answer says so."""
    filler = page.outputs / "filler"
    with _small_disk(page.temporary):
        _fill(filler), _fill(page.temporary / "filler")
        yield from _words(page, "could not be written anywhere")
    filler.unlink(missing_ok=True)


def _read_only(page: Page) -> Iterator[str]:
    _mount(page.outputs, "-o", "remount,ro")
    yield from _words(page, "kept as")
    _mount(page.outputs, "-o", "remount,rw")


def _vanished(page: Page) -> Iterator[str]:
    """The folder's content is removed, and then something else stands in its place."""
    for path in page.outputs.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    yield from _goes_on(page)
    _unmount(page.outputs)
    page.outputs.rmdir()
    yield from _goes_on(page)
    shutil.rmtree(page.outputs)
    page.outputs.write_text("a file", "utf-8")
    yield from _words(page, "kept as")
    page.outputs.unlink()


def _words(page: Page, said: str) -> Iterator[str]:
    """A run that cannot be saved: what was finished before is whole, and the answer says what became of the new."""
    before = _pictures(page)
    told = page.draw(prompt="red apple", steps=1, count=2)
    if "event: error" not in told or "cannot be written" not in told or said not in told:
        yield f"it says {told[-300:]!r}"
    yield from (f"{path.name} is gone" for path in before - _pictures(page))
    yield from (f"{path.name} is left" for path in page.outputs.glob("*/.*.part"))
    yield from _broken(page)


def _goes_on(page: Page) -> Iterator[str]:
    """A run that can be saved again."""
    before = len(_pictures(page))
    told = page.draw(prompt="red apple", steps=1)
    if "event: complete" not in told or len(_pictures(page)) != before + 1:
        yield f"afterwards it says {told[-300:]!r}"
    yield from _broken(page)


def _pictures(page: Page) -> set[Path]:
    return set(page.outputs.glob("*/*.png")) if page.outputs.is_dir() else set()


def _broken(page: Page) -> Iterator[str]:
    for path in _pictures(page):
        try:
            with Image.open(path) as picture:
                picture.load()
        except (OSError, SyntaxError) as error:
            yield f"{path.name} is broken: {error}"


def _fill(path: Path) -> None:
    """Write to a file until nothing more can be written."""
    with open(path, "wb", buffering=0) as file:
        for size in (1 << 16, 1 << 8, 1):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                pass


@contextmanager
def _small_disk(folder: Path) -> Iterator[None]:
    folder.mkdir(exist_ok=True)
    _mount(folder, "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs")
    try:
        yield
    finally:
        _unmount(folder)


def _mount(folder: Path, *how: str) -> None:
    try:
        subprocess.run(["mount", *how, str(folder)], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(
            f"a small disk cannot be mounted, which needs root: {getattr(error, 'stderr', error)}"
        ) from None


def _unmount(folder: Path) -> None:
    if os.path.ismount(folder):
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
