"""Uploaded pictures: the good ones come out upright and of the right size, the rest is refused before it costs."""

import io
import os
import random
import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace

import pytest
from PIL import Image, ImageChops, ImageFile

from webui.core import images
from webui.core.images import MAX_BYTES, PictureError, fit_picture, grid, open_picture, open_small, shrunk, to_jpeg
from webui.core.inpainting import read_mask
from webui.core.limits import LOCAL, PUBLIC
from webui.tabs.img2img import show_fitted


def save(path, image, *args, **more):
    image.save(path, *args, **more)
    return path


def halves(width=40, height=20):
    """Left half red, right half blue."""
    image = Image.new("RGB", (width, height), (255, 0, 0))
    image.paste((0, 0, 255), (width // 2, 0, width, height))
    return image


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_formats(tmp_path, kind):
    image = open_picture(save(tmp_path / "upload", halves(), kind))
    red, _, blue = image.getpixel((4, 10))
    assert image.mode == "RGB" and image.size == (40, 20) and red > 200 and blue < 60


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF"])
def test_other_formats_are_refused(tmp_path, kind):
    with pytest.raises(PictureError, match="use PNG, JPEG, WebP"):
        open_picture(save(tmp_path / "upload.png", halves(), kind))


def test_the_camera_was_held_sideways(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right to see it upright
    image = open_picture(save(tmp_path / "a.jpg", halves(), exif=exif))
    assert image.size == (20, 40)
    assert image.getpixel((10, 4))[0] > 200 and image.getpixel((10, 36))[2] > 200


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_does_not_matter(tmp_path):
    image = open_picture(save(tmp_path / "a.jpg", halves(), exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\xff"))
    assert image.size == (40, 20)


@pytest.mark.parametrize(
    "made, colour",
    [
        (Image.new("RGBA", (8, 8), (255, 0, 0, 0)), (255, 255, 255)),
        (Image.new("RGBA", (8, 8), (0, 0, 0, 128)), (127, 127, 127)),
        (Image.new("LA", (8, 8), (0, 0)), (255, 255, 255)),
        (Image.new("L", (8, 8), 100), (100, 100, 100)),
        (Image.new("1", (8, 8), 1), (255, 255, 255)),
        (Image.new("I;16", (8, 8), 100 * 257), (100, 100, 100)),
        (Image.new("RGB", (8, 8), (9, 8, 7)).quantize(), (9, 8, 7)),
    ],
)
def test_modes(tmp_path, made, colour):
    found = open_picture(save(tmp_path / "a.png", made)).getpixel((4, 4))
    assert all(abs(a - b) <= 1 for a, b in zip(found, colour))


def test_transparent_palettes(tmp_path):
    image = Image.new("P", (8, 8), 0)
    image.putpalette([10, 20, 30] * 256)
    assert open_picture(save(tmp_path / "a.png", image, transparency=0)).getpixel((0, 0)) == (255, 255, 255)


def test_only_the_first_frame(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    save(tmp_path / "a.webp", frames[0], save_all=True, append_images=frames[1:], lossless=True)
    assert open_picture(tmp_path / "a.webp").getpixel((0, 0)) == (255, 0, 0)


def bomb(path, width, height):
    """A PNG of a few bytes that says that it is huge."""
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))  # noqa: E731
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(b"\0" * 100_000)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b""))
    return path


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [7100, 12_000, 60_000, 2**31 - 1])
def test_bombs_are_refused_unopened(tmp_path, side, monkeypatch):
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("it was decoded"))
    with pytest.raises(PictureError, match="allowed are 50 megapixels|damaged|not a picture"):
        open_picture(bomb(tmp_path / "a.png", side, side))


def test_slivers_are_refused(tmp_path):
    with pytest.raises(PictureError, match="at most 100 times"):
        open_picture(bomb(tmp_path / "a.png", 10_000, 1))


