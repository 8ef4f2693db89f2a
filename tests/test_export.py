"""Settings survive in every file format that is offered, whatever characters they have; hostile files are refused."""

import json
import struct
import zlib

import pytest
from conftest import toy, write_png
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from test_metadata import make, png

from webui.core.exif import MAKER_NOTE, MARK, SEGMENT, UNICODE, USER_COMMENT, to_exif
from webui.core.export import FORMATS, convert, encode
from webui.core.images import PictureError
from webui.core.infotext import infotext
from webui.core.new_record import packages
from webui.core.picture_metadata import read_picture
from webui.core.record import MetadataError, digest_of, read_record

MODELS = {"toy": toy()}
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=300)
NOISE = Image.effect_noise((64, 48), 80).convert("RGB")


def exported(folder, record, kind):
    path = folder / f"picture{FORMATS[kind]}"
    path.write_bytes(encode(NOISE, read_record(record), kind))
    return path


@pytest.mark.parametrize("kind", FORMATS)
@settings(max_examples=25, deadline=None)
@given(prompt=TEXTS, negative=TEXTS, seed=st.integers(0, 2**32 - 1), guidance=st.floats(0, 30))
def test_settings_survive_every_format(registry, tmp_path_factory, kind, prompt, negative, seed, guidance):
    resolved, made = make(registry, prompt=prompt, negative_prompt=negative, seed=seed, guidance=guidance)
    back = read_picture(exported(tmp_path_factory.getbasetemp(), made, kind))
    assert back.record.data == made and back.parameters == infotext(made)
    assert back.record.single_request() == resolved


def test_only_jpeg_changes_pixels(registry, tmp_path):
    _, made = make(registry)
    same = {kind: Image.open(exported(tmp_path, made, kind)).tobytes() == NOISE.tobytes() for kind in FORMATS}
    assert same == {"PNG": True, "WebP": True, "JPEG": False}


def test_a_user_comment_is_what_a1111_writes(registry, tmp_path):
    _, made = make(registry, prompt="a cat, \U0001f408")
    comment = Image.open(exported(tmp_path, made, "JPEG")).getexif().get_ifd(0x8769)[USER_COMMENT]
    assert comment == b"UNICODE\0" + infotext(made).encode("utf-16-be")


def test_a_picture_is_converted_with_its_settings(registry, tmp_path):
    _, made = make(registry)
    write_png(NOISE, tmp_path / "120000-7.png", made)
    for kind, ending in FORMATS.items():
        name, data = convert(tmp_path / "120000-7.png", kind)
        (tmp_path / "out").write_bytes(data)
        assert name == f"120000-7{ending}" and read_picture(tmp_path / "out").record.data == made
    with pytest.raises(MetadataError, match="PNG, JPEG, WebP"):
        convert(tmp_path / "120000-7.png", "AVIF")
    with pytest.raises(MetadataError, match="own settings"):
        convert(png(tmp_path / "b.png", ("parameters", "a\nSteps: 2")), "JPEG")


def test_settings_too_long_for_jpeg_are_an_error_and_fit_elsewhere(registry, tmp_path):
    _, made = make(registry, prompt="\U0001f408" * 9_999, negative_prompt="\U0001f408" * 9_999)
    with pytest.raises(MetadataError, match="take WebP or PNG"):
        encode(NOISE, read_record(made), "JPEG")
    assert read_picture(exported(tmp_path, made, "WebP")).record.data == made


@pytest.mark.parametrize("order", ["utf-16-be", "utf-16-le"])
@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "PNG"])
def test_comments_of_other_programs_are_read(tmp_path, kind, order):
    text = "a cat, größer, 猫\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 64x64"
    exif = Image.Exif()
    exif.get_ifd(0x8769)[USER_COMMENT] = UNICODE + text.encode(order)
    NOISE.save(tmp_path / "a", kind, exif=exif.tobytes())
    assert read_picture(tmp_path / "a").parameters == text


@pytest.mark.parametrize("code", [b"ASCII\0\0\0", bytes(8), b""])
def test_comments_without_unicode_are_read(tmp_path, code):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[USER_COMMENT] = code + b"a cat\nSteps: 20\0\0"
    NOISE.save(tmp_path / "a", "JPEG", exif=exif)
    assert read_picture(tmp_path / "a").parameters == "a cat\nSteps: 20"


