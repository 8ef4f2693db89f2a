"""Drawing in tiles: a picture larger than the model makes, each network call over overlapping tiles of its own size."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from conftest import ToyModel, toy
from PIL import Image, ImageDraw

from samplers.denoiser import to_denoised
from samplers.noise import Noise
from webui.core.images import fit_picture
from webui.core.infotext import infotext
from webui.core.inpainting import filled_up
from webui.core.picture_metadata import read_picture
from webui.core.request import Request, RequestError, read
from webui.engine.engine import Engine
from webui.engine.events import Finished, StoppedEarly
from webui.importers.a1111 import read_infotext
from webui.importers.imported_settings import from_external
from webui.replay_command import replay_file
from webui.settings import Settings
from webui.tabs.lab.axes import read_axis
from webui.tabs.lab.grid import make_grid
from webui.tabs.lab.trajectory import trajectory_of

FIELDS = dict(mode="img2img", prompt="red apple", sampler="Euler", steps=3, seed=5, guidance=3.0, strength=0.7)


@pytest.fixture
def scene(tmp_path):
    return drawn(tmp_path / "scene.png", 45, 37)


@pytest.fixture
def large(emoji, tmp_path):
    """For the embedded model: four tiles at scale 2, 28 x 23 latents."""
    return drawn(tmp_path / "large.png", 28 * emoji.info.factor // 2, 23 * emoji.info.factor // 2)


@pytest.fixture(scope="module")
def bench(registry, tmp_path_factory):
    root = tmp_path_factory.mktemp("tiles")
    settings = Settings(root=root, outputs=root / "outputs", weights=root, model="toy", device="cpu")
    engine = Engine(registry, settings, lambda found, device: ToyModel(found), lambda folder: {"toy": toy()})
    engine.start()
    yield engine
    engine.close()


def drawn(path, width, height):
    image = Image.new("RGB", (width, height), (240, 240, 230))
    ImageDraw.Draw(image).ellipse((5, 5, width - 8, height - 6), (200, 30, 40))
    image.save(path)
    return path


def make(engine, **fields):
    job = engine.submit(Request(**FIELDS | fields), previews=False)
    outcome = job.wait(120)
    assert isinstance(outcome, Finished), outcome
    return job.pictures[0].path, outcome.info


@pytest.fixture
def seen(emoji, monkeypatch):
    """The (height, width) of what the embedded network is asked about."""
    sizes, network = [], type(emoji.network)
    original = network.__call__

    def call(self, scaled, timestep, condition):
        sizes.append(tuple(scaled.shape[-2:]))
        return original(self, scaled, timestep, condition)

    monkeypatch.setattr(network, "__call__", call)
    return sizes


def test_the_network_sees_tiles_of_its_own_size_and_the_picture_is_as_large_as_asked(real, emoji, large, seen):
    path, info = make(real, image=large, scale=2.0)
    size = emoji.info.defaults.size
    assert Image.open(path).size == (28 * emoji.info.factor, 23 * emoji.info.factor)
    side = emoji.latents_shape(size, size)[-1]
    assert set(seen) == {(side, side)} and len(seen) == 4 * info["nfe"]
    assert info["nfe"] == 2 and (info["scale"], info["upscaler"], info["width"]) == (2.0, "Lanczos", size)


def test_where_one_tile_is_enough_it_is_img2img(real, emoji, tmp_path):
    image = drawn(tmp_path / "small.png", *[emoji.info.defaults.size] * 2)
    one, whole = (Image.open(make(real, image=image, **more)[0]) for more in (dict(scale=1.0), dict()))
    assert np.array_equal(np.asarray(one), np.asarray(whole))


def test_an_estimate_is_the_weighted_mean_of_those_of_its_tiles(real, emoji, large):
    """One step of Euler ends at its estimate: by hand from four network outputs and weights written out."""
    fields = dict(image=large, scale=2.0, steps=1, strength=1.0, guidance=1.0)
    path, info = make(real, **fields)
    image = Image.open(large)
    image = image.resize((2 * image.width, 2 * image.height), Image.Resampling.LANCZOS)
    clean, sigma = emoji.encode(image), info["sigmas"][0]
    assert clean.shape[-2:] == (23, 28)
    x = clean + sigma * Noise([5], "initial")(clean)
    falling = torch.tensor([*[1.0] * 12, 1, 0.75, 0.25, 0])
    words, total, weights = emoji.encode_prompt("red apple"), torch.zeros_like(x), torch.zeros(23, 28)
    with torch.no_grad():
        for top, rows in ((0, falling), (7, falling.flip(0))):
            for left, columns in ((0, falling), (12, falling.flip(0))):
                place = (..., slice(top, top + 16), slice(left, left + 16))
                scaled, weight = x[place] / (1 + sigma**2) ** 0.5, rows[:, None] * columns
                total[place] += weight * emoji.network(scaled, emoji.schedule.timestep(sigma), words.repeat(1))
                weights[place] += weight
    estimate = to_denoised(total / weights, x, sigma, emoji.info.prediction)
    expected = emoji.decode(estimate)[0]
    assert np.abs(np.asarray(Image.open(path)).astype(int) - np.asarray(expected)).max() <= 2


def test_with_a_mask_what_is_kept_is_the_enlarged_input(real, scene, tmp_path):
    mask = Image.new("L", (45, 37))
    mask.paste(255, (0, 0, 20, 37))
    mask.save(tmp_path / "mask.png")
    path, _ = make(real, image=scene, mask=tmp_path / "mask.png", mask_blur=0, scale=2.0)
    expected = Image.open(scene).convert("RGB").resize((90, 74), Image.Resampling.LANCZOS)
    assert np.array_equal(np.asarray(Image.open(path))[:, 44:], np.asarray(expected)[:, 44:])
    assert str(replay_file(real, path)) == "bit-equal"


def test_the_edges_go_on_to_what_the_model_takes():
    image = fit_picture(Image.radial_gradient("L").convert("RGB"), 13, 9)
    larger = np.asarray(filled_up(image, 8))
    assert larger.shape == (16, 16, 3) and np.array_equal(larger[:9, :13], np.asarray(image))
    assert (larger[:9, 13:] == larger[:9, 12:13]).all() and (larger[9:] == larger[8:9]).all()
    assert filled_up(image, 1) is image


def test_it_is_stopped_between_two_tiles(real, large, seen):
    job = real.submit(Request(**FIELDS | dict(image=large, scale=2.0, steps=40)), previews=False)
    end = time.monotonic() + 60
    while not seen and time.monotonic() < end:
        time.sleep(0.005)
    real.stop(job)
    assert isinstance(job.wait(60), StoppedEarly) and len(seen) < 4 * 28


@pytest.mark.parametrize(
    "fields, said",
    [
        (dict(scale=0.5), "Scale must be 0, which is off, or a number from 1 to 8"),
        (dict(scale=9), "Scale must be 0, which is off, or a number from 1 to 8"),
        (dict(scale=2.0, outpaint=(8, 0, 0, 0)), "drawn whole and not extended: set scale to 0"),
        (dict(scale=2.0, upscaler="Latent bilinear"), "Unknown upscaler 'Latent bilinear'; known are Lanczos"),
    ],
)
def test_what_cannot_be_is_refused_in_words(bench, scene, fields, said):
    with pytest.raises(RequestError, match=said):
        bench.submit(read(FIELDS | dict(image=scene) | fields))


def test_what_would_become_too_large_is_refused(bench, tmp_path):
    Image.new("RGB", (2000, 1500)).save(tmp_path / "large.png")
    with pytest.raises(RequestError, match="would be 6000x4500; allowed are 16.0 megapixels"):
        bench.submit(Request(**FIELDS | dict(image=tmp_path / "large.png", scale=3.0)))


def test_without_it_nothing_is_said_of_it(bench, scene):
    path, info = make(bench, image=scene)
    assert not {"scale", "upscaler"} & set(info)
    assert "upscale" not in infotext(read_picture(path).record.data)


def test_the_text_has_it_and_gives_it_back(bench, registry, scene):
    text = infotext(read_picture(make(bench, image=scene, scale=2.0)[0]).record.data)
    assert "Hires upscaler: Lanczos" in text and "Tiled upscale: 2" in text
    found = from_external(read_infotext(text), registry, bench.models())
    assert (found.fields["scale"], found.fields["upscaler"]) == (2.0, "Lanczos")


def test_a_grid_varies_it_and_a_trajectory_says_why_it_cannot(bench, registry, scene):
    base = Request(**FIELDS | dict(image=scene, scale=2.0))
    grid = make_grid(bench, base, [read_axis("scale", "0, 1.5, 2", registry)])
    sizes = [grid.source(cell).picture.size for cell in grid.possible]
    assert sizes == [(64, 64), (45, 37), (45, 37)]
    with pytest.raises(RequestError, match="drawn whole"):
        trajectory_of(bench.resolve(base))
