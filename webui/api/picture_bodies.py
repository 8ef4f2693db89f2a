"""Pictures in the bodies of API calls: base64 to a file that lives as long as the call is being prepared, and back."""

from __future__ import annotations

import base64
import binascii
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageOps

from webui.core.images import DECODING, MAX_BYTES, PictureError, open_untrusted
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


def write_inverted(path: Path) -> Path:
    """Turn a mask around, in its file: what was white or not there is black. Raises PictureError."""
    with DECODING, open_untrusted(path) as image:
        try:
            layer = image.convert("RGBA")
            black = Image.new("RGBA", layer.size, (0, 0, 0, 255))
            mask = ImageOps.invert(Image.alpha_composite(black, layer).convert("L"))
        # Pillow's decoders raise nearly anything on a broken file.
        except Exception as error:
            raise PictureError(f"The mask is damaged ({type(error).__name__}); save it again.") from None
    mask.save(path, "PNG")
    return path


def png_bytes(image: Image.Image) -> bytes:
    """A picture as a PNG."""
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
