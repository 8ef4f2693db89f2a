"""PNG Info, replay, links, export and history as a visitor has them, in a real browser on a toy model."""

import threading
from urllib.parse import urljoin, urlsplit

from conftest import write_png
from pages import idle
from PIL import Image
from test_browser import (  # noqa: F401  (fixtures)
    PHONE,
    browser,
    choose,
    expect,
    finished,
    generate,
    message,
    option,
    pytestmark,
    ready,
    seed_box,
    server,
    settings,
    visit,
    window,
)
from test_importers import A1111
from test_metadata import png

from webui.core.picture_metadata import read_picture
from webui.tabs.history.history_index import END
from webui.tabs.history.history_store import History
from webui.tabs.history.history_tab import PAGE


def made(page, prompt="red apple", **numbers):
    """Make pictures and wait for them."""
    page.get_by_label("Prompt", exact=True).first.fill(prompt)
    for name, value in ({"steps": 3, "count": 1} | numbers).items():
        page.locator(f"#txt2img-{name} input").fill(str(value))
    generate(page)
    finished(page)


def drop(page, path):
    """Put a picture into PNG Info."""
    page.get_by_role("tab", name="PNG Info").click()
    remove = page.locator("#info-image").get_by_label("Remove Image")
    if remove.count():
        remove.click()
    page.locator("#info-image input[type=file]").set_input_files(path)


def edit_and_keep(page, steps):
    """Change the steps and wait until the browser has stored the form; each time the stored text is another."""
    before = page.evaluate("() => localStorage.getItem('sigmalab-txt2img')")
    page.locator("#txt2img-steps input").fill(steps)
    page.locator("#txt2img-steps input").press("Tab")
    expect(page.locator("#txt2img-plan")).to_contain_text(f"{steps} network calls")
    page.wait_for_function("(before) => localStorage.getItem('sigmalab-txt2img') !== before", arg=before)


