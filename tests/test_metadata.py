"""What pictures carry: other programs read the text, we read all of it back, and broken files say so."""

import json
import os
import re
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import pytest
from conftest import toy, write_png
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from webui.core import storage
from webui.core.images import PictureError
from webui.core.infotext import infotext
from webui.core.new_record import make_record
from webui.core.picture_metadata import read_picture
from webui.core.record import MetadataError, PassRecord, encode_png, read_record
from webui.core.request import Request, RequestError
from webui.core.resolved_request import resolve

MODELS = {"toy": toy()}
# From A1111's modules/infotext_utils.py, v1.10: what reads the last line there.
A1111_FIELD = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')


def make(registry, index=0, **fields):
    run = resolve(Request(**fields), registry, MODELS)
    resolved, sigmas = run.request, run.plan.sigmas
    model = dict(name="toy", digest="0123456789", device="cpu")
    facts = {"threads": 2}
    passes = [PassRecord(sigmas, *run.origins.passes[0])]
    made = make_record(resolved, index, passes, resolved.steps, model, resolved.seeds, facts)
    return resolved, dict(made.data)


def carried(tmp_path, record):
    path = tmp_path / "picture.png"
    path.unlink(missing_ok=True)
    write_png(Image.new("RGB", (8, 8)), path, record)
    return read_picture(path)


def fields_of(text):
    return {
        key: json.loads(value) if value.startswith('"') else value
        for key, value in A1111_FIELD.findall(text.split("\n")[-1])
    }


def test_the_text_is_what_a1111_writes(registry):
    _, made = make(
        registry,
        index=1,
        prompt="a cat,\na dog",
        negative_prompt="blurry: very",
        sampler="DDIM",
        schedule="Karras",
        steps=7,
        guidance=4.5,
        seed=41,
        count=2,
        options={"eta": 0.5},
    )
    text = infotext(made)
    assert text.startswith(
        "a cat,\na dog\nNegative prompt: blurry: very\nSteps: 7, Sampler: DDIM, Schedule type: Karras, "
    )
    fields = fields_of(text)
    assert (
        fields["CFG scale"] == "4.5"
        and fields["Seed"] == "42"
        and fields["Size"] == "64x64"
        and fields["Model"] == "toy"
    )
    assert (
        fields["Model hash"] == "0123456789"
        and fields["Sampler options"] == "eta: 0.5"
        and fields["Schedule options"] == "rho: 7"
    )
    assert "Denoising strength" not in fields and fields["Version"].startswith("Sigmalab")


def test_the_text_of_img2img_has_its_strength(registry, tmp_path):
    _, made = make(registry, mode="img2img", image=tmp_path / "private.png", strength=0.35)
    assert fields_of(infotext(made))["Denoising strength"] == "0.35"
    assert "private" not in json.dumps(made)


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=200)


@settings(max_examples=40, deadline=None)
@given(
    prompt=TEXTS,
    negative=TEXTS,
    seed=st.integers(0, 2**32 - 1),
    guidance=st.floats(0, 30),
    steps=st.integers(1, 40),
    eta=st.floats(0, 1),
)
def test_everything_comes_back(registry, tmp_path_factory, prompt, negative, seed, guidance, steps, eta):
    fields = dict(
        prompt=prompt, negative_prompt=negative, seed=seed, guidance=guidance, steps=steps, options={"eta": eta}
    )
    resolved, made = make(registry, **fields, schedule="Karras")
    back = carried(tmp_path_factory.getbasetemp(), made)
    assert back.record.data == made and back.parameters == infotext(made)
    assert back.record.single_request() == resolved
    sigmas = resolve(resolved, registry, MODELS).plan.sigmas
    assert tuple(back.record.data["sigmas"]) == sigmas  # to the last bit


def test_the_record_says_what_made_it(registry):
    _, made = make(registry, index=2, seed=7, count=3)
    assert made["schema"] == 1 and made["noise_version"] == 1 and made["batch"] == [7, 8, 9]
    assert made["sampler"]["id"] == "built-in/ddim/DDIM" and len(made["sampler"]["digest"]) == 16
    assert {"torch", "diffusers", "transformers", "gradio", "sigmalab"} == set(made["packages"])
    assert all(made["packages"].values())
    assert read_record(made).single_request().seed == 9 and read_record(made).single_request().count == 1


