"""Many pictures at once: files and zips within limits, each as if drawn alone, and a zip of what came of them."""

import os
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from conftest import until
from labs import laboratory
from PIL import Image

from webui.core import file_batch
from webui.core.file_batch import BatchFile, Upload, batch_files, write_results
from webui.core.images import MAX_BYTES
from webui.core.limits import LOCAL
from webui.core.picture_metadata import read_picture
from webui.core.request import Request, RequestError
from webui.core.upscale_request import UpscaleRequest
from webui.engine.events import Finished, StoppedEarly
from webui.engine.picture_batch import draw_batch, enlarge_batch
from webui.engine.remote_messages import decode, encode

SIDE = 64


@pytest.fixture
def engine(registry, tmp_path):
    with laboratory(registry, tmp_path) as running:
        yield running


def picture(path, colour):
    Image.new("RGB", (SIDE, SIDE), colour).save(path)
    return Upload(path, path.name)


def packed(path, entries):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return Upload(path, path.name)


def png(tmp_path, colour="red"):
    return picture(tmp_path / "some.png", colour).path.read_bytes()


def names(files):
    return [(each.stem, each.mask is not None) for each in files]


def test_each_file_is_drawn_as_it_would_be_alone_and_a_broken_one_has_its_reason(engine, tmp_path):
    uploads = [picture(tmp_path / "b.png", "red"), picture(tmp_path / "a.png", "blue")]
    (tmp_path / "broken.png").write_bytes(b"no picture")
    uploads.append(Upload(tmp_path / "broken.png", "broken.png"))
    files = batch_files(uploads, [], tmp_path / "unpacked", LOCAL)
    request = Request(mode="img2img", prompt="x", steps=3, seed=4, count=2, strength=0.5)
    job = engine.submit_task(draw_batch(engine, request, files), "owner")
    assert isinstance(job.wait(60), Finished), job.outcome
    info = job.snapshot().info
    assert (info["files"], info["made"], info["pictures"], info["stopped"]) == (3, 2, 4, False)
    assert info["failed"] == [
        {"file": "broken.png", "reason": "The file is not a picture that can be read; use PNG, JPEG, WebP."}
    ]
    done = [part for part in job.snapshot().parts if part.pictures]
    assert [part.file.stem for part in done] == ["a", "b"]
    assert len(read_picture(done[0].pictures[0]).record.batch) == 2
    alone = engine.submit(request.model_copy(update={"image": tmp_path / "b.png"}))
    assert isinstance(alone.wait(60), Finished)
    for ours, one in zip(done[1].pictures, alone.pictures, strict=True):
        assert ours.read_bytes() == one.path.read_bytes()
    write_results(tmp_path / "all.zip", [(part.file.stem, path) for part in done for path in part.pictures])
    with zipfile.ZipFile(tmp_path / "all.zip") as archive:
        assert archive.namelist() == ["a.png", "a-2.png", "b.png", "b-2.png"]
        assert archive.read("b.png") == done[1].pictures[0].read_bytes()


def test_the_pictures_of_a_file_are_drawn_one_by_one_where_that_is_asked_for(registry, tmp_path):
    files = batch_files([picture(tmp_path / "a.png", "red")], [], tmp_path / "unpacked", LOCAL)
    request = Request(mode="img2img", prompt="x", steps=3, seed=4, count=2, strength=0.5)
    with laboratory(registry, tmp_path, one_at_a_time=True) as engine:
        job = engine.submit_task(draw_batch(engine, request, files), "owner")
        assert isinstance(job.wait(60), Finished), job.outcome
    assert [read_picture(each.path).record.batch for each in job.pictures] == [(4,), (5,)]


def test_no_result_takes_the_name_of_another(tmp_path):
    paths = [picture(tmp_path / f"{i}.png", "red").path for i in range(4)]
    write_results(tmp_path / "all.zip", zip(["cat", "cat", "cat-2", "Cat"], paths, strict=True))
    with zipfile.ZipFile(tmp_path / "all.zip") as archive:
        assert archive.namelist() == ["cat.png", "cat-2.png", "cat-2-2.png", "Cat-3.png"]


def test_each_picture_has_its_mask(engine, tmp_path):
    uploads = [picture(tmp_path / f"{name}.png", colour) for name, colour in (("a", "red"), ("b", "blue"))]
    black, white = picture(tmp_path / "a-mask.png", "black"), picture(tmp_path / "b_mask.png", "white")
    files = batch_files(uploads, [black, white], tmp_path / "unpacked", LOCAL)
    request = Request(mode="img2img", prompt="x", steps=2, seed=4)
    job = engine.submit_task(draw_batch(engine, request, files), "owner")
    assert isinstance(job.wait(60), Finished), job.outcome
    kept, drawn = (np.asarray(Image.open(each.path)) for each in job.pictures)
    assert np.array_equal(kept, np.asarray(Image.open(tmp_path / "a.png")))
    assert not np.array_equal(drawn, np.asarray(Image.open(tmp_path / "b.png")))


def test_pictures_are_enlarged(engine, tmp_path):
    files = batch_files([picture(tmp_path / "a.png", "red")], [], tmp_path / "unpacked", LOCAL)
    job = engine.submit_task(enlarge_batch(engine, UpscaleRequest(scale=1.5), files), "owner")
    assert isinstance(job.wait(60), Finished), job.outcome
    assert read_picture(job.pictures[0].path).record.is_upscaled
    assert Image.open(job.pictures[0].path).size == (96, 96)