def test_a_result_is_replayed_with_one_click(visit):  # noqa: F811
    page = visit(stay=True)
    made(page, count=3)
    page.locator("#txt2img-gallery .thumbnail-item").nth(1).click()
    page.locator("#txt2img-again").click()
    expect(page.get_by_role("tab", name="PNG Info")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#info-verdict .verdict.equal")).to_contain_text("bit-equal")
    expect(page.locator("#info-facts")).to_contain_text("red apple")
    expect(page.locator("#info-replay")).to_be_enabled()
    expect(page.locator("#info-stop")).to_be_disabled()


def test_a_changed_picture_differs_and_a_long_replay_can_be_stopped(visit, server, tmp_path):  # noqa: F811
    page = visit(stay=True)
    made(page, steps=40)
    (path,) = [one for one in server.outputs.rglob("*.png") if read_picture(one).record.data["request"]["steps"] == 40]
    record = read_picture(path).record.data
    write_png(Image.open(path).point(lambda value: min(255, value + 5)), tmp_path / "touched.png", record)
    drop(page, tmp_path / "touched.png")
    page.locator("#info-replay").click()
    expect(page.locator("#info-verdict .verdict.differs")).to_contain_text("differs by at most 5/255")
    expect(page.locator("#info-verdict img")).to_be_visible()
    server.pace.slow_after(5)
    page.locator("#info-replay").click()
    expect(page.locator("#info-verdict")).to_contain_text("step 5 of 40")
    page.locator("#info-stop").click()
    expect(page.locator("#info-stop")).to_be_disabled()
    server.pace.fast()
    expect(page.locator("#info-verdict [role=alert]")).to_contain_text("The replay was stopped.")
    expect(page.locator("#info-replay")).to_be_enabled()
    # Another picture ends the replay of the one before, and takes its words away.
    server.pace.slow_after(5)
    page.locator("#info-replay").click()
    expect(page.locator("#info-verdict")).to_contain_text("step 5 of 40")
    drop(page, path)
    expect(page.locator("#info-verdict")).to_have_text("")
    expect(page.locator("#info-stop")).to_be_disabled()
    server.pace.fast()
    idle(server.engine)
    page.locator("#info-replay").click()
    expect(page.locator("#info-verdict .verdict.equal")).to_contain_text("bit-equal")


def test_our_own_settings_go_to_img2img_with_the_picture(visit, tmp_path):  # noqa: F811
    page = visit(stay=True)
    page.get_by_role("tab", name="img2img").click()
    page.locator("#img2img-negative textarea").fill("blurry")
    page.get_by_role("tab", name="txt2img").click()
    choose(page, "#txt2img-sampler", "Euler")
    made(page, "sunflower")
    page.locator("#txt2img-info").click()
    expect(page.locator("#info-facts")).to_contain_text("Made by Sigmalab")
    page.locator("#info-to-img2img").click()
    expect(page.get_by_role("tab", name="img2img")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#img2img-prompt textarea")).to_have_value("sunflower")
    # What the picture was made without is not left over from before.
    expect(page.locator("#img2img-negative textarea")).to_have_value("")
    expect(page.locator("#img2img-sampler input")).to_have_value("Euler")
    expect(page.locator("#img2img-used")).to_contain_text("Used: 64 × 64")


def test_what_cannot_be_read_is_explained(visit, tmp_path):  # noqa: F811
    page = visit(stay=True)
    (tmp_path / "bad.png").write_bytes(b"not a picture")
    for path, said in (
        (png(tmp_path / "plain.png"), "carries no settings"),
        (tmp_path / "bad.png", "not a picture"),
        (png(tmp_path / "broken.png", ("sigmalab", "{")), "damaged"),
    ):
        drop(page, path)
        expect(page.locator("#info-facts [role=alert]")).to_contain_text(said)
        expect(page.locator("#info-to-txt2img")).to_be_disabled()


def test_a_picture_leaves_in_the_chosen_format(visit, tmp_path):  # noqa: F811
    page = visit(stay=True)
    made(page, "blue whale", count=2)
    seed = int(page.locator("#txt2img-picked code").inner_text()) + 1
    page.locator("#txt2img-gallery .thumbnail-item").nth(1).click()
    expect(page.locator("#txt2img-picked code")).to_have_text(str(seed))
    for kind, ending in (("JPEG", ".jpg"), ("WebP", ".webp"), ("PNG", ".png")):
        choose(page, "#txt2img-format", kind)
        for _ in range(20):
            with page.expect_download() as download:
                page.locator("#txt2img-download").click()
            if download.value.suggested_filename.endswith(ending):
                break
            page.wait_for_timeout(500)  # the server is still converting, and the button has the file before it
        download.value.save_as(tmp_path / f"out{ending}")
        assert Image.open(tmp_path / f"out{ending}").format == kind.upper()
        assert read_picture(tmp_path / f"out{ending}").record.data["image"]["seed"] == seed


def test_png_info_fits_a_phone(visit):  # noqa: F811
    page = visit(PHONE, stay=True)
    settings(page)
    made(page)
    page.locator("#txt2img-info").click()
    expect(page.locator("#info-facts")).to_contain_text("Made by")
    assert page.evaluate("() => document.documentElement.scrollWidth <= window.innerWidth")


def test_history_turns_pages_whatever_is_still_on_its_way(visit, server, monkeypatch):  # noqa: F811
    page = visit(stay=True)
    made(page, "page after page", count=30, steps=2)
    page.get_by_role("tab", name="History").click()
    note, items = page.locator("#history-note"), page.locator("#history-gallery .thumbnail-item")
    expect(note).to_contain_text("Page 1")
    find, asked, turned, go_on = History.find, threading.Event(), threading.Event(), threading.Event()

    def late(history, prompt, sampler, model, before, limit, **names):
        if limit == PAGE:  # for the page after this one
            turned.set()
        elif prompt == "page after" and before == END:
            asked.set()
            go_on.wait(60)
        return find(history, prompt, sampler, model, before, limit, **names)

    monkeypatch.setattr(History, "find", late)
    page.locator("#history-prompt textarea, #history-prompt input").fill("page after")
    assert asked.wait(60)
    page.locator("#history-older").click()
    assert turned.wait(60)
    go_on.set()
    expect(note).to_contain_text("Page 2")
    expect(items).to_have_count(6)
    page.locator("#history-newer").click()
    expect(note).to_contain_text("Page 1")
    expect(items).to_have_count(24)
    # Who comes back sees the newest.
    page.locator("#history-older").click()
    expect(note).to_contain_text("Page 2")
    page.get_by_role("tab", name="txt2img").click()
    page.get_by_role("tab", name="History").click()
    expect(note).to_contain_text("Page 1")


def test_history_is_searched_and_sends(visit, server):  # noqa: F811
    page = visit(stay=True)
    choose(page, "#txt2img-sampler", "Heun")
    made(page, "crescent moon over hills", count=2, steps=5)
    page.get_by_role("tab", name="History").click()
    items = page.locator("#history-gallery .thumbnail-item")
    page.locator("#history-prompt textarea, #history-prompt input").fill("")
    expect(items.first).to_contain_text("crescent moon")
    page.locator("#history-prompt textarea, #history-prompt input").fill("hill cres")
    expect(items).to_have_count(2)
    choose(page, "#history-sampler", "Heun")
    expect(items).to_have_count(2)
    items.nth(0).click()
    expect(page.locator("#history-picked")).to_contain_text("Heun · toy · seed")
    first = page.locator("#history-picked .note").inner_text()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#history-picked .note")).not_to_have_text(first)
    expect(page.locator("#history-recipe")).to_contain_text("crescent moon over hills")
    expect(page.locator("#history-gallery .selected")).to_have_count(1)
    page.locator("#history-delete").click()
    expect(items).to_have_count(1)
    page.locator("#history-undo").click()
    expect(items).to_have_count(2)
    page.locator("#history-undo").wait_for(state="hidden")
    items.nth(1).click()
    page.locator("#history-heart").click()
    expect(page.locator("#history-heart")).to_have_text("♥ Heart")
    page.locator("#history-info").click()
    expect(page.locator("#info-facts")).to_contain_text("crescent moon over hills")
    page.get_by_role("tab", name="History").click()
    expect(page.locator("#history-actions")).to_be_hidden()
    items.nth(1).click()
    page.locator("#history-to-txt2img").click()
    expect(page.locator("#txt2img-prompt textarea")).to_have_value("crescent moon over hills")
    expect(page.locator("#txt2img-steps input")).to_have_value("5")
    # The tab may come to the front after its values, and would take the place of one that was clicked meanwhile.
    expect(page.get_by_role("tab", name="txt2img")).to_have_attribute("aria-selected", "true")
    page.get_by_role("tab", name="History").click()
    page.locator("#history-prompt textarea, #history-prompt input").fill("nothing like it")
    expect(page.locator("#history-note")).to_contain_text("No picture fits.")


def test_settings_of_another_program_are_shown_escaped_and_sent(visit, tmp_path):  # noqa: F811
    page = visit(stay=True)
    text = A1111.replace("of a cat", "of a <img src=x onerror=alert(1)> cat")
    drop(page, png(tmp_path / "a1111.png", ("parameters", text)))
    facts = page.locator("#info-facts")
    expect(facts).to_contain_text("Made by AUTOMATIC1111")
    expect(facts).to_contain_text("<img src=x onerror=alert(1)>")
    expect(facts.locator("img")).to_have_count(0)
    expect(facts.locator("[role=alert]")).to_contain_text(
        "Model 'v1-5-pruned-emaonly' is not in weights/; the form keeps the model that it has."
    )
    expect(page.locator("#info-replay")).to_be_disabled()
    page.locator("#info-to-txt2img").click()
    expect(page.get_by_role("tab", name="txt2img")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#txt2img-sampler input")).to_have_value("DPM++ 2M")
    expect(page.locator("#txt2img-schedule input")).to_have_value("Karras")
    expect(page.locator("#txt2img-steps input")).to_have_value("25")
    expect(seed_box(page)).to_have_value("3141592653")
    expect(page.locator("#txt2img-model input")).to_have_value("toy")
    expect(message(page)).to_contain_text("ENSD: 31337.")
    # What waited for a model does not give way to that model's defaults.
    choose(page, "#txt2img-model", "other")
    # Its LoRA is not here, and is not left out silently.
    generate(page)
    expect(message(page).locator("[role=alert]")).to_contain_text("LoRA 'fluffy' is not in")
    page.locator("#txt2img-prompt textarea").fill("a cat")
    page.locator("#txt2img-steps input").fill("3")
    generate(page)
    finished(page)
    expect(page.locator("#txt2img-height input[type=number]")).to_have_value("768")
    expect(page.locator("#txt2img-schedule input")).to_have_value("Karras")


def test_a_wrong_link_says_so_and_loses_nothing(visit):  # noqa: F811
    page = visit()
    edit_and_keep(page, "33")
    page.goto(urljoin(page.url, "/?prompt=<b>hi</b>&steps=many&sampler=Nope&width=13"))
    told = message(page).locator("[role=alert]")
    expect(told).to_contain_text("Unknown sampler 'Nope'; known are Calibrated, DDIM")
    expect(told).to_contain_text("Steps must be a whole number from 1 to 1000.")
    expect(told).to_contain_text("Width 13 is not possible here; it stays 64.")
    expect(page.locator("#txt2img-steps input")).to_have_value("33")
    expect(page.get_by_label("Prompt", exact=True).first).to_have_value("<b>hi</b>")


def test_a_link_is_copied_and_opens_the_form_elsewhere(visit):  # noqa: F811
    page = visit(query="/?__theme=dark")
    page.get_by_label("Prompt", exact=True).first.fill("octopus & friends, 50 %")
    choose(page, "#txt2img-sampler", "Euler")
    churn = option(page, "Churn")
    churn.fill("3")
    churn.press("Tab")
    page.locator("#txt2img-steps input").fill("7")
    page.locator("#txt2img-link").click()
    expect(page.locator("#txt2img-link")).to_have_text("Link copied")
    address = urlsplit(page.url)
    assert (
        address.query.startswith("__theme=dark&prompt=octopus%20%26%20friends%2C%2050%20%25")
        and "options.churn=3" in address.query
    )
    # A stranger's browser: nothing of the first one's storage.
    other = visit(query=f"/?{address.query}")
    expect(message(other)).to_contain_text("The settings of the link are in the form.")
    expect(other.get_by_label("Prompt", exact=True).first).to_have_value("octopus & friends, 50 %")
    expect(other.locator("#txt2img-sampler input")).to_have_value("Euler")
    expect(option(other, "Churn")).to_have_value("3")
    expect(other.locator("#txt2img-steps input")).to_have_value("7")
    assert other.evaluate("() => document.body.classList.contains('dark')")
    # Whoever looks at a picture means that one.
    generate(other)
    finished(other)
    expect(other.locator("#sigmalab-told")).to_contain_text("One picture in")
    seed = seed_box(other).input_value()
    other.locator("#txt2img-link").click()
    expect(other.locator("#txt2img-link")).to_have_text("Link copied")
    assert f"seed={seed}" in urlsplit(other.url).query.split("&")
    # What was edited since outlives a reload, though the address is still the link's.
    edit_and_keep(other, "9")
    other.reload()
    ready(other)
    expect(other.locator("#txt2img-steps input")).to_have_value("9")


def test_a_link_for_img2img_opens_its_tab(visit):  # noqa: F811
    page = visit(query="/?mode=img2img&prompt=whale&strength=0.25")
    expect(page.get_by_role("tab", name="img2img")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#img2img-prompt textarea")).to_have_value("whale")
    expect(page.locator("#img2img-strength input[type=number]")).to_have_value("0.25")
