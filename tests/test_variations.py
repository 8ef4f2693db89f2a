"""Variations: the starting noise is led from a seed's own towards another's, and the seeds of the others count on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import ToyModel, toy
from oracles import normal
from PIL import Image

from samplers.noise import Noise, spherical
from webui.core.infotext import infotext
from webui.core.picture_metadata import read_picture
from webui.core.request import Request, RequestError
from webui.engine.engine import Engine
from webui.engine.events import Finished
from webui.replay_command import replay_file
from webui.settings import Settings
from webui.tabs.lab.axes import read_axis
from webui.tabs.lab.grid import make_grid

FIELDS = dict(prompt="a", steps=4, seed=5)


@pytest.fixture(scope="module")
def bench(registry, tmp_path_factory):
    root = tmp_path_factory.mktemp("variations")
    settings = Settings(root=root, outputs=root / "outputs", model="toy", device="cpu")
    engine = Engine(registry, settings, lambda found, device: ToyModel(found), lambda folder: {"toy": toy()})
    engine.start()
    yield engine
    engine.close()


def make(engine, **fields):
    job = engine.submit(Request(**FIELDS | fields), previews=False)
    outcome = job.wait(60)
    assert isinstance(outcome, Finished), outcome
    return [picture.path for picture in job.pictures], outcome.info


def pixels(path):
    return np.asarray(Image.open(path)).astype(int)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_the_noise_lies_on_the_great_circle(share):
    first, second = normal(2, 3, 32, 32, seed=1), normal(2, 3, 32, 32, seed=2)
    mixed = spherical(first, second, share)
    assert mixed.std() == pytest.approx(1.0, abs=0.03)
    for one, other, between in zip(first, second, mixed, strict=True):
        whole, part = (torch.arccos(torch.cosine_similarity(one.flatten(), b.flatten(), 0)) for b in (other, between))
        assert float(part) == pytest.approx(share * float(whole), abs=0.02)


def test_the_ends_are_the_two_noises_and_equal_ones_stay():
    first, second = (Noise([seed], "initial")(torch.zeros(1, 3, 8, 8)) for seed in (1, 2))
    assert torch.equal(spherical(first, second, 1.0), second)
    torch.testing.assert_close(spherical(first, first, 0.3), first)


def test_strength_1_is_the_picture_of_the_other_seed(bench):
    (varied, _), _ = make(bench, variation_seed=9, variation_strength=1.0, count=2)
    (other,), _ = make(bench, seed=9)
    assert np.array_equal(pixels(varied), pixels(other))


def test_variations_share_the_seed_and_differ_the_more_the_stronger(bench):
    (own,), _ = make(bench)
    distances = []
    for strength in (0.05, 0.2, 0.6):
        paths, info = make(bench, variation_seed=9, variation_strength=strength, count=2)
        assert info["seeds"] == [5, 5] and info["variation_seeds"] == [9, 10]
        distances.append(np.abs(pixels(paths[1]) - pixels(own)).mean())
    assert 0 < distances[0] < distances[1] < distances[2]


def test_a_picture_of_a_batch_is_the_picture_alone(bench):
    paths, _ = make(bench, variation_seed=9, variation_strength=0.3, count=3)
    (alone,), _ = make(bench, variation_seed=11, variation_strength=0.3)
    assert np.array_equal(pixels(paths[2]), pixels(alone))


@pytest.mark.parametrize("fields", [{}, dict(sampler="DPM++ 2M SDE"), dict(hires_scale=1.5)])
def test_it_is_made_again_to_the_last_bit(bench, fields):
    paths, _ = make(bench, variation_strength=0.3, count=3, **fields)
    assert str(replay_file(bench, paths[1])) == "bit-equal"
    assert replay_file(bench, paths[2], one_at_a_time=True).equal


def test_the_record_and_the_infotext_name_the_variation(bench):
    paths, _ = make(bench, variation_seed=9, variation_strength=0.3, count=2)
    record = read_picture(paths[1]).record
    assert (record.seed, record.variation_seed, record.batch) == (5, 10, (9, 10))
    assert "Seed: 5" in infotext(record.data)
    assert "Variation seed: 10, Variation seed strength: 0.3" in infotext(record.data)


def test_without_it_nothing_is_said_of_it(bench):
    (path,), info = make(bench, variation_seed=9)
    assert not [name for name in info if "variation" in name]
    record = read_picture(path).record
    assert record.variation_seed is None and "Variation" not in infotext(record.data)


def test_a_grid_has_one_variation_seed_in_all_cells(bench):
    grid = make_grid(bench, Request(**FIELDS), [read_axis("variation_strength", "0.1, 0.2", bench.registry)])
    assert len({cell.request.variation_seed for cell in grid.possible}) == 1
    with pytest.raises(RequestError, match="Variation seed: -1 would be another random seed each time"):
        read_axis("variation_seed", "-1", bench.registry)
