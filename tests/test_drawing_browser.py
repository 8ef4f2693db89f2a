"""Masks, a second pass and variations as a visitor has them, in a real browser on a toy model."""

import contextlib
import re
import zipfile

import numpy as np
from PIL import Image
from playwright.sync_api import Error as PlaywrightError
from test_browser import PATIENCE, PHONE, browser, expect, finished, pytestmark, server, settings, visit, window  # noqa: F401  (fixtures)

from webui.core.picture_metadata import read_picture
from webui.core.storage import input_path

#: A phone has a bar at its bottom, which would take the clicks.
IN_VIEW = "each => each.scrollIntoView({block: 'center'})"


def test_a_visitor_paints_a_mask_and_extends_the_picture(visit, server, tmp_path):  # noqa: F811
    Image.radial_gradient("L").resize((64, 64)).convert("RGB").save(tmp_path / "in.png")
    page = visit(PHONE, stay=True)
    page.get_by_role("tab", name="img2img").click()
    page.locator("#img2img-image input[type=file]").set_input_files(tmp_path / "in.png")
    page.get_by_label("Inpaint").check()
    canvas = page.locator("#img2img-editor canvas").first
    expect(canvas).to_be_visible()
    expect(page.locator("#img2img-used img")).to_be_visible()
    page.wait_for_function("() => document.querySelector('#img2img-editor canvas').width > 0")
    canvas.evaluate(IN_VIEW)
    box = canvas.bounding_box()
    left, middle = box["x"] + box["width"] * 0.45, box["y"] + box["height"] / 2

    # The editor takes a moment before it listens.
    mask_image = page.locator("#img2img-mask img")
    for _ in range(20):
        page.mouse.move(left, middle)
        page.mouse.down()
        page.mouse.move(left + box["width"] * 0.1, middle, steps=4)
        page.mouse.up()
        with contextlib.suppress(PlaywrightError):
            mask_image.wait_for(timeout=PATIENCE / 20)
            break
    expect(mask_image).to_be_visible()
    settings(page, "img2img")
    page.get_by_label("Extend by pixels: left, top, right, bottom").fill("0, 0, 16, 0")
    page.locator("#img2img-prompt textarea").fill("red apple")
    page.locator("#img2img-generate").click()
    expect(page.locator("#img2img-gallery img").first).to_be_visible()
    # A tab that came later is heard by screen readers, too.
    expect(page.locator("#sigmalab-told")).to_contain_text("One picture in")
    (path,) = server.outputs.glob("*/*-*.png")
    record = read_picture(path).record
    assert record.data["request"]["outpaint"] == [0, 0, 16, 0] and Image.open(path).size == (80, 64)
    mask = np.asarray(Image.open(input_path(server.outputs, record.mask_digest)))
    assert mask[32, 32] == 255 and mask[2, 2] == 0 and 0.005 < (mask > 127).mean() < 0.3
    page.get_by_label("Inpaint").uncheck()
    # What is folded away does not count.
    expect(page.locator("#img2img-editor")).to_be_hidden()
    expect(mask_image).to_have_count(0)
    # It comes back with the picture and without the strokes.
    page.get_by_label("Inpaint").check()
    expect(canvas).to_be_visible()


