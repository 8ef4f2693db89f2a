"""Open pictures from users safely, fit them to a size, and make previews."""

from __future__ import annotations

import math
import stat
import threading
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageOps

from .request import RequestError

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_BYTES = 32 * 1024 * 1024
MAX_PIXELS = 50_000_000  # phones take 50 megapixels; decoded that is 150 MB
MAX_ASPECT = 100
PREVIEW_SIDE = 768
PAPER = (255, 255, 255)
STRIP = 256  # rows that are converted at a time
# A small file can hold 50 megapixels, 200 MB decoded: only one caller at a time may have them in memory.
DECODING = threading.RLock()


class PictureError(RequestError):
    """A picture that cannot be used; the text says why and what can."""


def open_picture(path: Path) -> Image.Image:
    """An uploaded picture as RGB, turned upright, transparency on white; the first frame of an animation.

    Size and format are checked before a pixel is decoded. Raises PictureError.
    """
    with DECODING, open_untrusted(path) as image:
        try:
            image.load()
            _turn_upright(image)
            return _to_rgb(image)
        # Pillow's decoders raise nearly anything on a broken file.
        except Exception as error:
            raise PictureError(
                f"The picture is damaged ({type(error).__name__}); save it again and upload that."
            ) from None


def open_untrusted(path: Path, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """Open a picture, checked for size and format but not decoded yet; close it after use. Raises PictureError."""
    kinds = ", ".join(formats).replace("WEBP", "WebP")
    try:
        status = Path(path).stat()
        # Opening a pipe would wait for a writer.
        if not stat.S_ISREG(status.st_mode):
            raise PictureError("The picture cannot be read; upload it again.")
        size = status.st_size
        if size > MAX_BYTES:
            raise PictureError(f"The file has {size / 2**20:.0f} MB; allowed are {MAX_BYTES / 2**20:.0f} MB.")
        image = Image.open(path, formats=tuple(formats))
    except PictureError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise PictureError(f"The picture is too large; allowed are {MAX_PIXELS / 1e6:.0f} megapixels.") from None
    except OSError as error:
        missing = isinstance(error, (FileNotFoundError, PermissionError))
        what = (
            "The picture cannot be read; upload it again."
            if missing
            else f"The file is not a picture that can be read; use {kinds}."
        )
        raise PictureError(what) from None
    except Exception as error:
        raise PictureError(f"The picture is damaged ({type(error).__name__}); use {kinds}.") from None
    width, height = image.size
    if width * height > MAX_PIXELS or max(width, height) > MAX_ASPECT * min(width, height):
        image.close()
        allowed = f"{MAX_PIXELS / 1e6:.0f} megapixels, and one side at most {MAX_ASPECT} times the other"
        raise PictureError(f"The picture is {width}x{height}; allowed are {allowed}.")
    return image


def fit_picture(image: Image.Image, width: int, height: int, fit: str = "crop") -> Image.Image:
    """Bring a picture to width x height: "crop" cuts the longer side off, "pad" adds white, "stretch" distorts.

    A mask (mode L) is padded with black.
    """
    # The sharper filter would overshoot: the white of a mask would not stay white.
    how = Image.Resampling.LANCZOS if image.mode == "RGB" else Image.Resampling.BILINEAR
    if fit == "crop":
        return ImageOps.fit(image, (width, height), how)
    if fit == "stretch":
        return image.resize((width, height), how)
    if fit != "pad":
        raise PictureError(f"Fit is {fit!r}; allowed are 'crop', 'pad' and 'stretch'.")
    scale = min(width / image.width, height / image.height)
    inner = (max(1, min(width, round(image.width * scale))), max(1, min(height, round(image.height * scale))))
    padded = Image.new(image.mode, (width, height), PAPER if image.mode == "RGB" else 0)
    padded.paste(image.resize(inner, how), ((width - inner[0]) // 2, (height - inner[1]) // 2))
    return padded


def grid(images: Sequence[Image.Image]) -> Image.Image:
    """Several pictures of one size in a near-square grid, row by row; a single one as it is."""
    if len(images) == 1:
        return images[0]
    columns = math.ceil(math.sqrt(len(images)))
    width, height = images[0].size
    sheet = Image.new("RGB", (columns * width, math.ceil(len(images) / columns) * height), PAPER)
    for i, image in enumerate(images):
        sheet.paste(image, (i % columns * width, i // columns * height))
    return sheet


def png_bytes(image: Image.Image) -> bytes:
    """A picture as a PNG."""
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def to_jpeg(image: Image.Image, side: int = PREVIEW_SIDE, quality: int = 80) -> bytes:
    """A small JPEG for the eye: no side longer than `side`."""
    if max(image.size) > side:
        image = image.copy()
        image.thumbnail((side, side))
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _turn_upright(image: Image.Image) -> None:
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except Exception:  # EXIF from the wild may be anything; the pixels are still good
        pass


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert in strips: Pillow's conversions of a whole picture would hold up to four copies of it at once."""
    rgb = Image.new("RGB", image.size)
    for top in range(0, image.height, STRIP):
        box = (0, top, image.width, min(top + STRIP, image.height))
        strip = _strip_to_rgb(image.crop(box))
        rgb.paste(strip, box)
        rgb.info = strip.info
    return rgb


def _strip_to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # 16 bits a pixel: Pillow's convert would clip instead of scale.
        return Image.eval(image.convert("I"), lambda value: value / 257).convert("L").convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    paper = Image.new("RGBA", layer.size, (*PAPER, 255))
    return Image.alpha_composite(paper, layer).convert("RGB")