def test_a_webp_of_comfyui_is_read(tmp_path):
    exif = Image.Exif()
    exif[0x0110], exif[0x010F] = 'prompt:{"3": {}}', 'workflow:{"nodes": []}'
    NOISE.save(tmp_path / "a.webp", exif=exif)
    assert read_picture(tmp_path / "a.webp").comfy == {"prompt": '{"3": {}}', "workflow": '{"nodes": []}'}


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def with_chunk(path, kind, body, behind=False):
    whole = png(path).read_bytes()
    at = len(whole) - 12 if behind else 33
    path.write_bytes(whole[:at] + chunk(kind, body) + whole[at:])
    return path


def test_texts_behind_the_pixels_are_read(tmp_path):
    path = with_chunk(tmp_path / "a.png", b"tEXt", b"parameters\0a cat\nSteps: 20", behind=True)
    assert read_picture(path).parameters == "a cat\nSteps: 20"


@pytest.fixture(scope="module")
def bomb():
    return zlib.compress(b" " * 200_000_000, 9)


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize(
    "kind, head", [(b"zTXt", b"sigmalab\0\0"), (b"iTXt", b"parameters\0\1\0\0\0"), (b"iTXt", b"prompt\0\1\0\0\0")]
)
def test_compressed_bombs_are_refused(tmp_path, bomb, kind, head, behind):
    path = with_chunk(tmp_path / "a.png", kind, head + bomb, behind)
    with pytest.raises((MetadataError, PictureError)):
        read_picture(path)


def test_a_bomb_in_exif_is_refused(tmp_path):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[MAKER_NOTE] = MARK + zlib.compress(b" " * 20_000_000, 9)
    NOISE.save(tmp_path / "a.jpg", exif=exif)
    with pytest.raises(MetadataError, match="longer than"):
        read_picture(tmp_path / "a.jpg")


@pytest.mark.parametrize(
    "note", [b"", b"\xff" * 40, zlib.compress(b"{"), zlib.compress("ü".encode()), zlib.compress(b"[]")]
)
def test_a_damaged_record_in_exif_is_refused(tmp_path, note):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[MAKER_NOTE] = MARK + note
    NOISE.save(tmp_path / "a.jpg", exif=exif)
    with pytest.raises(MetadataError, match="damaged"):
        read_picture(tmp_path / "a.jpg")


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_broken_files_are_refused_without_a_traceback(registry, tmp_path_factory, data):
    """Bytes flipped and cut anywhere: what comes is settings or one of the two errors that are for users."""
    folder = tmp_path_factory.getbasetemp()
    kind = data.draw(st.sampled_from(list(FORMATS)))
    whole = bytearray(exported(folder, make(registry, prompt="a cat", seed=1)[1], kind).read_bytes())
    for at in data.draw(st.lists(st.integers(0, len(whole) - 1), min_size=1, max_size=8)):
        whole[at] ^= data.draw(st.integers(1, 255))
    (folder / "broken").write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    try:
        read_picture(folder / "broken")
    except (MetadataError, PictureError):
        pass


def test_no_settings_is_an_answer(tmp_path):
    NOISE.save(tmp_path / "a.jpg")
    for path in (tmp_path / "a.jpg", png(tmp_path / "b.png")):
        with pytest.raises(MetadataError, match="carries no settings"):
            read_picture(path)


def test_the_digest_is_of_pixels_not_of_files(registry, tmp_path):
    _, made = make(registry)
    assert digest_of(Image.open(exported(tmp_path, made, "WebP"))) == digest_of(NOISE) != digest_of(NOISE.rotate(180))
    assert packages()["gradio"] and packages()["sigmalab"]


def test_exif_stays_in_one_segment(registry):
    _, made = make(registry, prompt="word " * 1_900, steps=1000, sampler="Euler", schedule="Karras")
    assert len(json.dumps(made)) > 20_000 and len(to_exif(infotext(made), made)) < SEGMENT


def test_long_texts_of_others_are_refused(tmp_path):
    info = PngInfo()
    info.add_itxt("workflow", "x" * 1_000_001)
    NOISE.save(tmp_path / "a.png", pnginfo=info)
    with pytest.raises(MetadataError, match="longer than"):
        read_picture(tmp_path / "a.png")
