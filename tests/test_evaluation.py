"""training/: what the judges see, and the measures of what a model draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from training import augmentation, loop


def test_pictures_are_shrunk_without_the_colours_under_their_transparent_parts():
    rgba = np.zeros((1, 4, 4, 4), np.uint8)
    rgba[..., 0], rgba[:, :, :1] = 255, (0, 100, 0, 255)  # red that nobody sees, beside a green column
    small = augmentation.shrunk(rgba, 2, torch.device("cpu"))
    assert small.dtype == torch.uint8
    assert small[0, :, 0, 0].tolist() == [0, 50, 0, 128]
    assert not small[0, :, :, 1].any()
    assert augmentation.shrunk(rgba, 64, torch.device("cpu")).shape == (1, 4, 4, 4), "none is enlarged"


def test_a_picture_is_turned_clockwise_moved_and_mirrored():
    pixels = torch.zeros(4, 1, 8, 8)
    pixels[:, :, 0, 1] = 1
    zero, right, where = torch.zeros(4), math.pi / 2, torch.arange(4)
    moved = augmentation.placed(
        pixels,
        scale=torch.ones(4),
        angle=right * (where == 1),
        shift=torch.stack([zero, 0.25 * (where == 2)], 1),
        mirrored=where == 3,
    )
    assert [divmod(int(each.argmax()), 8) for each in moved] == [(0, 1), (1, 7), (1, 1), (0, 6)]
    assert moved.amax((1, 2, 3)).tolist() == pytest.approx([1] * 4, abs=1e-4)


def test_a_scaled_picture_takes_its_share_of_the_square():
    small = augmentation.placed(
        torch.ones(1, 1, 8, 8), torch.tensor([0.5]), torch.zeros(1), torch.zeros(1, 2), torch.tensor([False])
    )
    assert small.sum() == pytest.approx(16, abs=0.1)


def test_a_hue_turns_and_greys_stay():
    third = augmentation.hue_turns(torch.tensor([2 * math.pi / 3]))[0]
    assert third @ torch.tensor([1.0, 0, 0]) == pytest.approx([0, 1, 0], abs=1e-6)
    assert third @ torch.tensor([0.4, 0.4, 0.4]) == pytest.approx([0.4] * 3, abs=1e-6)


def test_names_of_colours_keep_theirs_and_arrows_are_not_mirrored():
    free = augmentation.freedoms(["red apple", "rocket", "left arrow"])
    assert free.tolist() == [[True, False], [True, True], [False, True]]
    pixels = torch.zeros(64, 4, 8, 8, dtype=torch.uint8)
    pixels[:, 0], pixels[:, 3] = 200, 255
    reds = []
    for may in (False, True):
        changed = augmentation.augmented(pixels, torch.full((64, 2), may), loop.generator(0, 0))
        assert changed.min() >= -1
        assert changed.max() <= 1
        red, green, _ = changed[:, :, 3:5, 3:5].mean((2, 3)).T
        reds.append((red > green).float().mean())
    assert reds[1] < 0.9 < reds[0]


def test_figures_of_a_training_may_be_tensors(tmp_path, capsys):
    loop.train(
        budget=loop.Budget(steps=50),
        step=lambda number, fraction: {"loss": torch.tensor(2.0), "right": 0.5},
        state=lambda: {},
        path=tmp_path / "state.pt",
        resume=None,
    )
    assert "loss 2.0000  right 0.5000" in capsys.readouterr().out
