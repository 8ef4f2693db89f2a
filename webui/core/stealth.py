"""Settings in the lowest bits of a picture's pixels, as NovelAI and "stealth pnginfo" for A1111's page write them.

Column by column, from the top of each: 15 letters that name the kind, 32 bits with the number of bits of the text, the
text in UTF-8, with gzip or without. They lie in the alpha channel, or in red, green and blue by turns.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

from .exif import TooLong

GZIP = 31  # zlib's number for data with gzip's header
NAME, LENGTH = 15 * 8, 32  # bits
# Kind: (the channels, whether the text is compressed).
KINDS = {
    b"stealth_pnginfo": ("A", False),
    b"stealth_pngcomp": ("A", True),
    b"stealth_rgbinfo": ("RGB", False),
    b"stealth_rgbcomp": ("RGB", True),
}


def read_stealth(image: Image.Image, longest: int) -> str:
    """The text in the pixels of a picture; "" if there is none. The picture is decoded.

    longest  characters that it may have
    Raises TooLong, ValueError and zlib.error on damaged ones.
    """
    if image.mode not in ("RGB", "RGBA"):
        return ""
    for channels in ("A", "RGB"):
        if channels == "A" and image.mode == "RGB":
            continue
        bits = _reader(image, channels)
        packed_name = bits(NAME)
        kind = KINDS.get(packed_name)
        if kind is not None and kind[0] == channels:
            length = int.from_bytes(bits(NAME + LENGTH)[-LENGTH // 8 :], "big")
            if length > 8 * 4 * longest:
                raise TooLong(f"longer than {longest} characters")
            data = bits(NAME + LENGTH + length)[(NAME + LENGTH) // 8 :]
            if len(data) * 8 < length:
                raise ValueError("the picture is too small for its text")
            return _inflated(data, longest) if kind[1] else data.decode("utf-8")
    return ""


def _reader(image: Image.Image, channels: str) -> Callable[[int], bytes]:
    """A function from a number of bits to the first so many of the lowest bits of these channels, as whole bytes."""

    def bits(count: int) -> bytes:
        columns = min(image.width, -(-count // (image.height * len(channels))))
        # Only the columns that are asked for: nearly all pictures end with the first.
        part = image.crop((0, 0, columns, image.height))
        values = np.asarray(part.getchannel("A") if channels == "A" else part.convert("RGB"))
        return np.packbits(np.swapaxes(values, 0, 1).reshape(-1)[: count // 8 * 8] & 1).tobytes()

    return bits


def _inflated(data: bytes, longest: int) -> str:
    inflater = zlib.decompressobj(GZIP)
    text = inflater.decompress(data, 4 * longest)
    if inflater.unconsumed_tail:
        raise TooLong(f"longer than {longest} characters")
    if not inflater.eof:
        raise ValueError("the text breaks off")
    return text.decode("utf-8")
