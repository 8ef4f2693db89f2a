"""Enlarging pictures: networks of weights/upscalers/ in tiles, Lanczos, the job, its record, and its replay."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import ToyModel, toy
from PIL import Image
from upscalers import as_pickle, as_safetensors, compact, esrgan

from samplers.tiles import Blend, Tiled, starts, tiles_of
from webui.api.script_api import Api
from webui.core.infotext import infotext
from webui.core.menus import UPSCALERS
from webui.core.picture_metadata import read_picture
from webui.core.request import Request, RequestError
from webui.engine.engine import Engine
from webui.engine.events import Finished, Progress, StoppedEarly
from webui.importers.imported_settings import read_imported_settings
from webui.replay_command import replay_file
from webui.settings import Settings
from webui.tabs.history.history_index import facts
from weights.extra_networks import ExtraNetworks
from weights.model_info import ModelError
from weights.upscaler import enlarged

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def bench(registry, tmp_path_factory):
    """An engine on a toy model, with two upscalers."""
    root = tmp_path_factory.mktemp("upscale")
    as_safetensors(esrgan(), root / "weights" / "upscalers" / "tiny.safetensors")
    as_pickle(compact(4), root / "weights" / "upscalers" / "deep" / "compact 4x.pth")
    settings = Settings(root=root, outputs=root / "outputs", weights=root / "weights", model="toy", device="cpu")
    engine = Engine(registry, settings, lambda found, device: ToyModel(found), lambda folder: {"toy": toy()})
    engine.start()
    yield engine
    engine.close()


@pytest.fixture
def picture(tmp_path):
    return photo(tmp_path / "in.png", 40, 30)


def photo(path, width, height):
    values = np.random.default_rng(0).integers(0, 256, (height // 2 + 1, width // 2 + 1, 3), np.uint8)
    Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC).save(path)
    return path


def upscale(engine, path, **fields):
    *events, result = Api(engine).upscale(path, **fields)
    return result.files[0], result.info, events


def exactly(module, image):
    """The network on the whole picture at once, by hand."""
    values = torch.from_numpy(np.array(image, np.float32)).movedim(-1, 0)[None] / 255
    with torch.no_grad():
        result = module.eval()(values)[0].clamp(0, 1)
    return (result * 255).round().byte().movedim(0, -1).numpy()


@pytest.mark.parametrize("length", [7, 8, 9, 13, 40, 41])
def test_tiles_cover_an_axis_and_share_what_they_should(length):
    begins = starts(length, 8, 3)
    assert begins[0] == 0 and begins[-1] + min(8, length) == length
    assert all(0 < later - earlier <= 5 for earlier, later in zip(begins, begins[1:], strict=False))


def test_where_tiles_agree_the_blend_is_what_they_agree_on():
    x = torch.randn(2, 3, 20, 33, dtype=torch.float64)
    blend = Blend(x.shape, 4, x)
    for tile in tiles_of((20, 33), (8, 12), 4):
        blend.add(tile, tile.of(x))
    torch.testing.assert_close(blend.result(), x)


def test_the_edge_of_a_tile_does_not_count():
    x = torch.zeros(1, 1, 8, 24, dtype=torch.float64)
    blend = Blend(x.shape, 8, x)
    for tile in tiles_of((8, 24), (8, 16), 8):
        values = tile.of(x).clone()
        values[..., 0 if tile.left else -1] = 1000.0
        blend.add(tile, values)
    assert torch.equal(blend.result(), x)


def test_a_network_in_tiles_is_the_network_where_it_sees_no_further_than_half_of_the_overlap():
    torch.manual_seed(0)
    kernel = torch.nn.Conv2d(3, 3, 3, padding=1).double()
    x, seen = torch.randn(1, 3, 20, 28, dtype=torch.float64), []
    tiled = Tiled(lambda part, timestep, condition: kernel(part), (12, 12), 4, lambda: seen.append(1))
    with torch.no_grad():
        torch.testing.assert_close(tiled(x, 1.0, None), kernel(x))
        assert len(seen) == 6
        assert torch.equal(tiled(x[..., :12, :12], 1.0, None), kernel(x[..., :12, :12])) and len(seen) == 6


# The outer quarter of an overlap is not used: 4 pixels are more than one network sees, 16 about as much as the other.
@pytest.mark.parametrize("name, module, side, most", [("tiny", esrgan(), 256, 1), ("compact 4x", compact(4), 64, 0)])
def test_a_network_opens_and_its_tiles_are_the_whole_picture(bench, tmp_path, monkeypatch, name, module, side, most):
    image = Image.open(photo(tmp_path / "in.png", side + 44, 70))
    upscaler = bench.extra.open_upscaler(name, CPU)
    expected = exactly(module, image)
    assert upscaler.scale == expected.shape[0] // 70
    assert np.abs(np.asarray(upscaler(image)).astype(int) - expected).max() <= 1
    monkeypatch.setattr("weights.upscaler.ON_CPU", side)
    monkeypatch.setattr("weights.upscaler.OVERLAP", 64)
    tiles = []
    made = upscaler(image, lambda done, of: tiles.append((done, of)))
    assert tiles[0] == (0, tiles[0][1]) and len(tiles) == tiles[0][1] > 1
    assert np.abs(np.asarray(made).astype(int) - expected).max() <= most


def test_tiles_shrink_where_the_memory_is_short(bench, picture, monkeypatch):
    upscaler, sizes = bench.extra.open_upscaler("tiny", CPU), []
    monkeypatch.setattr("weights.upscaler.ON_CPU", 512)
    network = upscaler._network

    class Full:
        scale, tiling = network.scale, network.tiling

        def __call__(self, part):
            sizes.append(part.shape[-1])
            if part.shape[-1] > 128:
                raise MemoryError
            return network(part)

    monkeypatch.setattr(upscaler, "_network", Full())
    image = Image.new("RGB", (200, 100))
    assert upscaler(image).size == (400, 200)
    assert sizes[:3] == [200, 200, 128]
    monkeypatch.setattr(Full, "__call__", lambda self, part: (_ for _ in ()).throw(MemoryError))
    with pytest.raises(MemoryError, match="tiny does not fit"):
        upscaler(image)


@pytest.mark.parametrize("size, passes", [((60, 45), 1), ((80, 60), 1), ((97, 73), 2), ((300, 225), 3)])
def test_any_factor_is_the_network_as_often_as_it_takes_and_then_lanczos(bench, picture, size, passes):
    upscaler, image, tiles = bench.extra.open_upscaler("tiny", CPU), Image.open(picture), []
    made = enlarged(image, size, upscaler, lambda done, of: tiles.append(done))
    by_hand = image
    for _ in range(passes):
        by_hand = upscaler(by_hand)
    assert np.array_equal(np.asarray(made), np.asarray(by_hand.resize(size, Image.Resampling.LANCZOS)))
    assert tiles.count(0) == passes


def test_a_script_gets_a_file_of_lanczos(bench, picture):
    path, info, _ = upscale(bench, picture)
    expected = Image.open(picture).resize((80, 60), Image.Resampling.LANCZOS)
    assert np.array_equal(np.asarray(Image.open(path)), np.asarray(expected))
    assert (info["scale"], info["upscaler"], info["width"], info["height"]) == (2.0, "Lanczos", 80, 60)
    assert upscale(bench, picture, scale=1.3)[1]["width"] == 52


def test_a_script_gets_a_file_of_a_network_and_hears_of_its_tiles(bench, tmp_path):
    path, info, events = upscale(bench, photo(tmp_path / "in.png", 300, 40), upscaler="tiny", scale=1.5)
    assert Image.open(path).size == (450, 60) and info["tiles"] == 2
    told = [event for event in events if isinstance(event, Progress)]
    assert (told[-1].calls, told[-1].total_calls) == (1, 2) and told[-1].text == "tile 2 of 2"
    assert told[-1].remaining is not None


def test_it_is_made_again_to_the_last_bit_and_another_network_is_refused(bench, picture):
    path, _, _ = upscale(bench, picture, upscaler="tiny")
    assert str(replay_file(bench, path)) == "bit-equal"
    assert str(replay_file(bench, upscale(bench, picture)[0])) == "bit-equal"
    kept = bench.settings.weights / "upscalers" / "tiny.safetensors"
    before = kept.read_bytes()
    try:
        as_safetensors(esrgan(seed=1), kept)
        with pytest.raises(RequestError, match="Upscaler tiny here has hash .* made with another"):
            replay_file(bench, path)
        kept.unlink()
        with pytest.raises(RequestError, match="Unknown upscaler 'tiny'; known are Lanczos, compact 4x"):
            replay_file(bench, path)
    finally:
        kept.write_bytes(before)


def test_the_picture_keeps_the_settings_of_its_drawing(bench, registry):
    job = bench.submit(Request(prompt="red apple", steps=2, seed=5))
    assert isinstance(job.wait(60), Finished)
    drawn = job.pictures[0].path
    once, _, _ = upscale(bench, drawn, upscaler="tiny")
    twice, _, _ = upscale(bench, once, scale=1.5)
    for path, size in ((once, 128), (twice, 192)):
        record = read_picture(path).record
        assert record.is_upscaled and Image.open(path).size == (size, size)
        assert record.source.data == read_picture(drawn).record.data
        found = read_imported_settings(path, registry, bench.models())
        assert (found.fields["prompt"], found.fields["seed"]) == ("red apple", 5)
        assert dict(found.rows)["Mode"] == "txt2img" and ("Scale", str(record.request["scale"])) in found.rows
        assert facts(path) == ("red apple", "DDIM", "toy", 5)
    text = infotext(read_picture(once).record.data)
    assert text == infotext(read_picture(drawn).record.data) + ", Postprocess upscale by: 2, Postprocess upscaler: tiny"


def test_a_picture_without_settings_says_only_how_it_was_enlarged(bench, picture, registry):
    path, _, _ = upscale(bench, picture)
    found = read_imported_settings(path, registry, bench.models())
    assert dict(found.rows)["Upscaler"] == "Lanczos" and not found.fields
    assert facts(path) == ("", "", "", None)
    with pytest.raises(RequestError, match="enlarged and not drawn"):
        read_picture(path).record.single_request()


@pytest.mark.parametrize(
    "fields, said",
    [
        (dict(upscaler="Magic"), "Unknown upscaler 'Magic'; known are Lanczos, compact 4x, tiny"),
        (dict(upscaler="Latent bilinear"), "Unknown upscaler 'Latent bilinear'"),
        (dict(scale=0.5), "Scale must be a number from 1 to 8"),
        (dict(scale=float("nan")), "Scale must be a number from 1 to 8"),
        (dict(strength=0.5), "Unknown setting 'strength'; known are mode, image, scale, upscaler"),
    ],
)
def test_what_cannot_be_is_refused_in_words(bench, picture, fields, said):
    with pytest.raises(RequestError, match=said):
        upscale(bench, picture, **fields)


def test_a_picture_that_would_become_too_large_is_refused(bench, tmp_path):
    Image.new("RGB", (4000, 3000)).save(tmp_path / "large.png")
    with pytest.raises(RequestError, match="would be 10000x7500; allowed are 64 megapixels"):
        upscale(bench, tmp_path / "large.png", scale=2.5)
    with pytest.raises(ModelError, match="would make 384 megapixels of a picture of 6000x4000"):
        bench.extra.open_upscaler("compact 4x", CPU)(Image.new("RGB", (6000, 4000)))


def test_it_is_stopped_between_two_tiles(bench, tmp_path, monkeypatch):
    from webui.core.upscale_request import UpscaleRequest

    stopping = []
    original = bench.worker.upscalers.open("tiny")
    network = original._network

    def call(part):
        bench.stop(stopping[0])
        return network(part)

    call.scale, call.tiling = network.scale, network.tiling
    monkeypatch.setattr(original, "_network", call)
    with bench.queue._changed:
        job = bench.submit_upscale(UpscaleRequest(image=photo(tmp_path / "a.png", 600, 40), upscaler="tiny"))
        stopping.append(job)
    assert isinstance(job.wait(60), StoppedEarly) and not job.pictures
    assert job.snapshot().progress.text == "tile 1 of 3"


def folder_with(tmp_path, name, content):
    path = tmp_path / "upscalers" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content) if isinstance(content, bytes) else content(path)
    return ExtraNetworks(tmp_path)


class Evil:
    def __reduce__(self):
        return (print, ("hello",))


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("a.pth", b"", "a.pth is empty"),
        ("a.pth", b"<!doctype html>", "a.pth is a web page"),
        ("a.safetensors", b"garbage", "a.safetensors is damaged"),
        ("a.pth", lambda path: torch.save({"params": Evil()}, path), "a.pth asks for .*print.* nothing was run"),
        (
            "a.safetensors",
            lambda path: as_safetensors(torch.nn.Linear(2, 2), path),
            r"no upscaler of a known architecture; it looks like something else \(its first names are bias, weight\)",
        ),
        ("a.pth", lambda path: torch.save({"lora_unet_x.lora_up.weight": torch.ones(1)}, path), "looks like a LoRA"),
    ],
)
def test_broken_foreign_and_malicious_files_are_refused_by_name(tmp_path, name, content, said):
    extra = folder_with(tmp_path, name, content)
    with pytest.raises(ModelError, match=said):
        extra.open_upscaler("a", CPU)


def test_a_file_whose_tensors_do_not_form_its_network_is_refused(tmp_path):
    torn = {name: tensor for name, tensor in compact().state_dict().items() if name != "body.2.weight"}
    extra = folder_with(tmp_path, "torn.pth", lambda path: torch.save(torn, path))
    with pytest.raises(ModelError, match="upscaler torn.pth is damaged or of an unknown variant"):
        extra.open_upscaler("torn", CPU)


def test_problems_of_files_are_told_where_those_of_models_are(bench, tmp_path):
    assert folder_with(tmp_path, "a.pth", b"").problems()["a"].startswith("a.pth is empty")
    assert bench.upscalers() == [*UPSCALERS, "compact 4x", "tiny"]
    assert Api(bench).catalog()["upscalers"] == bench.upscalers()


def test_a_second_pass_starts_from_what_a_network_enlarged(bench):
    fields = dict(prompt="a", steps=2, seed=5, hires_scale=1.5, upscaler="tiny")
    job = bench.submit(Request(**fields), previews=False)
    assert isinstance(job.wait(60), Finished), job.outcome
    path = job.pictures[0].path
    record = read_picture(path).record
    (patch,) = record.patches
    assert (patch.name, patch.kind, len(patch.digest)) == ("tiny", "upscaler", 10)
    assert str(replay_file(bench, path)) == "bit-equal"
    other = bench.submit(Request(**fields | dict(upscaler="")), previews=False)
    assert isinstance(other.wait(60), Finished)
    assert not np.array_equal(*(np.asarray(Image.open(each.pictures[0].path)) for each in (job, other)))
