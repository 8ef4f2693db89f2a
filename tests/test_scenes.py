"""training/'s scenes: what is drawn is what the caption says, of every batch number alike."""

from __future__ import annotations

import colorsys
import random
from collections import Counter

import numpy as np
import pytest
import torch

from training import canvas, captions, scenes
from training.config import Scenes

ENTRIES = [
    {"name": name, "style": style, "keywords": [], "weight": 1.0}
    for name in ("rocket", "cat face", "left arrow", "red apple")
    for style in captions.STYLES
]
ORANGE = [30 / 360, 0.9, 0.9, 1.0]


def book(entries=ENTRIES, **mix) -> scenes.Book:
    return scenes.Book(entries, np.array([ORANGE] * len(entries)), Scenes(**mix))


def drawn(count: int, **mix) -> list[scenes.Scene]:
    rng, pages = random.Random(0), book(**mix)
    return [pages.draw(rng) for _ in range(count)]


def test_a_pair_of_name_and_ground_that_is_held_out_is_never_drawn():
    found = drawn(2000, white=0.1)
    assert not any(captions.held_out(ENTRIES[row]["name"], scene.ground) for scene in found for row in scene.entries)
    assert len({scene.ground for scene in found}) == len(captions.COLOURS)


def test_what_is_said_of_a_thing_is_how_it_is_drawn():
    found, said = drawn(3000, two=0.0, several=0.0, said=1.0), Counter()
    for scene in found:
        (thing,), words = scene.things, scene.what
        if "small" in words:
            assert thing.scale <= 0.6
        for place, (right, down) in captions.PLACES.items():
            if place in words:
                assert thing.x * right + thing.y * down > 0.2
        if "tilted left" in words:
            assert -45 < thing.degrees < -20
        if "tilted right" in words:
            assert 20 < thing.degrees < 45
        assert ("upside down" in words) == (abs(thing.degrees) > 150)
        coloured = words.split("rocket")[0].split() if "rocket" in words else []
        for colour in captions.HUES:
            if colour in coloured:
                hue = colorsys.rgb_to_hsv(*(part / 255 for part in captions.COLOURS[colour]))[0]
                assert abs((thing.paint[0] / 360 + ORANGE[0] - hue + 0.5) % 1 - 0.5) < 0.06
        said.update(word for word in ("small", "tilted", "upside", " on the ", " at the ") if word in words)
    assert min(said.values()) > 100 and len(said) == 5


def test_a_thing_of_which_nothing_is_said_is_whole_and_nearly_upright():
    for scene in drawn(1000, two=0.0, several=0.0, said=0.0):
        (thing,) = scene.things
        assert scene.what == ENTRIES[thing.row]["name"]
        assert 0.8 <= thing.scale <= 1 and abs(thing.degrees) <= 16
        assert max(abs(thing.x), abs(thing.y)) + thing.scale <= 1.001


def test_a_mirror_that_would_change_the_name_is_left_out():
    found = drawn(1000, two=0.0, several=0.0)
    mirrored = Counter(ENTRIES[scene.entries[0]]["name"] for scene in found if scene.things[0].mirrored)
    assert "left arrow" not in mirrored and mirrored["rocket"] > 50


def test_two_things_stand_as_they_are_named_and_several_are_counted():
    for scene in drawn(500, two=1.0):
        first, second = scene.things
        names = [ENTRIES[row]["name"] for row in scene.entries]
        assert scene.what.index(names[0]) <= scene.what.rindex(names[1])
        assert (first.y < second.y) if " above " in scene.what else (first.x < second.x)
        assert len({ENTRIES[row]["style"] for row in scene.entries}) == 1
    for scene in drawn(200, two=0.0, several=1.0):
        assert scene.what.split()[0] == {2: "two", 3: "three"}[len(scene.things)]


def test_names_are_drawn_by_weight_not_by_pictures():
    many = [dict(ENTRIES[0], name="many")] * 9 + [dict(ENTRIES[0], name="rare", weight=0.5)]
    rng, pages = random.Random(0), book(many, two=0.0)
    share = np.mean([pages.draw(rng).entries == (9,) for _ in range(3000)])
    assert 0.30 < share < 0.37


def test_a_picture_lies_where_its_place_says():
    picture = torch.zeros(1, 64, 64, 4, dtype=torch.uint8)
    picture[0, 16:48, 0:32] = torch.tensor([255, 0, 0, 255], dtype=torch.uint8)  # a red square at the left

    def at(**place) -> torch.Tensor:
        place = dict(dict(scale=1.0, x=0.0, y=0.0, degrees=0.0, mirrored=False), **place)
        places = canvas.affine(**{name: torch.tensor([value]) for name, value in place.items()})
        layer = canvas.Layer(torch.tensor([0]), torch.tensor([0]), places, canvas.NATURAL[None])
        image = canvas.draw(picture, torch.tensor([[255.0, 255, 255]]), [layer])[0]
        red = (image[0] > 0.5) & (image[1] < -0.5)
        y, x = red.nonzero().float().mean(0).tolist()
        return torch.tensor([x, y]).sub(31.5).div(32).round(decimals=1)

    assert at().tolist() == [-0.5, 0]
    assert at(mirrored=True).tolist() == [0.5, 0]
    assert at(degrees=90.0).tolist() == [0, -0.5], "clockwise, its left goes up"
    assert at(scale=0.5).tolist() == pytest.approx([-0.2, 0], abs=0.11)
    assert at(scale=0.4, x=0.5, y=-0.5).tolist() == pytest.approx([0.3, -0.5], abs=0.01)


def test_hue_saturation_and_value_are_colorsys():
    rgb = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    hsv = torch.stack(canvas.to_hsv(rgb), 1)
    theirs = [colorsys.rgb_to_hsv(*pixel) for pixel in rgb[0].flatten(1).T.tolist()]
    torch.testing.assert_close(hsv[0].flatten(1).T, torch.tensor(theirs), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(canvas.from_hsv(*hsv.unbind(1)), rgb, rtol=1e-4, atol=1e-4)


def test_a_painted_thing_has_the_asked_colour_and_its_white_stays():
    picture = torch.full((1, 64, 64, 4), 255, dtype=torch.uint8)
    picture[0, :48, :, :3] = torch.tensor([200, 120, 30], dtype=torch.uint8)
    hue, saturation, value, share = scenes.main_colours(picture)[0].tolist()
    assert share == pytest.approx(1) and hue == pytest.approx(colorsys.rgb_to_hsv(200, 120, 30)[0], abs=0.01)
    pages = scenes.Book([dict(ENTRIES[0])], np.array([[hue, saturation, value, share]]), Scenes())
    rng = random.Random(1)
    for _ in range(20):
        thing, look = pages._painted(scenes.Thing(0, 1.0), captions.Look(), rng)
        rgb = picture[..., :3].movedim(-1, 1).float() / 255
        painted = canvas.recoloured(rgb, torch.tensor([thing.paint]))
        wanted = torch.tensor(captions.COLOURS[look.colour]) / 255
        assert (painted[0, :, 0, 0] - wanted).abs().max() < 0.12
        assert torch.allclose(painted[0, :, 60, 0], torch.ones(3))


def test_the_first_guess_at_a_plural_is_right_for_what_is_counted():
    assert [captions.plural(name) for name in ("cherry", "fox", "key", "peach")] == [
        "cherries",
        "foxes",
        "keys",
        "peaches",
    ]
