"""Settings in EXIF, for JPEG and WebP: A1111's text as the user comment, our record as the maker note.

JPEG keeps EXIF in one segment of at most 64 KB, so the record is compressed there.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

from PIL import ExifTags, Image

USER_COMMENT, MAKER_NOTE = 0x9286, 0x927C
# Where ComfyUI's WebP has "workflow:{...}" and "prompt:{...}", and its extensions "Workflow: {...}".
COMFY_TAGS = (0x010F, 0x0110, 0x010E)
UNICODE, ASCII = b"UNICODE\0", b"ASCII\0\0\0"
MARK = b"sigmalab\0"
SEGMENT = 65_500  # bytes that JPEG's segment has room for


class TooLong(ValueError):
    """Settings that do not fit; the text says how long they may be."""


def to_exif(text: str, record: Mapping[str, Any] | None) -> bytes:
    """EXIF with A1111's text and a record, as Pillow's `save` takes it."""
    exif = Image.Exif()
    tags = exif.get_ifd(ExifTags.IFD.Exif)
    # Big-endian whatever the byte order of the file: what A1111 writes, and what readers of it expect.
    tags[USER_COMMENT] = UNICODE + text.encode("utf-16-be")
    if record is not None:
        tags[MAKER_NOTE] = MARK + zlib.compress(json.dumps(record, allow_nan=False).encode("ascii"), 9)
    return exif.tobytes()


def from_exif(image: Image.Image, longest: int) -> dict[str, str]:
    """The texts in a picture's EXIF: "parameters", "sigmalab", "prompt" and "workflow", whichever there are.

    longest  characters that a text may have
    Raises TooLong, and whatever Pillow raises on broken EXIF.
    """
    exif = image.getexif()
    tags = exif.get_ifd(ExifTags.IFD.Exif)
    texts = {}
    # An extension of ComfyUI has its comment beside the other tags instead of among those of EXIF.
    comment, note = tags.get(USER_COMMENT) or exif.get(USER_COMMENT), tags.get(MAKER_NOTE)
    if isinstance(comment, bytes | str) and comment:
        texts["parameters"] = comment if isinstance(comment, str) else _decode(_bounded(comment, 4 * longest))
    if isinstance(note, bytes) and note.startswith(MARK):
        texts["sigmalab"] = _inflate(note.removeprefix(MARK), longest)
    for tag in COMFY_TAGS:
        kind, _, value = str(exif.get(tag, "")).partition(":")
        if kind.lower() in ("prompt", "workflow"):
            texts[kind.lower()] = value.strip(" \0")
    return texts


def _decode(comment: bytes) -> str:
    """A user comment as text. Its code is a prefix of 8 bytes, and not every program keeps to the byte order."""
    code, body = comment[:8], comment[8:]
    if code == UNICODE:
        texts = [body.decode(order, "replace") for order in ("utf-16-be", "utf-16-le")]
        # In the wrong byte order nearly every Latin letter becomes an ideograph.
        return max(texts, key=lambda text: sum(character < "\x80" for character in text)).rstrip("\0")
    known = code == ASCII or not any(code)
    return (body if known else comment).decode("utf-8", "replace").rstrip("\0")


def _inflate(data: bytes, longest: int) -> str:
    inflater = zlib.decompressobj()
    text = inflater.decompress(data, longest)
    if inflater.unconsumed_tail:
        raise TooLong(f"longer than {longest} characters")
    return text.decode("ascii")


def _bounded(data: bytes, longest: int) -> bytes:
    if len(data) > longest:
        raise TooLong(f"longer than {longest} bytes")
    return data
