"""Export pictures with their settings: PNG, WebP (both lossless) and JPEG (lossy, smaller)."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

from PIL import Image

from .exif import SEGMENT, to_exif
from .images import decoding, open_picture
from .infotext import infotext
from .picture_metadata import read_picture
from .record import MetadataError, Record, encode_png

FORMATS = {"PNG": ".png", "JPEG": ".jpg", "WebP": ".webp"}
JPEG_QUALITY = 95


def encode(image: Image.Image, record: Record, kind: str) -> bytes:
    """A picture of one of FORMATS with its settings; JPEG alone is lossy. Raises MetadataError if JPEG has no room."""
    if kind == "PNG":
        return encode_png(image, record)
    exif, buffer = to_exif(infotext(record.data), record.data), BytesIO()
    if kind == "WebP":
        image.save(buffer, "WEBP", lossless=True, exact=True, exif=exif)
        return buffer.getvalue()
    if kind != "JPEG":
        raise MetadataError(f"Format {kind!r} is unknown; allowed are {', '.join(FORMATS)}.")
    if len(exif) > SEGMENT:
        raise MetadataError("JPEG has no room for settings this long (64 KB); take WebP or PNG, or shorter settings.")
    # Colour in full resolution: small bright shapes lose most by its halving.
    image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0, exif=exif)
    return buffer.getvalue()


def convert(path: Path, kind: str) -> tuple[str, bytes]:
    """(file name, bytes) of one of our pictures in another format. Raises MetadataError or PictureError."""
    carried = read_picture(path)
    if carried.record is None:
        raise MetadataError("Only pictures with Sigmalab's own settings can be exported with them.")
    if kind not in FORMATS:
        raise MetadataError(f"Format {kind!r} is unknown; allowed are {', '.join(FORMATS)}.")
    with decoding():
        return Path(path).stem + FORMATS[kind], encode(open_picture(path), carried.record, kind)