def test_a_visitor_upscales_a_result_and_adds_detail(visit, server):  # noqa: F811
    page = visit(stay=True)
    page.locator("#txt2img-prompt textarea").fill("red apple")
    page.locator("#txt2img-steps input").fill("2")
    page.locator("#txt2img-generate").click()
    page.locator("#txt2img-enlarge").click()
    expect(page.locator("#upscale-image img")).to_be_visible()
    page.locator("#upscale-scale input[type=number]").fill("1.5")
    page.locator("#upscale-scale input[type=number]").press("Tab")
    before = set(server.outputs.glob("*/*-*.png"))
    page.locator("#upscale-start").click()
    expect(page.locator("#upscale-message")).to_contain_text("Enlarged to 96 × 96")
    expect(page.locator("#upscale-compared img").first).to_be_visible()
    (path,) = set(server.outputs.glob("*/*-*.png")) - before
    record = read_picture(path).record
    assert record.is_upscaled and record.source.request["prompt"] == "red apple" and Image.open(path).size == (96, 96)
    with page.expect_download() as downloaded:
        page.locator("#upscale-download").click()
    assert downloaded.value.path().read_bytes() == path.read_bytes()
    page.get_by_label("Add detail").check()
    expect(page.locator("#upscale-prompt textarea")).to_have_value("red apple")
    page.locator("#upscale-start").click()
    expect(page.locator("#upscale-message")).to_contain_text("One picture in")
    (drawn,) = set(server.outputs.glob("*/*-*.png")) - before - {path}
    request = read_picture(drawn).record.data["request"]
    assert (request["mode"], request["scale"], request["strength"]) == ("img2img", 1.5, 0.3)
    assert Image.open(drawn).size == (96, 96)


def test_a_visitor_keeps_styles_and_presets(visit, server):  # noqa: F811
    page = visit({"width": 1440, "height": 900}, stay=True)
    prompt, steps = page.locator("#txt2img-prompt textarea"), page.locator("#txt2img-steps input")
    name, said = page.locator("#txt2img-keep-name").locator("input, textarea"), page.locator("#txt2img-presets-note")
    page.locator("#txt2img-presets").get_by_text("Styles and presets").click()
    prompt.fill("oil painting of {prompt}")
    name.fill("Oil")
    page.locator("#txt2img-keep-style").click()
    expect(said).to_contain_text("kept as the style Oil")
    page.locator("#txt2img-styles input").click()
    page.get_by_role("option", name="Oil").click()
    steps.fill("3")
    name.fill("Short")
    page.locator("#txt2img-keep-preset").click()
    expect(said).to_contain_text("kept as the preset Short")
    steps.fill("9")
    steps.press("Tab")
    expect(page.locator("#txt2img-plan")).to_contain_text("9 network calls")
    page.locator("#txt2img-preset input").click()
    page.get_by_role("option", name="Short").click()
    expect(steps).to_have_value("3")
    expect(said).to_contain_text("The settings of Short are in the form")

    before = set(server.outputs.glob("*/*-*.png"))
    prompt.fill("a cat")
    page.locator("#txt2img-generate").click()
    expect(page.locator("#txt2img-message")).to_contain_text("3 network calls")
    (record,) = (read_picture(path).record for path in set(server.outputs.glob("*/*-*.png")) - before)
    assert (record.request["prompt"], record.written["prompt"]) == ("oil painting of a cat", "a cat")


def test_a_visitor_draws_on_many_pictures(visit, server, tmp_path):  # noqa: F811
    page = visit(PHONE, stay=True)
    for number, name in enumerate(("a", "b")):
        Image.new("RGB", (64, 64), (90 * number, 120, 40)).save(tmp_path / f"{name}.png")
    (tmp_path / "c.png").write_bytes(b"no picture")
    page.get_by_role("tab", name="img2img").click()
    page.locator("#img2img-prompt textarea").fill("red apple")
    page.locator("#img2img-files").get_by_text("Many pictures").click()
    files = [tmp_path / f"{name}.png" for name in "abc"]
    page.locator("#img2img-files-pictures input[type=file]").set_input_files(files)
    expect(page.locator("#img2img-files-pictures")).to_contain_text(re.compile(r"c\s*\.png"))
    start = page.locator("#img2img-files-start")
    start.evaluate(IN_VIEW)
    start.click()
    expect(page.locator("#img2img-files-message")).to_contain_text("2 pictures from 2 of 3 files")
    expect(page.locator("#img2img-files-message")).to_contain_text("c.png: The file is not a picture")
    with page.expect_download() as downloaded:
        page.locator("#img2img-files-download").click()
    with zipfile.ZipFile(downloaded.value.path()) as archive:
        assert archive.namelist() == ["a.png", "b.png"]
    # The keys are Generate's, whatever else is unfolded.
    remove = page.locator("#img2img-image").get_by_label("Remove Image")
    if remove.is_visible():
        remove.click()
    page.locator("#img2img-prompt textarea").press("Control+Enter")
    expect(page.locator("#img2img-message [role=alert]")).to_contain_text("input picture")


