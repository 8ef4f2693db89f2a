"""Many uploaded pictures at once: files and zips, with a mask for each where there is one, within limits."""

from __future__ import annotations

import re
import shutil
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from .images import MAX_BYTES
from .limits import Limits
from .request import RequestError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
MASKS = ("mask", "masks")  # folders of a zip that hold masks
MASK_ENDING = re.compile(r"[-_]mask$", re.IGNORECASE)
MOST_UNPACKED = 1024 * 1024 * 1024  # bytes of all pictures of an upload
MOST_ENTRIES = 10_000  # of a zip, folders and other files among them
STEM = 80  # characters


@dataclass(frozen=True)
class BatchFile:
    """A picture among many.

    name  its file's, as its owner knows it
    stem  what its results are called, each another
    mask  its own mask, None if it has none
    """

    name: str
    stem: str
    path: Path
    mask: Path | None = None


@dataclass(frozen=True)
class Upload:
    """An uploaded file and its name."""

    path: Path
    name: str


def batch_files(
    pictures: Sequence[Upload], masks: Sequence[Upload], folder: Path, limits: Limits
) -> tuple[BatchFile, ...]:
    """The pictures of uploads, in the order of their names, each with its mask; zips are unpacked into a folder.

    A mask belongs to the picture of its name (cat.png, cat-mask.png, or masks/cat.png in a zip); a single one to all.
    Raises RequestError if there are none or too many, and for a mask that belongs to no picture.
    """
    found, found_masks, room = list[Upload](), list[Upload](), MOST_UNPACKED
    for given, target in ((pictures, found), (masks, found_masks)):
        for upload in given:
            unpacked = [upload]
            if upload.name.lower().endswith(".zip"):
                unpacked = unpack(upload, folder / str(len(found) + len(found_masks)), limits.files, room)
                room -= sum(each.path.stat().st_size for each in unpacked)
            for each in unpacked:
                (found_masks if PurePosixPath(each.name).parent.name in MASKS else target).append(each)
            if max(len(found), len(found_masks)) > limits.files:
                raise RequestError(f"There are more than {limits.files} pictures; give them in several parts.")
    names = {_stem(each.name) for each in found}
    endings = [each for each in found if _key(each.name) != _stem(each.name) and _key(each.name) in names]
    found = [each for each in found if each not in endings]
    found_masks += endings
    if not found:
        raise RequestError("There are no pictures: upload PNG, JPEG or WebP files, or a zip of them.")
    return _with_masks(_named(found), found_masks)


def unpack(upload: Upload, folder: Path, most: int, room: int) -> list[Upload]:
    """Unpack the pictures of a zip, at most so many and so many bytes, whatever its list says of them. RequestError."""
    unpacked: list[Upload] = []
    try:
        with zipfile.ZipFile(upload.path) as archive:
            entries = archive.infolist()
            if len(entries) > MOST_ENTRIES:
                raise RequestError(f"{upload.name} has {len(entries)} entries; allowed are {MOST_ENTRIES}.")
            for number, entry in enumerate(entries):
                place = PurePosixPath(entry.filename.replace("\\", "/"))
                if entry.is_dir() or not _is_picture(place):
                    continue
                if len(unpacked) >= 2 * most:
                    raise RequestError(f"{upload.name} has more than {most} pictures; give them in several parts.")
                if entry.flag_bits & 1:
                    raise RequestError(f"{upload.name} is encrypted; give a zip without a password.")
                # Not the name of the entry: it may lead anywhere.
                path = folder / f"{number}{place.suffix.lower()}"
                folder.mkdir(parents=True, exist_ok=True)
                room -= _copy(archive, entry, path, min(MAX_BYTES, room), f"{place.name} of {upload.name}")
                parent = place.parent.name.lower()
                unpacked.append(Upload(path, f"{parent}/{place.name}" if parent in MASKS else place.name))
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError, ValueError, RuntimeError) as error:
        if isinstance(error, RequestError):
            raise
        raise RequestError(f"{upload.name} cannot be unpacked ({type(error).__name__}); pack it again.") from None
    return unpacked


def write_results(path: Path, results: Iterable[tuple[str, Path]]) -> None:
    """Write a zip of pictures, each (name without its ending, file); the later ones of a name get numbers. OSError."""
    taken = set[str]()
    # Pictures are packed already.
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for stem, file in results:
            archive.write(file, f"{_free(stem, taken)}{file.suffix}")


def _copy(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path, most: int, name: str) -> int:
    copied = 0
    with archive.open(entry) as source, open(path, "xb") as target:
        while block := source.read(1 << 16):
            copied += len(block)
            if copied > most:
                raise RequestError(f"{name} is too large; a picture may have {MAX_BYTES >> 20} MB, all together 1 GB.")
            target.write(block)
    return copied


def _is_picture(place: PurePosixPath) -> bool:
    hidden = any(part.startswith((".", "__MACOSX")) and part != ".." for part in place.parts)
    return place.suffix.lower() in SUFFIXES and not hidden


def _stem(name: str) -> str:
    return PurePosixPath(name).stem.casefold()


def _key(name: str) -> str:
    return MASK_ENDING.sub("", _stem(name))


def _named(uploads: Sequence[Upload]) -> list[BatchFile]:
    files, taken = list[BatchFile](), set[str]()
    for upload in sorted(uploads, key=lambda each: each.name.casefold()):
        plain = re.sub(r"[^\w .()+-]+", "_", PurePosixPath(upload.name).stem).strip(" .")[:STEM] or "picture"
        files.append(BatchFile(upload.name, _free(plain, taken), upload.path))
    return files


def _free(name: str, taken: set[str]) -> str:
    """The name, or with -2, -3 ... where it is taken in whatever case; `taken` has it from then on."""
    free, number = name, 2
    while free.casefold() in taken:
        free, number = f"{name}-{number}", number + 1
    taken.add(free.casefold())
    return free


def _with_masks(files: Sequence[BatchFile], masks: Sequence[Upload]) -> tuple[BatchFile, ...]:
    own = {key: mask for mask in masks for key in (_key(mask.name), _stem(mask.name))}
    names = {_stem(each.name) for each in files}
    if len(masks) == 1 and not own.keys() & names:
        return tuple(replace(each, mask=masks[0].path) for each in files)
    if lost := [mask.name for mask in masks if not {_key(mask.name), _stem(mask.name)} & names]:
        raise RequestError(
            f"The mask {PurePosixPath(lost[0]).name} belongs to no picture; a mask has the name of its picture, or one "
            "mask is for all."
        )
    return tuple(replace(each, mask=own[key].path) if (key := _stem(each.name)) in own else each for each in files)


def remove(folder: Path) -> None:
    """Remove the folder that zips were unpacked into."""
    shutil.rmtree(folder, ignore_errors=True)