def test_large_files_are_refused_unread(tmp_path):
    with open(tmp_path / "a.png", "wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(PictureError, match="allowed are 32 MB"):
        open_picture(tmp_path / "a.png")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_cut_and_scrambled_files_never_crash(tmp_path, kind):
    buffer = io.BytesIO()
    Image.frombytes("RGB", (60, 40), random.Random(0).randbytes(60 * 40 * 3)).save(buffer, kind)
    whole = buffer.getvalue()
    # A PNG that lacks only some of its last twelve bytes, which say that it ends, lacks nothing of the picture.
    for position in range(0, len(whole) - 12, max(1, len(whole) // 60)):
        (tmp_path / "cut").write_bytes(whole[:position])
        with pytest.raises(PictureError):
            open_picture(tmp_path / "cut")
        scrambled = (
            whole[:position] + bytes(255 - byte for byte in whole[position : position + 3]) + whole[position + 3 :]
        )
        (tmp_path / "scrambled").write_bytes(scrambled)
        try:
            open_picture(tmp_path / "scrambled")
        except PictureError as error:
            assert str(error).endswith(".")


def test_missing_files(tmp_path):
    with pytest.raises(PictureError, match="upload it again"):
        open_picture(tmp_path / "none.png")
    with pytest.raises(PictureError, match="upload it again"):
        open_picture(tmp_path)


def test_fitting():
    source = halves(400, 100)
    crop, pad, stretch = (fit_picture(source, 64, 32, fit) for fit in ("crop", "pad", "stretch"))
    assert crop.size == pad.size == stretch.size == (64, 32)
    assert crop.getpixel((8, 2)) == (255, 0, 0) and crop.getpixel((56, 30)) == (0, 0, 255)
    assert pad.getpixel((32, 2)) == (255, 255, 255) and pad.getpixel((2, 16)) == (255, 0, 0)
    assert stretch.getpixel((2, 2)) == (255, 0, 0) and stretch.getpixel((62, 30)) == (0, 0, 255)
    with pytest.raises(PictureError, match="'crop', 'pad' and 'stretch'"):
        fit_picture(source, 64, 32, "squeeze")


@pytest.mark.parametrize("size", [(1, 1), (100, 1), (1, 100)])
@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_odd_sizes_fit(size, fit):
    fitted = fit_picture(Image.new("RGB", size, (5, 5, 5)), 64, 32, fit)
    assert fitted.size == (64, 32) and fitted.getextrema()[0][0] == 5


def test_grids_and_previews():
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    sheet = grid([Image.new("RGB", (10, 8), colour) for colour in colours])
    assert sheet.size == (20, 16)
    assert [sheet.getpixel(at) for at in ((5, 4), (15, 4), (5, 12), (15, 12))] == [*colours, (255, 255, 255)]
    assert Image.open(io.BytesIO(to_jpeg(Image.new("RGB", (2000, 1000))))).size == (768, 384)


def test_a_pipe_is_no_picture(tmp_path):
    os.mkfifo(tmp_path / "x.png")
    with pytest.raises(PictureError, match="cannot be read"):
        open_picture(tmp_path / "x.png")


def test_no_second_copy_is_made_of_a_large_picture(tmp_path, monkeypatch):
    # At 7071 x 7071 it would be 206 KB that decode to 200 MB; converted as a whole they took 1.1 GB.
    Image.new("RGBA", (100, 7071), (200, 30, 30, 128)).save(tmp_path / "a.png")
    heights, copied = [], []
    real, copy = images._strip_to_rgb, Image.Image.copy
    monkeypatch.setattr(images, "_strip_to_rgb", lambda image: heights.append(image.height) or real(image))
    monkeypatch.setattr(Image.Image, "copy", lambda self: copied.append(self.height) or copy(self))
    assert open_picture(tmp_path / "a.png").getpixel((99, 7070)) == (227, 142, 142)
    assert max(heights + copied) == images.STRIP and sum(heights) == 7071


def test_pictures_are_decoded_one_at_a_time(tmp_path, monkeypatch):
    inside, most = [], []
    real = ImageFile.ImageFile.load

    def slow(image):
        inside.append(image)
        time.sleep(0.02)
        most.append(len(inside))
        inside.remove(image)
        return real(image)

    monkeypatch.setattr(ImageFile.ImageFile, "load", slow)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    kinds = [open_picture, read_mask, lambda path: open_small(path, 4), lambda path: show_fitted(path, 8, 8, "crop")]
    monkeypatch.setattr("webui.tabs.img2img.uploaded", lambda path: path)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda kind: kind(tmp_path / "a.png"), kinds * 2))
    assert len(most) >= 8 and set(most) == {1}


def test_whoever_waits_too_long_for_others_pictures_is_told_so(tmp_path, monkeypatch):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    monkeypatch.setattr(images, "PATIENCE", 0.01)
    with ThreadPoolExecutor(1) as pool, images.decoding(), pytest.raises(PictureError, match="try again in a minute"):
        pool.submit(open_picture, tmp_path / "a.png").result()


@pytest.mark.parametrize("kind", ["RGB", "RGBA", "L", "P", "JPEG", "turned", "turned RGBA"])
def test_a_picture_for_the_eye_is_the_whole_one_made_smaller(tmp_path, kind):
    image = Image.linear_gradient("L").resize((600, 900))
    image = Image.merge("RGB", (image, image.rotate(180), Image.new("L", image.size, 90)))
    if "RGBA" in kind:
        image.putalpha(Image.radial_gradient("L").resize(image.size))
    exif = Image.Exif()
    exif[0x0112] = 6
    file = "JPEG" if kind in ("JPEG", "turned") else "PNG"
    saved = image.convert(kind) if kind in ("L", "P") else image
    save(tmp_path / "a", saved, file, **({"exif": exif} if "turned" in kind else {}))
    small, size = open_small(tmp_path / "a", 64)
    whole = open_picture(tmp_path / "a")
    assert size == whole.size == ((900, 600) if "turned" in kind else (600, 900))
    assert min(small.size) in range(128, 256)
    worst = ImageChops.difference(small, whole.resize(small.size, Image.Resampling.BOX)).getextrema()
    assert max(high for _, high in worst) <= 8


@pytest.mark.parametrize(
    "kind, allowed",
    [
        ("PNG RGB", 50),
        ("PNG RGBA", 25),
        ("PNG L", 25),
        ("JPEG RGB", 50),
        ("JPEG RGB progressive", 20),
        ("WEBP RGB", 12.5),
        ("WEBP RGBA", 10),
    ],
)
def test_of_costly_kinds_fewer_pixels_are_allowed(tmp_path, kind, allowed):
    """Bytes a pixel times pixels are held below a limit, which is lower for a page that is shared."""
    file, mode, *how = kind.split()
    path = save(tmp_path / "a", Image.new(mode, (100, 100)), file, **dict.fromkeys(how, True))
    for factor, refused in ((0.99, True), (1.01, False)):
        one = replace(PUBLIC, upload=round(factor * PUBLIC.upload * 100 * 100 / (allowed * 1e6)))
        for open_it in (open_picture, read_mask, lambda path, limits: open_small(path, 8, limits)):
            with pytest.raises(PictureError, match="100x100; for a .* allowed are") if refused else nullcontext():
                open_it(path, one)
    assert LOCAL.upload > PUBLIC.upload


def test_making_a_picture_smaller_leaves_it_as_it_is():
    image = Image.linear_gradient("L").resize((300, 200))
    assert shrunk(image, 100).size == (100, 67) and image.size == (300, 200) and shrunk(image, 300) is image
