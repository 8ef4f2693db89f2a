"""Inpainting and outpainting: what is kept is kept to the byte, what is white is img2img, and all of it replays."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image, ImageDraw

from samplers.run import run
from webui.core.images import PictureError
from webui.core.inpainting import colours_around, faded, fit_input, open_mask, padded
from webui.core.picture_metadata import read_picture
from webui.core.request import Request, RequestError, read
from webui.core.storage import input_path
from webui.engine.drawing import guided_denoiser
from webui.engine.engine import Engine
from webui.engine.events import Finished
from webui.engine.replay import recipe
from webui.engine.start_latents import latent_mask, start_latents
from webui.replay_command import replay_file
from webui.settings import Settings
from weights.diffusers_folder import read_folder

SIDE = read_folder(ROOT / "weights" / "emoji").defaults.size
# Of all samplers, which benchmarks/masks.py goes through.
SAMPLERS = ["DDIM", "Euler", "DPM++ 2M SDE", "Flow", "LCM", "diffusers UniPC"]


@pytest.fixture(scope="module")
def flow():
    from weights.opening import open_model

    return open_model(read_folder(ROOT / "weights" / "emoji-flow"), "cpu")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """save(name, image) -> its path."""
    folder = tmp_path_factory.mktemp("inputs")

    def save(name, image):
        image.save(folder / f"{name}.png")
        return folder / f"{name}.png"

    return save


def scene(width=SIDE, height=SIDE) -> Image.Image:
    """A picture without two equal rows or columns."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x * 255 // width, y * 255 // height, (x * y) % 256], -1).astype(np.uint8))


def mask_of(box, width=SIDE, height=SIDE) -> Image.Image:
    mask = Image.new("L", (width, height))
    ImageDraw.Draw(mask).rectangle(box, fill=255)
    return mask