def test_a_visitor_puts_pictures_behind_one_another(visit, server):  # noqa: F811
    page = visit(viewport={"width": 1440, "height": 900})
    prompt, start, queue = (page.locator(f"#txt2img-{name}") for name in ("prompt textarea", "generate", "queue li"))
    page.locator("#txt2img-steps input").fill("3")
    before = set(server.outputs.glob("*/*-*.png"))
    server.pace.slow_after(1)
    for waiting, words in enumerate(("first", "second", "third", "fourth")):
        prompt.fill(words)
        start.click()
        expect(start).to_have_text("Add to queue")
        expect(queue).to_have_count(waiting)
    expect(queue).to_contain_text(["second", "third", "fourth"])
    page.get_by_label("Earlier: fourth").click()
    expect(queue).to_contain_text(["second", "fourth", "third"])
    # The keyboard's focus stays on the button, and the list outlives a reload.
    expect(page.get_by_label("Earlier: fourth")).to_be_focused()
    page.keyboard.press("Enter")
    expect(queue).to_contain_text(["fourth", "second", "third"])
    # Until it is filled again, the page does not say that nothing was made.
    page.reload(wait_until="commit")
    expect(page.locator("html")).to_have_class(re.compile("reopening"))
    expect(queue).to_contain_text(["fourth", "second", "third"])
    expect(page.locator("html")).not_to_have_class(re.compile("reopening"))
    page.get_by_label("Cancel: second").click()
    # The texts alone would be found in the list as it was before, too.
    expect(queue).to_have_count(2)
    expect(queue).to_contain_text(["fourth", "third"])
    server.pace.fast()
    expect(start).to_have_text("Generate")
    expect(queue).to_have_count(0)
    drawn = sorted(set(server.outputs.glob("*/*-*.png")) - before, key=lambda path: path.stat().st_mtime_ns)
    assert [read_picture(path).record.data["request"]["prompt"] for path in drawn] == ["first", "fourth", "third"]


def test_a_visitor_enlarges_a_picture_and_varies_it(visit, server):  # noqa: F811
    page = visit(stay=True)
    page.locator("#txt2img-prompt textarea").fill("red apple")
    page.locator("#txt2img-steps input").fill("4")
    page.locator("#txt2img-hires").get_by_text("Hires fix").click()
    page.locator("#txt2img-hires-scale input[type=number]").fill("2")
    page.locator("#txt2img-hires-scale input[type=number]").press("Tab")
    expect(page.locator("#txt2img-plan")).to_contain_text("Then 128 × 128, enlarged by Lanczos")
    expect(page.locator("#txt2img-plan")).to_contain_text("2 network calls more, starting at")
    before = set(server.outputs.glob("*/*-*.png"))
    page.locator("#txt2img-generate").click()
    expect(page.locator("#txt2img-message")).to_contain_text("6 network calls")
    (first,) = set(server.outputs.glob("*/*-*.png")) - before
    assert Image.open(first).size == (128, 128)
    page.locator("#txt2img-vary").click()
    expect(page.locator("#txt2img-message")).to_contain_text("4 pictures in")
    varied = set(server.outputs.glob("*/*-*.png")) - before - {first}
    records = [read_picture(path).record for path in varied]
    assert {record.seed for record in records} == {read_picture(first).record.seed}
    assert len({record.variation_seed for record in records}) == 4
