"""What img2img starts from: the fitted input picture, what of it is drawn anew, and where the result is put back."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from .images import (
    PictureError,
    broken,
    check_memory,
    decoding,
    fit_picture,
    in_strips,
    open_picture,
    open_untrusted,
)
from .limits import LOCAL, MEGA, Limits
from .request import Request

Box = tuple[int, int, int, int]  # left, top, right, bottom
SHAPE_SLACK = 0.02  # by which the shapes of a picture and its mask may differ: painters round to whole pixels
FILL_SIDE = 512  # pixels
FILL_RADII = (256, 128, 64, 32, 16, 8, 4, 2)  # pixels; the colours around come from the nearest that reach a pixel
KEPT, FREE = 0, 255


@dataclass(frozen=True, eq=False)
class InputPicture:
    """The input picture of img2img, ready to be drawn on.

    picture   RGB, at the size of the request or, for "only the masked area" and for tiles, at its own
    mask      L of the same size, 255 is drawn anew; None without a mask
    request   the resolved request
    multiple  what the sides of a picture drawn in tiles are filled up to, in pixels
    """

    picture: Image.Image
    mask: Image.Image | None
    request: Request
    multiple: int = 1

    @cached_property
    def canvas(self) -> Image.Image:
        """The picture extended by `outpaint`; new sides continue the colours at the edge."""
        if not any(self.request.outpaint):
            return self.picture
        canvas = Image.new("RGB", self._canvas_size)
        canvas.paste(self.picture, self.request.outpaint[:2])
        return colours_around(canvas, self._extended(None))

    @cached_property
    def soft_mask(self) -> Image.Image | None:
        """The mask on the canvas with faded edges: 255 is free from the first step on, 0 never; None redraws all."""
        if not self.request.inpaints:
            return None
        return faded(self._extended(self.mask), self.request.mask_blur)

    @cached_property
    def box(self) -> Box:
        """The part of the canvas that is drawn."""
        whole = (0, 0, *self._canvas_size)
        if self.soft_mask is None or self.request.inpaint_area == "whole":
            return whole
        found = self.soft_mask.getbbox() or whole
        return padded(found, self.request.padding, self.request.width / self.request.height, self._canvas_size)

    @property
    def drawn(self) -> Image.Image:
        """The picture at the size that it is drawn at."""
        return self._at_drawn_size(self.canvas)

    @property
    def filled(self) -> Image.Image:
        """As `drawn`, with the colours around in place of what is free from the first step on."""
        mask = self.drawn_mask
        return (
            self.drawn if mask is None else colours_around(self.drawn, mask.point(lambda value: value // FREE * FREE))
        )

    @property
    def drawn_mask(self) -> Image.Image | None:
        """`soft_mask` at the size that it is drawn at."""
        return None if self.soft_mask is None else self._at_drawn_size(self.soft_mask)

    def stitched(self, drawn: Image.Image) -> Image.Image:
        """The result: the canvas with the drawn part in its place.

        Where the mask is 0 every pixel is the canvas's own; where it is a half or more, the drawn one.
        """
        if self.request.is_tiled:
            drawn = drawn.crop((0, 0, *self._canvas_size))
        if self.soft_mask is None:
            return drawn
        left, top, right, bottom = self.box
        part = _resized(drawn, (right - left, bottom - top))
        result = self.canvas.copy()
        result.paste(part, (left, top), self.soft_mask.crop(self.box).point(lambda value: min(FREE, 2 * value)))
        return result

    @property
    def _canvas_size(self) -> tuple[int, int]:
        left, top, right, bottom = self.request.outpaint
        return self.picture.width + left + right, self.picture.height + top + bottom

    def _extended(self, mask: Image.Image | None) -> Image.Image:
        """A mask of the canvas: all of the new sides, and of the picture what is in `mask`."""
        extended = Image.new("L", self._canvas_size, FREE)
        extended.paste(mask or Image.new("L", self.picture.size, KEPT), self.request.outpaint[:2])
        return extended

    def _at_drawn_size(self, image: Image.Image) -> Image.Image:
        if self.request.is_tiled:
            return filled_up(image, self.multiple)
        # Only the masked area is drawn at another size than it has.
        whole = self.soft_mask is None or self.request.inpaint_area == "whole"
        return image if whole else _resized(image.crop(self.box), self.request.drawn_size)


def open_input(request: Request, limits: Limits = LOCAL) -> InputPicture | None:
    """The input picture and the mask of a resolved request, None for txt2img. Raises PictureError."""
    if not request.has_input or request.image is None:
        return None
    with decoding():
        return fit_input(*open_upload(request, limits), request, limits)


def open_upload(request: Request, limits: Limits = LOCAL) -> tuple[Image.Image, Image.Image | None]:
    """The picture of an img2img request as it was uploaded, and its mask at the picture's size. Raises PictureError."""
    if request.image is None:
        raise PictureError("img2img needs an input picture: upload one, or use txt2img.")
    picture = open_picture(request.image, limits)
    return picture, None if request.mask is None else open_mask(request.mask, picture.size, limits)


def fit_input(picture: Image.Image, mask: Image.Image | None, request: Request, limits: Limits = LOCAL) -> InputPicture:
    """An opened picture and a mask of its size for a resolved request. Raises PictureError."""
    if request.inpaints and request.inpaint_area == "masked":
        found = InputPicture(picture, mask, request)
        width, height = found._canvas_size
        if width * height > limits.picture:
            raise PictureError(
                f"The picture has {width}x{height} pixels; allowed are {limits.picture / MEGA:.1f} megapixels. Draw "
                "the whole picture, which scales it to the size of the request, or give a smaller one."
            )
        return found
    if request.is_tiled:
        width, height = request.tiled_size(picture.size)
        if width * height > limits.picture:
            raise PictureError(
                f"Enlarged, the picture would be {width}x{height}; allowed are {limits.picture / MEGA:.1f} megapixels. "
                "Choose a smaller scale."
            )
        return InputPicture(picture, mask, request)
    size = request.width, request.height
    fitted = None if mask is None else fit_picture(mask, *size, request.fit)
    return InputPicture(fit_picture(picture, *size, request.fit), fitted, request)