def test_a_worker_process_can_be_given_it(engine, tmp_path):
    files = batch_files([picture(tmp_path / "a.png", "red")], [], tmp_path / "unpacked", LOCAL)
    for task in (draw_batch(engine, Request(mode="img2img"), files), enlarge_batch(engine, UpscaleRequest(), files)):
        models = list(engine.models().values())
        passed = decode(encode(task, engine.registry, models.index), engine.registry, dict(enumerate(models)))
        assert (passed.files, passed.requests) == (task.files, task.requests)


def test_stop_keeps_what_is_finished(registry, tmp_path, gate):
    with laboratory(registry, tmp_path, gate) as engine:
        uploads = [picture(tmp_path / f"{name}.png", "red") for name in "abc"]
        files = batch_files(uploads, [], tmp_path / "unpacked", LOCAL)
        request = Request(mode="img2img", steps=2, strength=1.0, sampler="Euler", schedule="Karras")
        job = engine.submit_task(draw_batch(engine, request, files), "owner")
        gate.let(2)
        until(lambda: len(job.pictures) == 1)
        gate.arrived(3)
        assert job.snapshot().progress.text.startswith("file 2 of 3 (b.png)")
        engine.stop(job)
        gate.open()
        assert isinstance(job.wait(60), StoppedEarly)
        assert (job.snapshot().info["made"], len(job.pictures)) == (1, 1)


def test_a_zip_is_unpacked_under_names_of_our_own(tmp_path):
    data = png(tmp_path)
    entries = {
        **{"../../evil.png": data, "/root.png": data, "sub\\c.PNG": data, "sub/c.png": data, "gas-mask.png": data},
        **{"__MACOSX/c.png": data, ".hidden.png": data, "read.txt": b"x", "masks/c.png": data, "evil-mask.png": data},
    }
    files = batch_files([packed(tmp_path / "in.zip", entries)], [], tmp_path / "unpacked", LOCAL)
    assert names(files) == [("c", True), ("c-2", True), ("evil", True), ("gas-mask", False), ("root", False)]
    inside = (tmp_path / "unpacked").resolve()
    assert all(each.path.resolve().is_relative_to(inside) for each in files)
    assert not (tmp_path.parent / "evil.png").exists()


def test_a_single_mask_is_for_all_and_one_that_belongs_to_none_is_named(tmp_path):
    pictures = [picture(tmp_path / f"{name}.png", "red") for name in "ab"]
    mask = picture(tmp_path / "left half.png", "white")
    assert names(batch_files(pictures, [mask], tmp_path / "u", LOCAL)) == [("a", True), ("b", True)]
    own = picture(tmp_path / "b-mask.png", "white")
    assert names(batch_files(pictures, [own], tmp_path / "u", LOCAL)) == [("a", False), ("b", True)]
    with pytest.raises(RequestError, match="The mask left half.png belongs to no picture"):
        batch_files(pictures, [own, mask], tmp_path / "u", LOCAL)


BAD = {
    "an entry that grows": (lambda data: {"a.png": bytes(MAX_BYTES + 1)}, "a.png of in.zip is too large"),
    "many pictures": (lambda data: {f"{i}.png": b"" for i in range(9)}, "more than 4 pictures"),
    "a few too many": (lambda data: {f"{i}.png": b"" for i in range(5)}, "more than 4 pictures"),
    "no picture": (lambda data: {"a.txt": b""}, "There are no pictures"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_too_much_is_refused(tmp_path, case):
    entries, words = BAD[case]
    upload = packed(tmp_path / "in.zip", entries(png(tmp_path)))
    with pytest.raises(RequestError, match=words):
        batch_files([upload], [], tmp_path / "unpacked", replace(LOCAL, files=4))


def test_all_pictures_of_an_upload_share_the_room(tmp_path, monkeypatch):
    data = os.urandom(1000)
    monkeypatch.setattr(file_batch, "MOST_UNPACKED", 2500)
    uploads = [packed(tmp_path / f"{name}.zip", {"x.png": data}) for name in "abc"]
    assert len(batch_files(uploads[:2], [], tmp_path / "u", LOCAL)) == 2
    with pytest.raises(RequestError, match="x.png of c.zip is too large"):
        batch_files(uploads, [], tmp_path / "v", LOCAL)


@pytest.mark.parametrize("damage", ["no zip", "cut", "encrypted", "wrong sum"])
def test_a_damaged_zip_is_named(tmp_path, damage):
    upload = packed(tmp_path / "in.zip", {"a.png": os.urandom(500)})
    data = bytearray(upload.path.read_bytes())
    if damage == "no zip":
        data = bytearray(b"PK nothing")
    elif damage == "cut":
        data = data[:-30]
    elif damage == "encrypted":
        data[6] |= 1
        data[data.index(b"PK\1\2") + 8] |= 1
    else:
        data[60] ^= 255
    upload.path.write_bytes(data)
    with pytest.raises(RequestError, match="in.zip (cannot be unpacked|is encrypted)"):
        batch_files([upload], [], tmp_path / "unpacked", LOCAL)


def test_names_are_safe_in_a_zip(tmp_path):
    path = picture(tmp_path / "p.png", "red").path
    uploads = [Upload(path, name) for name in ("a<b>?.png", "...png", "CON.png", "con.PNG")]
    found = batch_files(uploads, [], tmp_path, LOCAL)
    assert [each.stem for each in found] == ["picture", "a_b_", "CON", "con-2"]
    assert all(isinstance(each, BatchFile) for each in found)
