"""Weights on another machine than the program's: in a folder that both share, or copied, each content once."""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weights.catalog import Catalog
from weights.companion_files import stamp_of
from weights.diffusers_folder import BORROWS, read_index
from weights.extra_networks import EMBEDDINGS, LORAS, PREVIEWS, UPSCALERS
from weights.families import FAMILIES
from weights.model import Model
from weights.model_info import ModelInfo

from .job_context import OnHead

if TYPE_CHECKING:
    from .worker_host import WorkerSetup

EXTRAS = (LORAS, EMBEDDINGS, UPSCALERS, PREVIEWS)  # folders that are copied whole
CONTENTS = ".contents"  # folder of the copies by digest
PIECE = 1 << 23  # bytes that pass at once
MEGA = 1_000_000

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FileState:
    """What changes when a file does: its bytes and the time of its last change, in nanoseconds."""

    size: int
    changed: int


@dataclass(frozen=True)
class WeightFiles:
    """What the head tells a worker about its weights: their files, and where copies go on the worker's machine."""

    files: Mapping[str, FileState]
    copies: Path


class WeightCopies:
    """The weights of the head of a cluster, on this machine.

    source   folder of weights as the head calls it
    known    its files, by which a folder that is shared is recognized, and the folder for copies: the tree of `source`
             is laid out in that as far as it is needed. A file is known by its size and time there, and its content by
             its SHA-256 under another name
    on_head  see `JobContext`
    folder   what is opened here: `source` if it is shared, else that of the copies
    """

    def __init__(self, source: Path, known: WeightFiles, on_head: OnHead):
        self._source, self._copies, self._on_head = source, known.copies.expanduser(), on_head
        # A folder of the same name may lie here that has other files: then they are copied.
        self._is_shared = files_in(source) == known.files
        self.folder = source if self._is_shared else self._copies
        log.info("weights are %s", "in a shared folder" if self._is_shared else f"copied to {self._copies}")

    def setup_of(self, setup: WorkerSetup) -> WorkerSetup:
        """The setup of a worker whose models are known as the head knows them, and are opened here."""
        find = partial(setup.find_models or find_models, self._source)
        return replace(
            setup,
            find_models=lambda folder: self._on_head(find),
            open_model=partial(self._opened, setup.open_model),
            check_model=lambda info: setup.check_model(self.local(info)),
        )

    def _opened(self, open_model: Callable[..., Model], info: ModelInfo, *more: Any, **named: Any) -> Model:
        return open_model(self.local(info), *more, **named)

    def local(self, info: ModelInfo) -> ModelInfo:
        """A model of the head with its files here, which are copied if they are not. Raises OSError."""
        if self._is_shared or not info.path.is_relative_to(self._source):
            return info
        self._copy(self._on_head(partial(files_of_model, self._source, info)))
        path, vae, card = map(self._here, (info.path, info.vae, info.card_file))
        # The dates of folders are those of the copies.
        return replace(info, path=path, vae=vae, card_file=card, stamp=stamp_of(path, FAMILIES))

    def copy_extras(self, tell: Callable[[str], None] = lambda text: None) -> None:
        """Copy what prompts and requests may name beside a model, as far as it is not here yet. Raises OSError.

        tell  is told in a few words what is being copied
        """
        if not self._is_shared:
            self._copy(self._on_head(partial(files_in, self._source, EXTRAS)), tell)

    def _here(self, path: Any) -> Any:
        inside = path is not None and path.is_relative_to(self._source)
        return self._copies / path.relative_to(self._source) if inside else path

    def _copy(self, files: Mapping[str, FileState], tell: Callable[[str], None] = lambda text: None) -> None:
        for name, state in files.items():
            if _state(self._copies / name) != state:
                tell(f"copying {name} to the worker's machine, {state.size / MEGA:.0f} MB")
                self._copy_one(name, state)

    def _copy_one(self, name: str, state: FileState) -> None:
        source, target = self._source / name, self._copies / name
        digest = self._on_head(partial(sha256_of, source))
        content = self._copies / CONTENTS / digest
        if not content.exists():
            self._fetch(source, state.size, digest, content)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
        # Two names of one file would share its time, by which each is known.
        if content.stat().st_nlink == 1:
            os.link(content, temporary)
        else:
            shutil.copyfile(content, temporary)
        os.utime(temporary, ns=(state.changed, state.changed))
        os.replace(temporary, target)

    def _fetch(self, source: Path, size: int, digest: str, content: Path) -> None:
        log.info("copying %s, %.0f MB", source.name, size / MEGA)
        content.parent.mkdir(parents=True, exist_ok=True)
        temporary = content.with_name(f"{digest}.{secrets.token_hex(4)}")
        try:
            with open(temporary, "xb") as file:
                for start in range(0, size, PIECE):
                    file.write(self._on_head(partial(read_piece, source, start, PIECE)))
            if sha256_of(temporary) != digest:
                raise OSError(f"{source.name} changed while it was copied; try again")
            os.replace(temporary, content)
        finally:
            temporary.unlink(missing_ok=True)


@cache
def _catalog() -> Catalog:
    # The head's, which every worker asks for every job of a grid.
    return Catalog()


def find_models(folder: Path) -> dict[str, ModelInfo]:
    """The models in a folder by name; what was read before is read again only if it has changed."""
    return _catalog().find_models(folder)


def files_in(folder: Path, parts: Iterable[str] = ("",)) -> dict[str, FileState]:
    """The files below some parts of a folder, by their names in it; hidden ones are left out."""
    found: dict[str, FileState] = {}
    for part in parts:
        for path in sorted((folder / part).rglob("*")):
            name = path.relative_to(folder)
            hidden = any(each.startswith((".", "__")) for each in name.parts)
            if not hidden and (state := _state(path)) is not None:
                found[name.as_posix()] = state
    return found


def files_of_model(folder: Path, info: ModelInfo) -> dict[str, FileState]:
    """The files of a model in a folder: its own, those beside it that belong to it, and those of a lender."""
    if info.path.is_dir():
        lender = read_index(info.path).get(BORROWS)
        folders = [info.path, *([info.path.with_name(lender)] if isinstance(lender, str) else [])]
        return files_in(folder, [each.relative_to(folder).as_posix() for each in folders])
    paths = [*info.path.parent.glob(f"{escape(info.path.stem)}.*"), info.vae, info.card_file]
    states = {each.relative_to(folder).as_posix(): _state(each) for each in paths if each is not None}
    return {name: state for name, state in states.items() if state is not None}


def sha256_of(path: Path) -> str:
    """The digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_piece(path: Path, start: int, size: int) -> bytes:
    """Some bytes of a file."""
    with open(path, "rb") as file:
        file.seek(start)
        return file.read(size)


def _state(path: Path) -> FileState | None:
    """None for what is no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return FileState(found.st_size, found.st_mtime_ns) if path.is_file() else None