def test_text_that_png_cannot_hold_is_replaced_not_fatal(registry, tmp_path):
    _, made = make(registry, prompt="fine")
    made["request"] |= dict(prompt="nul \0 and \ud83d half")
    back = carried(tmp_path, made)
    assert back.record.data == made and back.parameters.startswith("nul \ufffd and ? half")


def png(path, *chunks, width=8, source=None):
    """A PNG with these (keyword, text) chunks, made by Pillow; of the pixels of another picture if one is given."""
    info = PngInfo()
    for key, text in chunks:
        info.add_text(key, text)
    (Image.open(source) if source else Image.new("RGB", (width, 8))).save(path, pnginfo=info)
    return path


@pytest.mark.parametrize(
    "text, said",
    [
        ("{", "damaged"),
        ("[]", "damaged"),
        ("{}", "damaged"),
        ('{"schema": "1"}', "damaged"),
        ('{"schema": NaN}', "damaged"),
        ("[" * 100_000, "damaged"),
        ("9" * 10_000, "damaged"),
        ('{"schema": 2}', "newer Sigmalab"),
        ("x" * 1_000_001, "longer than"),
    ],
)
def test_malformed_settings_are_refused(tmp_path, text, said):
    with pytest.raises(MetadataError, match=said):
        read_picture(png(tmp_path / "a.png", ("sigmalab", text)))


@pytest.mark.parametrize(
    "made",
    [{}, {"request": 1, "image": {}}, {"request": {"steps": "x"}, "image": {"seed": 1}}, {"request": {}, "image": {}}],
)
def test_a_record_without_a_request_is_refused(made):
    with pytest.raises(RequestError):
        read_record(made).single_request()


def test_foreign_pictures(tmp_path):
    back = read_picture(png(tmp_path / "a.png", ("parameters", "a cat\nSteps: 20, Sampler: Euler a, CFG scale: 7")))
    assert back.record is None and back.parameters.startswith("a cat")
    with pytest.raises(MetadataError, match="carries no settings"):
        read_picture(png(tmp_path / "b.png"))


def test_who_saved_a_picture_without_settings_is_named(tmp_path):
    picture = png(tmp_path / "a.png", ("Software", "GIMP 3.0"))
    with pytest.raises(MetadataError, match="no settings, and was saved by GIMP 3.0;"):
        read_picture(picture)
    # Content Credentials: JUMBF boxes around CBOR, in which a text has its length before it.
    body = b"jumb....claim_generator_info\xa2dnamex\x18OpenAI Media Service APIgversion"
    chunk = struct.pack(">I", len(body)) + b"caBX" + body + struct.pack(">I", zlib.crc32(b"caBX" + body))
    whole = png(tmp_path / "b.png").read_bytes()
    (tmp_path / "b.png").write_bytes(whole[:33] + chunk + whole[33:])
    with pytest.raises(MetadataError, match="Content Credentials of OpenAI Media Service API, which"):
        read_picture(tmp_path / "b.png")


def test_files_that_are_no_png(tmp_path):
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "empty.png").touch()
    whole = png(tmp_path / "whole.png", ("sigmalab", "{}")).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[:20])
    (tmp_path / "flipped.png").write_bytes(whole[:30] + bytes([whole[30] ^ 255]) + whole[31:])
    for name in ("text.png", "empty.png", "cut.png", "flipped.png", "none.png", "."):
        with pytest.raises(PictureError, match="PNG|read"):
            read_picture(tmp_path / name)


def test_a_compressed_text_bomb_is_refused(tmp_path):
    body = b"sigmalab\0\0" + zlib.compress(b" " * 5_000_000, 9)
    chunk = struct.pack(">I", len(body)) + b"zTXt" + body + struct.pack(">I", zlib.crc32(b"zTXt" + body))
    whole = png(tmp_path / "a.png").read_bytes()
    (tmp_path / "bomb.png").write_bytes(whole[:33] + chunk + whole[33:])
    with pytest.raises((PictureError, MetadataError)):
        read_picture(tmp_path / "bomb.png")


