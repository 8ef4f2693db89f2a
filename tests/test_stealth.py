"""Settings in the lowest bits of pixels, written here as the format is described, and read back."""

import gzip
import json
import struct
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from webui.core import picture_metadata
from webui.core.limits import PUBLIC
from webui.core.picture_metadata import read_picture
from webui.core.record import MetadataError
from webui.importers.imported_settings import read_imported_settings

TEXT = "a cat, 猫\nSteps: 20, Sampler: Euler, Schedule type: Karras, CFG scale: 7, Seed: 3"


def hide(path, text, channels="A", compressed=True, bits=None, side=64):
    """A picture of noise with the text in its pixels: by columns, the highest bit of a byte first."""
    body = gzip.compress(text.encode()) if compressed else text.encode()
    kind = f"stealth_{'png' if channels == 'A' else 'rgb'}{'comp' if compressed else 'info'}".encode()
    stream = kind + struct.pack(">I", 8 * len(body) if bits is None else bits) + body
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 4), np.uint8)
    for place, bit in enumerate(np.unpackbits(np.frombuffer(stream, np.uint8))):
        if channels == "A":
            column, row, channel = place // side, place % side, 3
        else:
            column, row, channel = place // 3 // side, place // 3 % side, place % 3
        pixels[row, column, channel] = pixels[row, column, channel] & 0xFE | bit
    image = Image.fromarray(pixels, "RGBA")
    (image if channels == "A" else image.convert("RGB")).save(path, lossless=True)
    return path


@pytest.mark.parametrize(
    "name, channels, compressed",
    [("a.png", "A", True), ("a.png", "A", False), ("a.png", "RGB", True), ("a.webp", "RGB", False)],
)
def test_a_text_in_the_pixels_is_read(tmp_path, registry, name, channels, compressed):
    path = hide(tmp_path / name, TEXT, channels, compressed)
    assert read_picture(path).parameters == TEXT
    found = read_imported_settings(path, registry, {})
    assert (found.fields["sampler"], found.fields["schedule"], found.fields["seed"]) == ("Euler", "Karras", 3)


def test_novelai_writes_all_its_texts_as_one(tmp_path, registry):
    comment = json.dumps(dict(prompt="a cat", uc="bad", steps=28, sampler="k_euler", scale=5.5, seed=9, width=64))
    text = json.dumps({"Software": "NovelAI", "Description": "a cat", "Comment": comment})
    found = read_imported_settings(hide(tmp_path / "a.png", text), registry, {})
    assert (found.program, found.fields["steps"], found.fields["negative_prompt"]) == ("NovelAI", 28, "bad")


@pytest.mark.parametrize("bits, said", [(2**32 - 1, "longer"), (30_000, "damaged"), (64, "damaged")])
def test_a_damaged_one_is_refused(tmp_path, bits, said):
    with pytest.raises(MetadataError, match=said):
        read_picture(hide(tmp_path / "a.png", TEXT, bits=bits))


def test_a_text_bomb_is_refused(tmp_path):
    with pytest.raises(MetadataError, match="longer"):
        read_picture(hide(tmp_path / "a.png", "a" * 5_000_000, side=256))


def test_a_large_webp_has_none(tmp_path, monkeypatch):
    path = hide(tmp_path / "a.webp", TEXT, "RGB")
    monkeypatch.setattr(picture_metadata, "PUBLIC", replace(PUBLIC, upload=1000))
    with pytest.raises(MetadataError, match="carries no settings"):
        read_picture(path)


def test_texts_beside_the_pixels_count_first(tmp_path):
    path = hide(tmp_path / "a.png", TEXT)
    info = PngInfo()
    info.add_text("parameters", "b\nSteps: 1")
    Image.open(path).save(path, pnginfo=info)
    assert read_picture(path).parameters == "b\nSteps: 1"