def filled_up(image: Image.Image, multiple: int) -> Image.Image:
    """A picture whose right and lower edges go on up to a multiple of pixels."""
    right, below = (-side % multiple for side in image.size)
    if not right and not below:
        return image
    values = np.asarray(image)
    return Image.fromarray(np.pad(values, [(0, below), (0, right), *[(0, 0)] * (values.ndim - 2)], "edge"))


def open_mask(path: Path, size: tuple[int, int], limits: Limits = LOCAL) -> Image.Image:
    """A mask at the size of its picture (width, height): L, from what is light and not transparent in it.

    Raises PictureError if it is none, or of another shape than the picture.
    """
    mask = read_mask(path, limits)
    width, height = mask.size
    if abs(width * size[1] - height * size[0]) > SHAPE_SLACK * width * size[1] + max(*size, width, height):
        raise PictureError(
            f"The mask is {width}x{height} and the picture {size[0]}x{size[1]}; a mask has the shape of its picture."
        )
    return _resized(mask, size)


def read_mask(path: Path, limits: Limits = LOCAL) -> Image.Image:
    """A mask as it is, upright: L, from what is light and not transparent in it. Raises PictureError."""
    with decoding(), open_untrusted(path) as image, broken("mask"):
        check_memory(image, limits)
        image.load()
        return ImageOps.exif_transpose(in_strips(image, "L", _strip_of_mask))


def _strip_of_mask(image: Image.Image) -> Image.Image:
    layer = image.convert("RGBA")
    black = Image.new("RGBA", layer.size, (0, 0, 0, 255))
    return Image.alpha_composite(black, layer).convert("L")


def faded(mask: Image.Image, blur: int) -> Image.Image:
    """A mask whose parts reach `blur` pixels further and fade out around there; what is in it stays as it is."""
    box = mask.getbbox()
    if not blur or box is None:
        return mask
    # Nothing reaches further than this.
    box = padded(box, 4 * blur, 0.0, mask.size)
    own = grown = mask.crop(box)
    for _ in range(blur):
        grown = grown.filter(ImageFilter.MaxFilter(3))
    soft = grown.filter(ImageFilter.GaussianBlur(blur / 2))
    result = mask.copy()
    result.paste(Image.fromarray(np.maximum(np.asarray(own), np.asarray(soft))), box[:2])
    return result


def colours_around(image: Image.Image, mask: Image.Image) -> Image.Image:
    """A picture whose masked pixels continue the colours around them: blurred from near where it can be, else from far.

    mask  L; what is 0 keeps its pixels
    """
    free = mask.point(lambda value: FREE if value else KEPT)
    if free.getbbox() is None or free.getextrema() == (FREE, FREE):
        return image
    # Blurred colours need no more pixels than these.
    scale = max(1, max(image.size) / FILL_SIDE)
    size = round(image.width / scale), round(image.height / scale)
    known = 1 - np.asarray(free.resize(size, Image.Resampling.BOX), np.float32)[..., None] / FREE
    pixels = known * np.asarray(image.resize(size, Image.Resampling.BOX), np.float32)
    filled = np.broadcast_to(pixels.sum((0, 1)) / max(known.sum(), 1e-6), pixels.shape)
    for radius in FILL_RADII:
        weights, colours = _blurred(known, radius), _blurred(pixels, radius)
        # How much of the surroundings is within reach; far from them the coarser blur stays.
        filled = filled + np.clip(4 * weights, 0, 1) * (colours / np.maximum(weights, 1e-6) - filled)
    around = Image.fromarray(filled.round().clip(0, 255).astype(np.uint8))
    return Image.composite(around.resize(image.size, Image.Resampling.BILINEAR), image, free)


def padded(box: Box, padding: int, shape: float, size: tuple[int, int]) -> Box:
    """A box with padding, widened to a shape (width / height; 0 takes any) as far as a picture of this size goes."""
    left, top, right, bottom = box
    left, top = max(0, left - padding), max(0, top - padding)
    right, bottom = min(size[0], right + padding), min(size[1], bottom + padding)
    if shape:
        width = min(size[0], max(right - left, round((bottom - top) * shape)))
        height = min(size[1], max(bottom - top, round(width / shape)))
        left = min(max(0, (left + right - width) // 2), size[0] - width)
        top = min(max(0, (top + bottom - height) // 2), size[1] - height)
        right, bottom = left + width, top + height
    return left, top, right, bottom


def _blurred(values: np.ndarray, radius: int) -> np.ndarray:
    """The mean over a square of this radius, (height, width, channels); the edge goes on beyond the edge."""
    for axis in (0, 1):
        reach = min(radius, values.shape[axis] - 1)
        padded = np.pad(values, [(reach + 1, reach) if i == axis else (0, 0) for i in range(3)], "edge")
        sums = np.moveaxis(np.cumsum(padded, axis, dtype=np.float64), axis, 0)
        means = (sums[2 * reach + 1 :] - sums[: -2 * reach - 1]) / (2 * reach + 1)
        values = np.moveaxis(means, 0, axis)
    return values


def _resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image if image.size == size else fit_picture(image, *size, "stretch")