LEFT = mask_of((0, 0, SIDE // 2 - 1, SIDE))


@pytest.fixture
def drawn(real, files):
    """Draw an img2img request and return (path, pixels)."""

    def draw(picture=None, mask=None, **fields):
        image = files("picture", picture or scene())
        given = dict(mode="img2img", prompt="red apple", steps=4, seed=3, strength=0.8, image=image) | fields
        if mask is not None:
            given["mask"] = files("mask", mask)
        job = real.submit(read(given), previews=False)
        outcome = job.wait(120)
        assert isinstance(outcome, Finished), outcome
        path = job.pictures[0].path
        return path, np.asarray(Image.open(path)).astype(int)

    return draw


@pytest.mark.parametrize("name", SAMPLERS)
def test_outside_a_hard_mask_every_byte_is_the_inputs(drawn, name):
    options = {"tolerance": 0.01} if name == "Flow" else {}  # the fewest calls that it takes
    _, pixels = drawn(mask=LEFT, mask_blur=0, sampler=name, options=options)
    kept, original = np.asarray(LEFT) == 0, np.asarray(scene()).astype(int)
    assert np.array_equal(pixels[kept], original[kept])
    assert np.abs(pixels - original)[~kept].mean() > 10


def test_latents_outside_a_mask_stay_the_encoded_ones(real, emoji, files):
    """Their decoding need not: a decoder's group norms look at the whole picture, so pixels are stitched as well."""
    request = Request(mode="img2img", prompt="red apple", image=files("a", scene()), mask=files("b", LEFT), mask_blur=0)
    resolved = real.resolve(request.model_copy(update=dict(steps=4, seed=3)))
    start = start_latents(resolved.request, fit_input(scene(), LEFT, resolved.request), emoji)
    with torch.no_grad():
        denoise = start.masked(guided_denoiser(resolved.request, emoji), resolved.plan.sigmas[0])
        end = run(resolved.plan, denoise, start.of([3]), [3]).x
    moved, right = (end - start.clean).abs(), end.shape[-1] // 2
    assert moved[..., right:].max() < 1e-3 and moved[..., :right].mean() > 0.1


@pytest.mark.parametrize("area", ["whole", "masked"])
def test_a_white_mask_is_img2img_and_a_black_one_the_input(drawn, area):
    _, plain = drawn()
    _, white = drawn(mask=Image.new("L", (SIDE, SIDE), 255), inpaint_area=area)
    _, black = drawn(mask=Image.new("L", (SIDE, SIDE), 0), inpaint_area=area)
    assert np.array_equal(white, plain)
    assert np.array_equal(black, np.asarray(scene()))


def test_only_the_masked_area_is_drawn_and_put_back_into_a_larger_picture(drawn):
    large, box = scene(200, 120), (90, 40, 110, 60)
    mask = mask_of(box, 200, 120)
    _, pixels = drawn(large, mask, inpaint_area="masked", padding=8, mask_blur=2)
    original, reach = np.asarray(large).astype(int), np.asarray(faded(mask, 2)) > 0
    assert pixels.shape == original.shape
    assert np.array_equal(pixels[~reach], original[~reach])
    assert np.abs(pixels - original)[box[1] : box[3], box[0] : box[2]].mean() > 5


@pytest.mark.parametrize("fill", ["noise", "flat"])
def test_what_fills_the_mask_changes_what_is_drawn_there_alone(drawn, fill):
    _, plain = drawn(mask=LEFT, strength=0.5)
    _, filled = drawn(mask=LEFT, strength=0.5, mask_fill=fill)
    reach = np.asarray(faded(LEFT, 4)) > 0
    assert np.abs(filled - plain)[reach].max() > 10
    assert np.array_equal(filled[~reach], plain[~reach])


def test_outpainting_adds_sides_and_keeps_the_picture(drawn, real):
    path, pixels = drawn(outpaint=[0, 0, 30, 8], strength=1.0, mask_blur=0)
    multiple = real.models()["emoji"].defaults.multiple
    width, height = SIDE + 30 + -30 % multiple, SIDE + 8 + -8 % multiple
    assert pixels.shape == (height, width, 3)
    assert np.array_equal(pixels[:SIDE, :SIDE], np.asarray(scene()))
    assert read_picture(path).record.data["request"]["outpaint"] == [0, 0, width - SIDE, height - SIDE]


def test_only_the_new_side_of_a_picture_larger_than_the_model_makes(drawn):
    large = scene(150, 100)
    _, pixels = drawn(large, outpaint=[25, 0, 0, 0], inpaint_area="masked", mask_blur=0, strength=1.0)
    assert pixels.shape == (100, 175, 3)
    assert np.array_equal(pixels[:, 25:], np.asarray(large))


CASES = {
    "soft": dict(mask=LEFT, count=2, sampler="DPM++ 2M SDE"),
    "noise": dict(mask=LEFT, mask_fill="noise", mask_blur=0),
    "masked": dict(mask=mask_of((20, 10, 40, 30), 128, 96), picture=scene(128, 96), inpaint_area="masked"),
    "outpaint": dict(outpaint=[8, 16, 0, 0], strength=1.0, mask_fill="flat"),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_made_again_to_the_last_bit(real, drawn, case):
    path, _ = drawn(**CASES[case])
    assert str(replay_file(real, path)) == "bit-equal"


def test_a_replay_wants_the_very_mask(real, drawn, files, tmp_path):
    path, _ = drawn(mask=LEFT)
    kept = input_path(real.settings.outputs, read_picture(path).record.mask_digest)
    hidden = kept.rename(tmp_path / "elsewhere.png")
    with pytest.raises(
        RequestError, match=r"Its mask inputs/\w+.png is not in the outputs folder; give it with --mask"
    ):
        recipe(path, real)
    with pytest.raises(RequestError, match="mask is another one"):
        recipe(path, real, mask=files("other", mask_of((0, 0, 9, 9))))
    assert replay_file(real, path, mask=hidden).equal


def test_a_latent_is_as_free_as_the_freest_of_its_pixels():
    mask = Image.new("L", (8, 8))
    mask.putpixel((5, 2), 255)
    mask.putpixel((0, 7), 51)
    assert torch.equal(latent_mask(mask, 4)[0, 0], torch.tensor([[0, 1.0], [0.2, 0]]))


def test_blur_reaches_out_of_a_mask_and_leaves_it_as_it_is():
    mask = mask_of((20, 20, 40, 40))
    soft = np.asarray(faded(mask, 4)).astype(int)
    assert soft[20:41, 20:41].min() == 255
    row = soft[30, 40:]
    assert (np.diff(row) <= 0).all() and 0 < row[4] < 255 and row[17:].max() == 0
    gray = Image.new("L", (SIDE, SIDE), 80)
    assert np.asarray(faded(gray, 4)).min() == np.asarray(faded(gray, 4)).max() == 80


def test_colours_around_continue_what_is_there():
    picture = Image.new("RGB", (64, 64), "red")
    picture.paste("blue", (32, 0, 64, 64))
    hole = mask_of((4, 20, 60, 40), 64, 64)
    filled = np.asarray(colours_around(picture, hole)).astype(int)
    kept = np.asarray(hole) == 0
    assert np.array_equal(filled[kept], np.asarray(picture)[kept])
    assert filled[30, 8, 0] > 200 > 55 > filled[30, 8, 2] and filled[30, 56, 2] > 200 > 55 > filled[30, 56, 0]


@pytest.mark.parametrize(
    "box, padding, shape, expected",
    [
        ((40, 40, 60, 50), 0, 1.0, (40, 35, 60, 55)),
        ((40, 40, 60, 50), 10, 1.0, (30, 25, 70, 65)),
        ((0, 0, 10, 20), 0, 1.0, (0, 0, 20, 20)),
        ((90, 90, 100, 95), 0, 0.5, (90, 80, 100, 100)),
        ((10, 10, 90, 20), 0, 0.25, (10, 0, 90, 100)),
    ],
)
def test_the_drawn_area_has_the_shape_of_the_request(box, padding, shape, expected):
    assert padded(box, padding, shape, (100, 100)) == expected


def test_a_mask_is_what_is_light_and_not_transparent(files):
    painted = Image.new("RGBA", (64, 64), (255, 255, 255, 0))
    painted.paste((255, 255, 255, 255), (0, 0, 8, 8))
    mask = np.asarray(open_mask(files("painted", painted), (64, 64)))
    assert mask[:8, :8].min() == 255 and mask.sum() == 64 * 255
    with pytest.raises(PictureError, match="The mask is 64x64 and the picture 64x32; a mask has the shape"):
        open_mask(files("painted", painted), (64, 32))


@pytest.mark.parametrize("given", [[0, 0, 8, 8], (0, 0, 8, 8), "0, 0, 8, 8", "[0, 0, 8, 8]", [0.0, 0, 8.0, 8]])
def test_sides_are_read_from_lists_and_texts(given):
    assert read({"outpaint": given}).outpaint == (0, 0, 8, 8)
    assert json.loads(read({"outpaint": given}).model_dump_json())["outpaint"] == [0, 0, 8, 8]


@pytest.mark.parametrize("given", [[0, 0, 8], "1 2 3", "a", [0, 0, -8, 0], [0, 0, 0, 5000], [True, 0, 0, 0], 8, None])
def test_wrong_sides_are_refused_in_words(given):
    with pytest.raises(RequestError, match="Outpaint must be four whole numbers of pixels from 0 on: left, top"):
        read({"outpaint": given})


def test_a_picture_too_large_to_be_kept_whole_is_refused(files):
    request = Request(mode="img2img", image=files("a", scene()), outpaint=(4096, 4096, 4096, 4096))
    with pytest.raises(PictureError, match="8256x8256 pixels; allowed are 16.0 megapixels"):
        fit_input(scene(64, 64), None, request.model_copy(update={"inpaint_area": "masked"}))


@pytest.mark.parametrize("name", ["DPM++ 2M", "ER-SDE"])
def test_a_flow_model_keeps_what_a_mask_keeps(registry, flow, files, tmp_path, name):
    settings = Settings(root=ROOT, outputs=tmp_path, weights=ROOT / "weights", device="cpu", model="emoji-flow")
    engine = Engine(registry, settings, lambda found, device: flow)
    engine.start()
    try:
        fields = dict(mode="img2img", prompt="red apple", steps=3, sampler=name, mask_blur=0, strength=0.8)
        request = Request(image=files("a", scene()), mask=files("m", LEFT), **fields)
        job = engine.submit(request, previews=False)
        assert isinstance(job.wait(120), Finished), job.outcome
        pixels, kept = np.asarray(Image.open(job.pictures[0].path)).astype(int), np.asarray(LEFT) == 0
        assert np.array_equal(pixels[kept], np.asarray(scene())[kept])
        assert np.abs(pixels - np.asarray(scene()))[~kept].mean() > 10
    finally:
        engine.close()


AXES = {
    "hires_scale": ("txt2img", "0, 1.5", lambda cell: cell.resolved.hires_plan is not None),
    "upscaler": ("txt2img", "Lanczos, Latent bicubic", lambda cell: cell.request.upscaler),
    "variation_strength": ("txt2img", "0, 0.2", lambda cell: cell.request.is_varied),
    "mask_blur": ("img2img", "0, 8", lambda cell: cell.request.mask_blur),
}


@pytest.mark.parametrize("kind", AXES)
def test_fields_of_passes_and_masks_vary_in_a_grid(real, files, kind):
    from webui.tabs.lab.axes import read_axis
    from webui.tabs.lab.grid import make_grid

    mode, values, fact = AXES[kind]
    given = dict(image=files("a", scene()), mask=files("m", LEFT)) if mode == "img2img" else dict(hires_scale=1.5)
    grid = make_grid(real, Request(mode=mode, steps=2, **given), [read_axis(kind, values, real.registry)])
    first, second = (fact(cell) for cell in grid.possible)
    assert first != second


def test_a_grid_varies_the_mask_blur(real, files):
    from webui.tabs.lab.axes import read_axis
    from webui.tabs.lab.grid import make_grid

    base = Request(mode="img2img", image=files("a", scene()), mask=files("m", LEFT), prompt="x", steps=2)
    grid = make_grid(real, base, [read_axis("mask_blur", "0, 8", real.registry)])
    first, second = (grid.source(cell) for cell in grid.possible)
    assert np.asarray(second.soft_mask).astype(int).sum() > np.asarray(first.soft_mask).astype(int).sum()
