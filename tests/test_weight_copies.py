"""Workers on other machines: pictures are written through the program, weights shared or copied once."""

import os
import shutil
from functools import partial
from pathlib import Path

import pytest
from conftest import until
from PIL import Image
from toy_workers import near_engine, toy_settings

from webui.core.request import Request
from webui.core.storage import Saved
from webui.engine import weight_copies, worker_host
from webui.engine.events import Failed, Finished
from webui.engine.job_context import here
from webui.engine.weight_copies import CONTENTS, WeightCopies, WeightFiles, files_in, find_models
from webui.tabs.lab.axes import read_axis
from webui.tabs.lab.cell_cache import CellCache
from webui.tabs.lab.compare import Compare
from webui.tabs.lab.grid import make_grid
from weights.opening import check_model

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A factory of copies of weights on "another machine", where the head's folder does not exist; what passed."""
    passed = []

    def on_head(call):
        passed.append(call)
        return call()

    def make(source):
        monkeypatch.setattr(weight_copies, "files_in", lambda folder, *parts: {})
        copies = WeightCopies(source, WeightFiles(files_in(source), tmp_path / "copies"), on_head)
        monkeypatch.setattr(weight_copies, "files_in", files_in)
        return copies

    make.fetched = lambda: sum(call.func is weight_copies.read_piece for call in passed)
    return make


def model_folder(folder):
    for name in ("emoji", "emoji-flow"):
        shutil.copytree(ROOT / "weights" / name, folder / name, ignore=shutil.ignore_patterns("*.png", "card"))
    return folder


def test_a_shared_folder_is_opened_as_it_is(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"x")
    copies = WeightCopies(tmp_path, WeightFiles(files_in(tmp_path), tmp_path / "copies"), here)
    assert copies.folder == tmp_path
    copies.copy_extras()
    assert not (tmp_path / "copies").exists()


def test_the_head_reads_a_model_again_only_if_it_has_changed(tmp_path):
    source = model_folder(tmp_path / "weights")
    first = find_models(source)["emoji"]
    assert find_models(source)["emoji"] is first
    os.utime(source / "emoji" / "model_index.json", (1, 1))
    assert find_models(source)["emoji"] is not first


def test_a_model_is_copied_with_its_lender_and_keeps_its_stamp(tmp_path, elsewhere):
    source = model_folder(tmp_path / "weights")
    copies = elsewhere(source)
    local = copies.local(find_models(source)["emoji-flow"])
    assert local.path == copies.folder / "emoji-flow" and copies.folder != source
    assert files_in(source) == files_in(copies.folder)
    check_model(local)
    assert find_models(copies.folder)["emoji-flow"].stamp == local.stamp
    before = elsewhere.fetched()
    copies.local(find_models(source)["emoji-flow"])
    assert elsewhere.fetched() == before


def test_the_same_content_is_copied_once_and_a_changed_file_anew(tmp_path, elsewhere):
    source = tmp_path / "weights"
    for number, name in enumerate(("loras/a.safetensors", "loras/more/b.safetensors", "upscalers/c.pth")):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(b"same")
        os.utime(source / name, (number, number))
    (source / "large.safetensors").write_bytes(b"a model that no job has named")
    copies = elsewhere(source)
    told = []
    copies.copy_extras(told.append)
    extras = ("loras", "upscalers")
    assert files_in(copies.folder, extras) == files_in(source, extras) and len(told) == 3
    assert elsewhere.fetched() == len(list((copies.folder / CONTENTS).iterdir())) == 1
    assert not (copies.folder / "large.safetensors").exists()
    (source / "loras/a.safetensors").write_bytes(b"another")
    copies.copy_extras()
    assert (copies.folder / "loras/a.safetensors").read_bytes() == b"another"
    assert (copies.folder / "upscalers/c.pth").read_bytes() == b"same"


def test_a_copy_that_is_not_what_the_head_has_is_refused(tmp_path, elsewhere, monkeypatch):
    (tmp_path / "weights/loras").mkdir(parents=True)
    (tmp_path / "weights/loras/a.safetensors").write_bytes(b"same")
    copies = elsewhere(tmp_path / "weights")
    monkeypatch.setattr(weight_copies, "read_piece", lambda path, start, size: b"cut")
    with pytest.raises(OSError, match="changed while it was copied"):
        copies.copy_extras()
    assert not list((copies.folder / CONTENTS).iterdir())


@pytest.fixture
def cluster(tmp_path):
    """An engine whose workers are as if on another machine: outputs are written by the head alone."""
    settings = toy_settings(tmp_path)
    settings.weights.mkdir()
    engine = near_engine(settings, weights=WeightFiles(files_in(settings.weights), tmp_path / "copies"))
    engine.start()
    yield engine
    engine.close()


def test_pictures_and_the_index_of_cells_are_written_by_the_head(cluster, monkeypatch):
    asked = []
    original = worker_host.WorkerHost._on_head
    monkeypatch.setattr(
        worker_host.WorkerHost, "_on_head", lambda host, call: asked.append(call.func) or original(host, call)
    )
    job = cluster.submit(Request(prompt="a", sampler="Euler", steps=2, count=3, seed=7), "me")
    assert type(job.wait(20)) is Finished
    assert [picture.index for picture in job.pictures] == [0, 1, 2]
    assert all(Image.open(picture.path).width for picture in job.pictures)
    assert sum(func.__name__ == "save_or_keep" for func in asked) == 3
    axis = read_axis("steps", "2, 3", cluster.registry)
    for made in (2, 0):
        grid = make_grid(cluster, Request(prompt="b", sampler="Euler", seed=1), [axis])
        assert cluster.submit_task(Compare(grid), "me").wait(20).info["made"] == made
    assert len(CellCache(cluster.outputs)._entries) == 2


def test_what_fails_on_the_head_fails_there_in_its_words(cluster, monkeypatch):
    full = Saved(None, "pictures cannot be written to outputs: No space left on device")
    monkeypatch.setattr("webui.engine.picture_sink.save_or_keep", partial(_answer, full))
    outcome = cluster.submit(Request(prompt="a", sampler="Euler", steps=2, seed=7), "me").wait(20)
    assert isinstance(outcome, Failed) and "No space left on device" in outcome.message


def _answer(saved, *given):
    return saved


def test_a_worker_that_ends_while_the_head_writes_costs_a_part_that_is_done_again(cluster):
    job = cluster.submit(Request(prompt="slow", sampler="Euler", steps=20, count=4, seed=7), "me")
    until(lambda: job.pictures)
    until(lambda: job.run.lead is not None)
    job.run.lead.channel.kill()
    assert type(job.wait(30)) is Finished
    assert [picture.index for picture in job.pictures] == [0, 1, 2, 3]
    assert len({picture.path for picture in job.pictures}) == 4
