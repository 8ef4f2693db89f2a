"""Find what may be a model among the files of a folder: diffusers folders, single files, Hugging Face's cache."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ENDINGS = (".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin")
# Folders for what is no model.
OTHERS = frozenset({"loras", "embeddings", "wildcards", "previews", "upscalers"})
INDEX = "model_index.json"
DEEPEST = 4  # folders in folders
CACHE = "models--"  # begins the name of a repository in Hugging Face's cache: models--owner--name/snapshots/REVISION


@dataclass(frozen=True)
class Found:
    """A diffusers folder or a file, and the name that it is called by if no other has it."""

    path: Path
    name: str


def find_files(folder: Path) -> list[Found]:
    """The diffusers folders, then the files with an ending of checkpoints; those nearer to the top come first.

    Hidden files and folders, such as macOS' ._x beside x, and links to nothing are left out.
    """
    found = sorted(_walk(folder, folder, 0), key=lambda one: (one.path.is_file(), len(one.path.parts), one.path))
    # A .safetensors file has its name before others.
    return sorted(found, key=lambda one: one.path.is_file() and _order(one.path))


def _order(path: Path) -> int:
    return 1 + ENDINGS.index(next(ending for ending in ENDINGS if path.name.lower().endswith(ending)))


def _walk(folder: Path, top: Path, depth: int) -> Iterator[Found]:
    try:
        entries = sorted(
            (entry for entry in os.scandir(folder) if not entry.name.startswith(".")), key=lambda e: e.name
        )
    except OSError:
        return
    if depth and any(entry.name == INDEX for entry in entries):
        yield Found(folder, folder.name)
        return
    for entry in entries:
        path = folder / entry.name
        if entry.name.lower().endswith(ENDINGS) and path.is_file():
            yield Found(path, path.stem)
        elif entry.is_dir() and depth < DEEPEST and not (folder == top and entry.name in OTHERS):
            yield from _snapshot(path) if entry.name.startswith(CACHE) else _walk(path, top, depth + 1)


def _snapshot(repository: Path) -> Iterator[Found]:
    """The revision of a repository in the cache that its "main" names, else the latest."""
    snapshots = repository / "snapshots"
    try:
        main = (repository / "refs" / "main").read_text("ascii").strip()
        revision = snapshots / main
        if not main.isalnum() or not revision.is_dir():
            raise ValueError
    except (OSError, ValueError):
        try:
            revision = max(
                (path for path in snapshots.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime
            )
        except (OSError, ValueError):
            return
    name = repository.name.rpartition("--")[2]
    for found in _walk(revision, revision, 1):
        yield Found(found.path, name) if found.path == revision else found
