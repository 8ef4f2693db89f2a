"""Pictures in the bodies of API calls: base64 to a file that lives as long as the call is being prepared, and back."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path

from PIL import ImageOps

from webui.core.images import MAX_BYTES, decoding
from webui.core.inpainting import read_mask
from webui.core.limits import Limits
from webui.core.request import RequestError

MAX_TEXT = MAX_BYTES * 4 // 3 + 100
ADDRESSES = ("http://", "https://", "file:")


def write_base64(text: str, path: Path, what: str) -> Path:
    """Write the bytes of a picture that came as base64. Raises RequestError.

    what  the name of the field, for the error
    """
    if text[:8].lower().startswith(ADDRESSES):
        raise RequestError(f"{what} is an address, which is not fetched; send the picture itself as base64.")
    if len(text) > MAX_TEXT:
        raise RequestError(f"{what} is too large; allowed are {MAX_BYTES >> 20} MB.")
    data = text.partition(",")[2] if text[:5] == "data:" else text
    try:
        # MIME breaks lines.
        path.write_bytes(base64.b64decode("".join(data.split()), validate=True))
    except (binascii.Error, ValueError):
        raise RequestError(f"{what} is not base64; send the bytes of a PNG, JPEG or WebP as base64.") from None
    return path


def to_base64(data: bytes) -> str:
    """Bytes as base64."""
    return base64.b64encode(data).decode("ascii")


def write_inverted(path: Path, limits: Limits) -> Path:
    """Turn a mask around, in its file: what was white or not there is black. Raises PictureError."""
    with decoding():
        mask = ImageOps.invert(read_mask(path, limits))
    mask.save(path, "PNG")
    return path
