"""Reads what any picture says about how it was made: PNG, JPEG or WebP, ours or another program's.

Pictures come from strangers. No pixel is decoded unless a text may stand behind them or in them, compressed texts are
inflated only up to a limit, and whatever is wrong becomes a MetadataError.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import iTXt

from .exif import TooLong, from_exif
from .fields import MAX_NAME
from .images import PictureError, check_memory, decoding, open_untrusted
from .limits import PUBLIC
from .record import A1111_KEYWORD, KEYWORD, MAX_TEXT, MetadataError, Record, parse_record
from .stealth import read_stealth

COMFY = ("prompt", "workflow")
OTHERS = ("invokeai_metadata", "sd-metadata", "Dream", "generation_data")  # InvokeAI's and Tensor.Art's
NOVELAI = ("Comment", "Description")  # words that editors use, too: they count where NovelAI's name stands beside them
LOSSLESS = ("PNG", "WEBP")  # WebP may be lossy, and then has no text in its pixels
NOTHING = "The picture carries no settings{}; pictures lose them when they are edited or sent by messengers."
CREDENTIALS = b"caBX"  # the chunk of a PNG with Content Credentials, by the standard C2PA
# The name of a program in them: a text of CBOR, whose length stands in the one byte or two before it.
GENERATOR = re.compile(rb"claim_generator_info.{1,4}?dname(?:x(.)|([\x60-\x77]))", re.DOTALL)
SOFTWARE = 0x0131  # of EXIF


@dataclass(frozen=True)
class PictureMetadata:
    """What a picture says about how it was made.

    parameters  A1111's text, or what other programs write in its place, "" if none
    record      our own, None if another program made the picture
    comfy       ComfyUI's "prompt" and "workflow", as JSON texts, whichever there are
    others      the texts of other programs by their keywords
    """

    parameters: str
    record: Record | None
    comfy: Mapping[str, str] = field(default_factory=dict)
    others: Mapping[str, str] = field(default_factory=dict)


def read_picture(path: Path) -> PictureMetadata:
    """The settings that a picture carries. Raises MetadataError where there are none or they are damaged; PictureError.

    Everything in the result comes from outside, see `Record`.
    """
    with open_untrusted(path) as image:
        texts = _texts(image)
        if not texts:
            raise MetadataError(_without_settings(image))
    if max(map(len, texts.values())) > MAX_TEXT:
        raise MetadataError(f"The picture's settings are longer than {MAX_TEXT} characters and were not read.")
    record = parse_record(texts[KEYWORD]) if KEYWORD in texts else None
    comfy = {name: texts[name] for name in COMFY if name in texts}
    others = {name: texts[name] for name in (*OTHERS, *NOVELAI) if name in texts}
    return PictureMetadata(texts.get(A1111_KEYWORD, ""), record, comfy, others)


def _texts(image: Image.Image) -> dict[str, str]:
    try:
        texts = _known(image.info)
        if not texts and image.format == "PNG":
            # Some programs write their texts behind the pixels, where Pillow comes only by decoding them.
            with decoding():
                image.load()
            texts = _known(image.info | getattr(image, "text", {}))
        texts = from_exif(image, MAX_TEXT) | texts
        if not texts and _may_hide_a_text(image):
            with decoding():
                texts = {A1111_KEYWORD: text} if (text := read_stealth(image, MAX_TEXT)) else {}
        return texts
    except TooLong as error:
        raise MetadataError(f"The picture's settings are {error} and were not read.") from None
    except PictureError:
        raise
    # EXIF and texts from strangers may be anything, and Pillow raises nearly anything on them.
    except Exception as error:
        raise MetadataError(f"The picture's settings are damaged ({type(error).__name__}).") from None


def _may_hide_a_text(image: Image.Image) -> bool:
    """Whether a text may stand in the pixels: never in a large WebP, the decoder of which takes most memory."""
    try:
        if image.format == "WEBP":
            check_memory(image, PUBLIC)
    except PictureError:
        return False
    return image.format in LOSSLESS


def _known(info: Mapping[Any, Any]) -> dict[str, str]:
    names = (KEYWORD, A1111_KEYWORD, *COMFY, *OTHERS, *(NOVELAI if info.get("Software") == "NovelAI" else ()))
    texts = {name: info[name] for name in names if isinstance(info.get(name), str) and info[name]}
    # Ours are what they say.
    return {name: str(text) if KEYWORD in texts else _as_utf8(text) for name, text in texts.items()}


def _as_utf8(text: str) -> str:
    """A PNG's tEXt, which should be Latin-1 and is UTF-8 in some programs, as what it is; an iTXt says it is UTF-8."""
    try:
        return str(text) if isinstance(text, iTXt) else text.encode("latin-1").decode("utf-8")
    except ValueError:
        return str(text)


def _without_settings(image: Image.Image) -> str:
    """The sentence about a picture without settings, with the program that it names."""
    saved = str(image.getexif().get(SOFTWARE) or image.info.get("Software") or "").strip(" \0")
    comment = image.info.get("Comment") or image.info.get("comment") or ""
    comment = comment.decode("utf-8", "replace") if isinstance(comment, bytes) else str(comment)
    if not saved and "GIMP" in comment:
        saved = "GIMP"
    chunks = dict(chunk[:2] for chunk in getattr(image, "private_chunks", ()))
    if found := GENERATOR.search(chunks.get(CREDENTIALS, b"")):
        length = found[1][0] if found[1] else found[2][0] - 0x60
        name = chunks[CREDENTIALS][found.end() : found.end() + length].decode("utf-8", "replace")
        return f"The picture carries Content Credentials of {name}, which say who made it and not with which settings."
    return NOTHING.format(f", and was saved by {saved[:MAX_NAME]}" if saved else "")
