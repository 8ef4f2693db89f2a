"""Open pictures from users safely, fit them to a size, and make previews."""

from __future__ import annotations

import ctypes
import math
import stat
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

from PIL import ExifTags, Image, ImageOps

from .limits import LOCAL, MEGA, Limits
from .request import RequestError

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_BYTES = 32 * 1024 * 1024
MAX_PIXELS = 50_000_000  # phones take 50 megapixels; decoded that is 200 MB
MAX_ASPECT = 100
PREVIEW_SIDE = 768
PAPER = (255, 255, 255)
STRIP = 256  # rows that are converted at a time
# Bytes of memory a pixel, measured with Pillow 12: its decoders of WebP and of progressive JPEG hold several copies.
PLAIN, PROGRESSIVE, WEBP, COPY = 4, 10, 16, 4
TURNED = frozenset(range(2, 9))  # EXIF's orientations of pictures that are not upright
PATIENCE = 60.0  # seconds that a picture waits until the ones before it are done
_DECODING = threading.RLock()


class PictureError(RequestError):
    """A picture that cannot be used; the text says why and what can."""


@contextmanager
def decoding() -> Iterator[None]:
    """Have pictures decoded in memory: one caller at a time, who may nest it. Raises PictureError after PATIENCE.

    A small file can hold 50 megapixels, 200 MB decoded: whoever decodes one keeps this until it is small again.
    """
    if not _DECODING.acquire(timeout=PATIENCE):
        raise PictureError("Others are opening large pictures; try again in a minute.")
    try:
        yield
    finally:
        _give_back_memory()
        _DECODING.release()


def _give_back_memory() -> None:
    """glibc keeps what each thread has freed: six threads that decode one after the other would hold six pictures."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def open_picture(path: Path, limits: Limits = LOCAL) -> Image.Image:
    """An uploaded picture as RGB, turned upright, transparency on white; the first frame of an animation.

    Size and format are checked before a pixel is decoded. Raises PictureError.
    """
    with decoding():
        return _whole(path, limits)


def _whole(path: Path, limits: Limits) -> Image.Image:
    with open_untrusted(path) as image, broken("picture"):
        check_memory(image, limits)
        image.load()
        _turn_upright(image)
        if image.mode == "RGB" and not image.has_transparency_data:
            return image
        return in_strips(image, "RGB", _strip_to_rgb)


def open_small(path: Path, side: int, limits: Limits = LOCAL) -> tuple[Image.Image, tuple[int, int]]:
    """As `open_picture`, for the eye: with sides of twice `side` or more where it has so many, and its own size.

    It is made smaller before it is put on white, and a JPEG before it is decoded. Raises PictureError.
    """
    with decoding():
        return _small(path, side, limits)


def _small(path: Path, side: int, limits: Limits) -> tuple[Image.Image, tuple[int, int]]:
    with open_untrusted(path) as image, broken("picture"):
        check_memory(image, limits)
        own = image.size
        if image.format == "JPEG":
            image.draft(None, (2 * side, 2 * side))
        image.load()
        small = in_strips(image, "RGB", _strip_to_rgb, max(1, min(image.size) // (2 * side)))
        before = small.size
        _turn_upright(small)
        return small, own if small.size == before else own[::-1]


def check_memory(image: Image.Image, limits: Limits) -> None:
    """Raises PictureError if an opened picture would take more memory than `limits.upload` while it is decoded."""
    progressive = image.format == "JPEG" and "progressive" in image.info
    cost = WEBP if image.format == "WEBP" else PROGRESSIVE if progressive else PLAIN
    if image.mode != "RGB" or image.has_transparency_data or _orientation(image) in TURNED:
        cost += COPY
    if image.width * image.height * cost > limits.upload:
        what = "WebP" if image.format == "WEBP" else "progressive JPEG" if progressive else "picture of its kind"
        raise PictureError(
            f"The picture is {image.width}x{image.height}; for a {what} allowed are {limits.upload / cost / MEGA:.0f} "
            "megapixels. Make it smaller, or save it as a plain JPEG."
        )


@contextmanager
def broken(what: str) -> Iterator[None]:
    """Pillow's decoders raise nearly anything on a broken file: turn that into words."""
    try:
        yield
    except PictureError:
        raise
    except Exception as error:
        raise PictureError(f"The {what} is damaged ({type(error).__name__}); save it again and upload that.") from None


def open_untrusted(path: Path | BytesIO, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """Open a picture, checked for size and format but not decoded yet; close it after use. Raises PictureError."""
    kinds = ", ".join(formats).replace("WEBP", "WebP")
    try:
        if isinstance(path, BytesIO):
            size = path.getbuffer().nbytes
        else:
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


def shrunk(image: Image.Image, side: int) -> Image.Image:
    """A picture of which no side is longer than `side`: itself, or a smaller one."""
    if max(image.size) <= side:
        return image
    small = image.reduce(max(1, max(image.size) // (2 * side)))
    small.thumbnail((side, side))
    return small


def to_jpeg(image: Image.Image, side: int = PREVIEW_SIDE, quality: int = 80) -> bytes:
    """A small JPEG for the eye: no side longer than `side`."""
    buffer = BytesIO()
    shrunk(image, side).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _orientation(image: Image.Image) -> object:
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # EXIF from the wild may be anything
        return None


def _turn_upright(image: Image.Image) -> None:
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except Exception:  # EXIF from the wild may be anything; the pixels are still good
        pass


def in_strips(
    image: Image.Image, mode: str, convert: Callable[[Image.Image], Image.Image], factor: int = 1
) -> Image.Image:
    """Convert a picture to a mode in strips, each made smaller by `factor`.

    Pillow's conversions of a whole picture would hold up to four copies of it at once.
    """
    result = Image.new(mode, (-(-image.width // factor), -(-image.height // factor)))
    # EXIF says how to turn it upright. Of transparency nothing is left.
    result.info = {name: value for name, value in image.info.items() if name != "transparency"}
    rows = max(1, STRIP // factor) * factor
    for top in range(0, image.height, rows):
        strip = convert(image.crop((0, top, image.width, min(top + rows, image.height))))
        result.paste(strip.reduce(factor), (0, top // factor))
    return result


def _strip_to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # 16 bits a pixel: Pillow's convert would clip instead of scale.
        return Image.eval(image.convert("I"), lambda value: value / 257).convert("L").convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    paper = Image.new("RGBA", layer.size, (*PAPER, 255))
    return Image.alpha_composite(paper, layer).convert("RGB")
