"""training/: what the judges see, and the measures of what a model draws."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional

from training import (
    augmentation,
    autoencoder,
    captions,
    classifier,
    drawing,
    evaluate,
    export,
    loop,
    lora,
    measures,
    styles,
    words,
)
from training.config import Autoencoder, Config, Denoiser, Text
from training.model import Model


def test_pictures_are_shrunk_without_the_colours_under_their_transparent_parts():
    rgba = np.zeros((1, 4, 4, 4), np.uint8)
    rgba[..., 0], rgba[:, :, :1] = 255, (0, 100, 0, 255)  # red that nobody sees, beside a green column
    small = augmentation.shrunk(rgba, 2, torch.device("cpu"))
    assert small.dtype == torch.uint8
    assert small[0, :, 0, 0].tolist() == [0, 50, 0, 128]
    assert not small[0, :, :, 1].any()
    assert augmentation.shrunk(rgba, 64, torch.device("cpu")).shape == (1, 4, 4, 4), "none is enlarged"


def test_names_of_colours_keep_theirs_and_arrows_are_not_mirrored():
    free = augmentation.freedoms(["red apple", "rocket", "left arrow"])
    assert free.tolist() == [[True, False], [True, True], [False, True]]
    pixels = torch.zeros(200, 4, 8, 8, dtype=torch.uint8)
    pixels[:, 0, :, :4], pixels[:, 3, :, :4] = 200, 255  # a red left half
    for mirrored in (False, True):
        for recoloured in (False, True):
            may = torch.tensor([[mirrored, recoloured]]).expand(200, 2)
            changed = augmentation.augmented(pixels, may, loop.generator(0, 0))
            assert changed.min() >= -1
            assert changed.max() <= 1
            left, right = changed[..., :4].mean(dim=(1, 2, 3)), changed[..., 4:].mean(dim=(1, 2, 3))
            assert ((left < right).float().mean() < 0.65) == mirrored
            green = changed[:, 1].amin((1, 2)) > -0.9
            assert (green.float().mean() > 0.2) == recoloured


def test_figures_of_a_training_may_be_tensors(tmp_path, capsys):
    loop.train(
        budget=loop.Budget(steps=50),
        step=lambda number, fraction: {"loss": torch.tensor(2.0), "right": 0.5},
        state=lambda: {},
        path=tmp_path / "state.pt",
        resume=None,
    )
    assert "loss 2.0000  right 0.5000" in capsys.readouterr().out


def on_white(*things, side=64):
    """A picture (1, 3, side, side) of rectangles, each (left, top, right, bottom, colour)."""
    picture = Image.new("RGB", (side, side), "white")
    for *box, colour in things:
        picture.paste(colour, tuple(box))
    return torch.from_numpy(np.asarray(picture).copy()).movedim(-1, 0)[None].float() / 127.5 - 1


@pytest.mark.parametrize("degrees", [0, 30, 45, 90, 200])
@pytest.mark.parametrize("width", [4.0, 10.0])
def test_an_edge_is_as_wide_as_it_was_drawn(degrees, width):
    y, x = torch.meshgrid(*[torch.arange(64) - 31.5] * 2, indexing="ij")
    across = x * math.cos(math.radians(degrees)) + y * math.sin(math.radians(degrees))
    ramp = ((across / width + 0.5).clamp(0, 1) * 2 - 1).expand(1, 3, -1, -1)
    assert measures.edge_width(ramp) == pytest.approx(0.8 * width, abs=0.3)


def test_an_edge_between_two_pixels_is_the_sharpest_and_a_faint_one_is_none():
    sharp = on_white((0, 0, 32, 64, (0, 0, 0)))
    assert measures.edge_width(sharp) == pytest.approx(0.8, abs=0.1)
    coarse = functional.interpolate(functional.avg_pool2d(sharp, 4), scale_factor=4, mode="bicubic")
    assert measures.edge_width(coarse) > 2
    assert math.isnan(measures.edge_width(on_white((0, 0, 32, 64, (220, 220, 220)))))


def test_the_hue_of_a_thing_is_that_of_its_coloured_pixels():
    of = {name: on_white((8, 8, 40, 40, captions.COLOURS[name])) for name in captions.HUES}
    assert measures.hues(torch.cat(list(of.values()))) == list(of)
    red, grey, black = (captions.COLOURS[name] for name in ("red", "grey", "black"))
    mixed = on_white((4, 4, 60, 60, black), (8, 8, 56, 56, grey), (20, 20, 40, 40, red))
    assert measures.hues(torch.cat([mixed, on_white((8, 8, 40, 40, grey)), on_white()])) == ["red", "", ""]


def test_parts_are_counted_without_specks():
    bent = ((8, 8, 12, 56, "navy"), (8, 52, 56, 56, "navy"), (52, 8, 56, 56, "navy"))
    pictures = (
        on_white(),
        on_white(*bent),
        on_white(*bent, (20, 20, 40, 40, "red")),
        on_white((4, 4, 24, 24, "red"), (4, 40, 24, 60, "red"), (40, 4, 60, 24, "red"), (50, 50, 53, 53, "red")),
    )
    assert measures.parts(torch.cat(pictures)).tolist() == [0, 1, 2, 3]


def test_a_thing_has_a_place_and_an_area():
    picture = on_white((48, 0, 64, 32, "navy"))
    assert measures.centres(picture)[0].tolist() == pytest.approx([0.75, -0.5])
    assert measures.areas(picture).item() == pytest.approx(1 / 8)
    both = picture.repeat(4, 1, 1, 1)
    assert words.placed_right(both, list(captions.PLACES)).tolist() == [False, True, True, False]


def test_pictures_of_a_group_are_apart_by_the_root_mean_square_of_their_pixels():
    black, white = torch.full((1, 3, 64, 64), -1.0), torch.ones(1, 3, 64, 64)
    vectors = measures.pixels(torch.cat([black, white, black, black]))
    assert measures.apart(vectors, [2, 2]) == pytest.approx(255 / 2, abs=0.01)
    # The third group has nothing to compare.
    assert measures.apart(measures.pixels(torch.cat([black, white, white])), [2, 1]) == pytest.approx(255, abs=0.01)


def test_an_earlier_autoencoder_is_shown_shrunk_pictures(config):
    torch.manual_seed(0)
    vae, shown = autoencoder.build(config), torch.rand(2, 3, 64, 64) * 2 - 1
    small = functional.avg_pool2d(shown, 4)
    enlarged = functional.interpolate(measures.reconstructed(vae, small), (64, 64), mode="bicubic").clamp(-1, 1)
    assert torch.equal(measures.reconstructed_small(vae, shown, 16), enlarged)
    assert measures.psnr(torch.full((1, 3, 8, 8), 0.2), torch.zeros(1, 3, 8, 8)) == pytest.approx(20.0, abs=1e-4)


class Painter:
    """Draws a red square: as it is asked to, always the same, or so large that it is all of the ground."""

    def __init__(self, way: str) -> None:
        self.way = way

    def draw(self, pipe, prompts, steps=20, guidance=5.0):
        return torch.cat([self.picture("" if self.way == "ignores" else prompt) for prompt in prompts])

    def picture(self, prompt):
        colour = next((captions.COLOURS[hue] for hue in captions.HUES if hue in prompt.split()), (214, 40, 40))
        if self.way == "floods":
            return on_white((0, 0, 64, 64, colour))
        count = next((number for number, word in captions.NUMBERS.items() if word in prompt.split()), 1)
        right, down = next((where for place, where in captions.PLACES.items() if place in prompt), (0, 0))
        side, x, y = 10 if count > 1 or "small" in prompt else 20, 32 + 20 * right, 32 + 20 * down
        lefts = range(x - side, x - side + 20 * count, 20)
        boxes = [(left, y - side, left + 16 * side // 10, y + side) for left in lefts]
        return on_white(*((*box, colour) for box in boxes))


class Knowing:
    """A judge that recognizes everything."""

    def rank(self, images, names):
        return torch.zeros(len(images), dtype=torch.long)


@pytest.mark.parametrize(
    ("way", "right"),
    [("obeys", [8, 5, 5, 4, 4, 4, 4, 4]), ("ignores", [1, 0, 0, 0, 0, 0, 0, 0]), ("floods", [0] * 8)],
)
def test_who_does_what_words_say_is_told_from_who_does_not(way, right, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(drawing, "draw", Painter(way).draw)
    names = [f"thing {'abcdefgh'[i]}" for i in range(8)]
    plain, split = names[:4], names[4:]

    def real(name):
        return on_white((4, 4, 20, 20, "navy"), *[(40, 40, 60, 60, "navy")] * (name in split))

    words.judge_the_words(None, Knowing(), "emoji", plain, [*names[2:], "red thing"], real, tmp_path / "colours.png")
    rows = capsys.readouterr().out.splitlines()
    assert [int(row.split("|")[2].split(" of ")[0]) for row in rows[:-1]] == right
    assert rows[-1] == "| emoji: one thing above another, both in the top 5 of their half | 8 of 8 |"
    assert Image.open(tmp_path / "colours.png").size == (8 * 64, 64)


def test_a_sheet_that_is_too_large_becomes_a_jpeg(tmp_path):
    noise = torch.rand(64, 3, 128, 128) * 2 - 1
    drawing.sheet(tmp_path / "few.png", noise[:8] * 0)
    drawing.sheet(tmp_path / "many.png", functional.interpolate(noise, scale_factor=2))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["few.png", "many.jpg"]
    assert Image.open(tmp_path / "many.jpg").size == (8 * 96, 8 * 96)


@pytest.fixture()
def config(tmp_path):
    """A model that has learned nothing, with all that the evaluation looks for beside it."""
    config = Config(
        size=16,
        work=tmp_path,
        autoencoder=Autoencoder(widths=(8, 8, 8)),
        text=Text(vocabulary=600, length=16, width=32, layers=1, heads=2),
        denoiser=Denoiser(widths=(16, 32, 32), head_width=16),
    )
    return replace(config, classifier=replace(config.classifier, widths=(8, 16), side=16, batch=8))


def test_the_evaluation_prints_a_row_for_each_question(config, tmp_path, monkeypatch, capsys):
    names = ["rocket", "cat face", next(n for n in map(str, range(1000)) if held_out(n))]
    entries = [
        {"name": name, "style": style, "keywords": [], "weight": 1.0, "sets": 2, "code": "0"}
        for name in names
        for style in captions.STYLES
    ]
    captions.train_tokenizer(captions.corpus(entries), 600, 16, config.folder / "tokenizer")
    pictures = np.random.default_rng(0).integers(0, 255, (len(entries), 16, 16, 4), dtype=np.uint8)
    np.save(config.folder / "pictures.npy", pictures)
    (config.folder / "index.json").write_text(json.dumps(entries))
    loop.save(config.folder / "autoencoder.pt", {"vae": autoencoder.build(config).state_dict()})
    state = Model(config, export.tokenizer(config)).state_dict()
    for name in ("denoiser", "flow"):
        loop.save(config.folder / f"{name}.pt", {"ema": state})
    classifier.run(config, loop.Budget(steps=1))
    styles.run(config, loop.Budget(steps=1))
    export.run(config, tmp_path / "emoji")
    export.few_calls(tmp_path / "emoji").parent.mkdir()
    changes = lora.changes_of(Model(config, export.tokenizer(config)).unet)
    save_file(lora.to_state(changes), export.few_calls(tmp_path / "emoji"))

    monkeypatch.setattr(evaluate, "read", lambda file: names)
    monkeypatch.setattr(evaluate, "STEPS", (1,))
    monkeypatch.setattr(evaluate, "CALLS", (2,))
    for module in (drawing, evaluate):
        monkeypatch.setattr(module, "draw", lambda pipe, prompts, *of, draw=drawing.draw: draw(pipe, prompts, 1, 1.0))
    capsys.readouterr()
    evaluate.run(config, tmp_path / "emoji", before=tmp_path / "emoji/vae")
    rows = [row.split(" | ")[0].removeprefix("| ") for row in capsys.readouterr().out.splitlines() if row[:2] == "| "]
    assert len(rows) == len(set(rows))
    assert "autoencoder, PSNR above" in rows[4]
    assert sum(row.startswith("emoji-flow: ") for row in rows) == 7
    assert sum(row.startswith("emoji-lcm: plain names in 2 calls") for row in rows) == 1
    sheets = {path.stem for path in config.folder.glob("evaluate*")}
    assert sheets == {f"evaluate{of}" for of in ("", "-flow", "-seeds", "-colours", "-calls")}


def held_out(name):
    """Whether the autoencoder's training leaves out one of a name's pictures."""
    return any(autoencoder.held_out_picture({"name": name, "style": style}) for style in captions.STYLES)