def test_pictures_are_named_by_time_and_seed_and_never_overwritten(tmp_path):
    now = datetime(2030, 1, 2, 3, 4, 5)
    paths = [storage.save(tmp_path, 7, data, now) for data in (b"one", b"two", b"three")]
    assert [str(path.relative_to(tmp_path)) for path in paths] == [
        "2030-01-02/030405-7.png",
        "2030-01-02/030405-7-2.png",
        "2030-01-02/030405-7-3.png",
    ]
    assert [path.read_bytes() for path in paths] == [b"one", b"two", b"three"]
    with pytest.raises(FileExistsError):
        storage.write_new(paths[0], b"other")
    assert len(list(paths[0].parent.iterdir())) == 3 and paths[0].read_bytes() == b"one"


def test_two_writers_never_take_one_name(tmp_path):
    now = datetime(2030, 1, 2)
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda i: storage.save(tmp_path, 1, str(i).encode(), now), range(40)))
    assert sorted(int(path.read_bytes()) for path in paths) == list(range(40)) and len(set(paths)) == 40


@pytest.mark.parametrize("error", [FileExistsError, FileNotFoundError])
def test_another_program_may_remove_the_folder_of_a_day_meanwhile(tmp_path, monkeypatch, error):
    """One that moves its pictures elsewhere: `mkdir` and the file itself fail in the moment in which it does."""
    begun, left = storage.write_new, iter(range(3))

    def fails(path, data):
        if next(left, None) is not None:
            path.parent.rmdir()
            raise error(path)
        begun(path, data)

    monkeypatch.setattr(storage, "write_new", fails)
    path = storage.save(tmp_path, 7, b"data", datetime(2030, 1, 2, 3, 4, 5))
    assert path == tmp_path / "2030-01-02" / "030405-7.png" and path.read_bytes() == b"data"
    (tmp_path / "2030-01-03").write_text("no folder")
    with pytest.raises(FileExistsError):
        storage.save(tmp_path, 7, b"data", datetime(2030, 1, 3))


@pytest.mark.parametrize("place", ["", "inputs", "settings/styles"])
def test_a_leftover_of_a_killed_process_blocks_no_name_and_is_removed(tmp_path, place):
    folder = tmp_path / place
    folder.mkdir(parents=True, exist_ok=True)
    old, young = folder / ".a.png.part", folder / ".b.png.0123.part"
    for path in (old, young):
        path.touch()
    os.utime(old, (0, 0))
    storage.write_new(folder / "a.png", b"data")
    storage.remove_leftovers(tmp_path)
    storage.remove_leftovers(tmp_path / "nowhere")
    assert sorted(path.name for path in folder.iterdir()) == [young.name, "a.png"]


def test_without_hard_links_no_file_is_replaced_either(tmp_path, monkeypatch):
    monkeypatch.setattr("os.link", lambda *paths: (_ for _ in ()).throw(OSError(95, "Operation not supported")))
    storage.write_new(tmp_path / "a.png", b"one")
    with pytest.raises(FileExistsError):
        storage.write_new(tmp_path / "a.png", b"two")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"one"]


def test_a_file_is_replaced_in_one_step(tmp_path):
    for data in (b"one", b"two"):
        storage.write_over(tmp_path / "a.txt", data)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"two"]


def test_a_write_that_breaks_off_leaves_nothing(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        storage.write_new(tmp_path / "a.png", b"data")
    assert list(tmp_path.iterdir()) == []
    saved = storage.save_or_keep(tmp_path, 1, b"data")
    assert saved.path is None and "No space left" in saved.problem


def test_the_text_chunk_is_itxt_only_where_it_must_be(registry):
    for prompt, kind in (("café", b"tEXtparameters"), ("猫", b"iTXtparameters")):
        assert kind in encode_png(Image.new("RGB", (8, 8)), read_record(make(registry, prompt=prompt)[1]))
