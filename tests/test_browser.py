"""The page as a visitor has it: a real browser on a real server, with a toy model that is as slow as a test wants."""

import os
import re
from urllib.parse import urlsplit

import pytest
from pages import CHROMIUM, idle, served
from PIL import Image
from playwright import sync_api

pytestmark = pytest.mark.browser
FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync"
FLAGS += " --disable-background-networking --disable-component-update"
SLOW = 0.25  # seconds a network call, for what has to be seen while it runs
PATIENCE = 60_000  # milliseconds, on a machine that may be busy
# Keeps what page.js answers to each choice that Gradio tells of.
LISTEN = """() => {
  const chosen = window.sigmalab.chosen;
  window.heard = [];
  window.sigmalab.chosen = (...told) => { const answer = chosen(...told); window.heard.push(answer); return answer; };
}"""
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
expect = sync_api.expect
expect.set_options(timeout=PATIENCE)
# What Chromium says of a stream that was open when its page was closed or reloaded.
CLOSING = re.compile(
    r"AbortError|aborted|Connection errored out|Failed to fetch|network error|ERR_ABORTED|ERR_INCOMPLETE"
)


@pytest.fixture(scope="module")
def server(registry, tmp_path_factory):
    with served(registry, tmp_path_factory.mktemp("browser"), patience=120.0) as page:
        yield page


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as play:
        try:
            running = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        except sync_api.Error as error:
            message = f"Chromium cannot be started from {CHROMIUM} (set CHROMIUM to its path): {error}"
            (pytest.fail if os.environ.get("CI") else pytest.skip)(message)
        yield running
        running.close()


class Window:
    """A page that all tests of a file have in turn: where a browser has been before, it opens in half the time.

    stays  whether the page is left open as it is, for a test that takes it so
    """

    def __init__(self, browser, url):
        self._browser, self._url, self._page, self.stays = browser, url, None, False

    def as_left(self, viewport):
        """The page as the test before left it, with the first tab in front; None if none stayed."""
        if not self.stays or self._page.is_closed():
            return None
        self._page.set_viewport_size(viewport)
        self._page.get_by_role("tab", name="txt2img", exact=True).click()
        return self._page

    def fresh(self, viewport):
        """The page as that of a new visitor, who has not opened anything."""
        if self._page is None or self._page.is_closed():
            self._page = self._browser.new_context().new_page()
        self._page.context.clear_cookies()
        self._page.set_viewport_size(viewport)
        self.leave()
        self._page.evaluate("() => { localStorage.clear(); sessionStorage.clear(); }")
        return self._page

    def leave(self):
        """Leave the site; only a text of it remains open."""
        self.stays = False
        self.close_others()
        if self._page is not None and not self._page.is_closed():
            self._page.mouse.move(0, 0)
            self._page.goto(f"{self._url}/theme.css")

    def close_others(self):
        """Close what else a test opened."""
        for page in self._page.context.pages if self._page else ():
            if page is not self._page:
                page.close()


@pytest.fixture(scope="module")
def window(browser, server):
    return Window(browser, server.url)


@pytest.fixture
def visit(server, browser, window, request):
    """visit() opens the page as a new visitor; an error in the console or a request to another host fails the test.

    visit(stay=True) goes on with the page of the test before, if that one stayed as well: opening it costs seconds.
    Such a test sets everything that it depends on, so that it passes on a new page, too. After a failure it gets one.
    """
    opened, contexts, complaints, failed = [], [], [], request.session.testsfailed
    listeners = {
        "console": lambda message: complaints.append(message.text) if message.type == "error" else None,
        "pageerror": lambda error: complaints.append(str(error)),
        "request": lambda request: None if at_home(request.url, server.url) else complaints.append(request.url),
    }

    def new_page(viewport, context):
        if context is None and not opened:
            return window.fresh(viewport)
        if context is None:
            context = browser.new_context(viewport=viewport)
            contexts.append(context)
        return context.new_page()

    def open_page(viewport=DESKTOP, query="", context=None, stay=False):
        left = window.as_left(viewport) if stay else None
        page = left or new_page(viewport, context)
        window.stays |= stay
        opened.append(page)
        page.set_default_timeout(PATIENCE)
        for event, listener in listeners.items():
            page.on(event, listener)
        if left is None:
            page.goto(server.url + query)
            ready(page)
            unfold(page)
        return page

    server.pace.fast()
    yield open_page
    server.pace.fast()
    for context in contexts:
        context.close()
    for job in [*server.engine.queue.running, *server.engine.queue.waiting]:
        server.engine.stop(job)
    if window.stays and request.session.testsfailed == failed:
        window.close_others()
    else:
        window.leave()
    for page in opened:
        for event, listener in listeners.items():
            page.remove_listener(event, listener)
    idle(server.engine)
    assert not [text for text in complaints if not CLOSING.search(text)]


def at_home(url, home):
    return url.startswith(("data:", "blob:", "about:")) or urlsplit(url).netloc == urlsplit(home).netloc


def ready(page, mode="txt2img"):
    """The form is filled and described, and the tab is recognized."""
    expect(page.locator(f"#{mode}-plan")).to_contain_text("network call")
    page.wait_for_function("() => Boolean(sessionStorage.getItem('sigmalab-token'))")


def unfold(page):
    """Open what is for experts, where most of the controls are."""
    page.locator("[data-expert]").first.evaluate("box => box.ariaExpanded === 'true' || box.click()")


def settings(page, mode="txt2img"):
    """Open the settings on a phone."""
    page.locator(f".bench:has(#{mode}-generate) [data-sheet]").click()


def choose(page, box, name):
    page.locator(f"{box} input").click()
    page.get_by_role("option", name=name, exact=True).click()


def option(page, label, box="txt2img-samplers"):
    return page.locator(f"#{box}-options").get_by_label(f"number input for {label}", exact=True).locator("visible=true")


def outdate(page, box):
    """Mark what a box says, so that `renewed` can tell when it says something new."""
    page.locator(box).evaluate("box => box.querySelectorAll('.prose *').forEach(each => each.dataset.outdated = '')")


def renewed(page, box):
    expect(page.locator(f"{box} [data-outdated]")).to_have_count(0)


def generate(page, mode="txt2img"):
    outdate(page, f"#{mode}-message")
    page.locator(f"#{mode}-generate").click()


def finished(page, mode="txt2img"):
    renewed(page, f"#{mode}-message")
    expect(page.locator(f"#{mode}-picked")).to_contain_text("Seed")
    expect(page.locator(f"#{mode}-stop")).to_be_disabled()
    expect(page.locator(f"#{mode}-generate")).to_have_text("Generate")


def message(page, mode="txt2img"):
    return page.locator(f"#{mode}-message")


def seed_box(page, mode="txt2img"):
    return page.locator(f"#{mode}-seed input")


def test_a_model_with_a_card_shows_what_it_draws(visit, server):
    # The wall is there until there is a picture: this is the first test.
    page = visit(stay=True)
    expect(page.locator("#status")).to_contain_text("toy on cpu, ready")
    choose(page, "#txt2img-model", "other")
    prompt, words = page.locator("#txt2img-prompt textarea"), page.locator("#txt2img-tokens")
    expect(page.locator("#txt2img-wall .headline")).to_have_text("other draws two things.")
    prompt.fill("kitten ")
    expect(words).to_contain_text("other knows no kitten. Near: cat face")
    words.get_by_role("button", name="cat face").click()
    page.locator("#txt2img-chips").get_by_role("button", name="blue").click()
    expect(prompt).to_have_value("cat face on a blue background")
    page.locator("#txt2img-chips").get_by_role("button", name="rocket", exact=True).click()
    expect(prompt).to_have_value("rocket on a blue background")
    prompt.fill("cat fa")
    words.get_by_role("button", name="cat face").click()
    expect(prompt).to_have_value("cat face")
    # A picture of the wall draws one like it, and what is seen of a run that is stopped stays.
    prompt.fill("")
    server.pace.slow_after(5)
    page.locator("#txt2img-wall [data-prompt='cat face']").click()
    expect(page.locator("#txt2img-stage img")).to_be_visible()
    expect(prompt).to_have_value("cat face")
    page.locator("#txt2img-stop").click()
    server.pace.fast()
    expect(message(page)).to_contain_text("before a picture was finished")
    expect(page.locator("#txt2img-stage img")).to_be_visible()
    expect(page.locator("#txt2img-stage [role=progressbar]")).to_have_count(0)
    prompt.fill("wombat")
    generate(page)
    finished(page)
    expect(message(page)).to_contain_text("other does not know wombat. It draws two things. Try cat face")
    # The keyboard's focus is where it was, and arrow keys go along the tabs.
    expect(page.locator("#txt2img-generate")).to_be_focused()
    page.get_by_role("tab", name="txt2img", exact=True).focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="img2img", exact=True)).to_have_attribute("aria-selected", "true")
    page.keyboard.press("Home")
    # Sizes that the model cannot make are folded, and it says so where they are asked for nevertheless.
    page.locator("[data-expert]").first.click()
    expect(page.locator("#txt2img-width input[type=number]")).to_be_hidden()
    sizes = page.locator("#txt2img-shapes")
    sizes.get_by_role("button", name="Other").click()
    expect(page.locator("#txt2img-width input[type=number]")).to_be_focused()
    # Between two steps of the slider.
    page.locator("#txt2img-width input[type=number]").fill("136")
    page.keyboard.press("Tab")
    expect(page.locator("#txt2img-plan")).to_contain_text("other was trained on 64 × 64 pixels")
    expect(sizes.get_by_role("button", name=re.compile("136 × 64"))).to_have_attribute("aria-pressed", "true")
    sizes.get_by_role("button", name="64 × 64", exact=True).click()
    expect(page.locator("#txt2img-width input[type=number]")).to_have_value("64")
    choose(page, "#txt2img-model", "toy")
    # Folded and unfolded by its button, it is found unfolded the next time.
    for _ in range(2):
        page.locator("[data-expert]").first.click()


def test_an_example_becomes_a_picture(visit, server):
    page = visit(stay=True)
    page.get_by_role("button", name="red apple").first.click()
    expect(page.get_by_label("Prompt", exact=True).first).to_have_value("red apple")
    server.pace.slow_after(5)
    generate(page)
    preview = page.locator("#txt2img-stage img")
    expect(preview).to_be_visible()
    assert preview.get_attribute("src").startswith("data:image/jpeg;base64,")
    expect(message(page)).to_contain_text("step 5 of 20 · network call 5 of 20")
    expect(page.locator("#txt2img-stop")).to_be_enabled()
    server.pace.fast()
    finished(page)
    seed = seed_box(page).input_value()
    expect(message(page)).to_contain_text(f"20 network calls · DDIM, Uniform leading · seed {seed}")
    expect(page.locator("#txt2img-gallery img").first).to_be_visible()
    with page.expect_download() as download:
        page.locator("#txt2img-download").click()
    assert download.value.path().read_bytes() in [saved.read_bytes() for saved in server.outputs.rglob("*.png")]
    assert download.value.suggested_filename.endswith(".png")


def test_keys_generate_and_stop(visit, server):
    page = visit(stay=True)
    server.pace.slow_after(5)
    page.get_by_label("Prompt", exact=True).first.fill("rocket")
    page.get_by_label("Prompt", exact=True).first.press("Control+Enter")
    expect(message(page)).to_contain_text("step 5 of 20")
    page.keyboard.press("Escape")
    expect(page.locator("#txt2img-stop")).to_be_disabled()
    server.pace.fast()
    expect(message(page)).to_contain_text("Stopped at step 5 of 20 before a picture was finished.")
    expect(page.locator("#txt2img-generate")).to_be_enabled()
    assert server.pace.calls == 0  # the call that was being made was the last
    idle(server.engine)


def test_a_menu_that_is_only_looked_into_changes_nothing(visit):
    """Gradio tells an input whenever a menu is left, and a choice twice."""
    page = visit(stay=True)
    guidance = page.locator("#txt2img-guidance input[type=number]")
    guidance.fill("3")
    choose(page, "#txt2img-sampler", "DDIM")
    for box in ("#txt2img-model", "#txt2img-sampler"):
        page.locator(f"{box} input").click()
        expect(page.get_by_role("option").first).to_be_visible()
        page.keyboard.press("Escape")
        page.keyboard.press("Tab")
    page.evaluate(LISTEN)
    choose(page, "#txt2img-sampler", "Euler")
    # What is typed into an option that has only just come is not overwritten by a second telling of the choice.
    option(page, "Churn").fill("3")
    choose(page, "#txt2img-schedule", "Karras")
    expect(option(page, "Rho", "txt2img-schedules")).to_be_visible()
    expect(option(page, "Churn")).to_have_value("3")
    expect(guidance).to_have_value("3")
    heard = page.evaluate("window.heard")
    assert len(heard) > 2 and len([answer for answer in heard if not isinstance(answer, dict)]) == 2
    # The keyboard chooses, too.
    page.locator("#txt2img-model input").click()
    page.keyboard.press("Control+a")
    page.keyboard.type("other")
    page.keyboard.press("Enter")
    expect(guidance).to_have_value("5")


def test_the_last_of_quick_choices_has_its_options(visit):
    page = visit(stay=True)
    for name in ("Euler", "k-diffusion DPM adaptive (bridge)", "DDPM", "Euler", "DDIM"):
        choose(page, "#txt2img-sampler", name)
    labels = page.locator("#txt2img-samplers-options [data-testid=block-info]").locator("visible=true")
    expect(labels).to_have_text(["Eta"])
    expect(page.locator("#txt2img-sampler input")).to_have_value("DDIM")


def test_options_keep_their_values_when_one_switches_back(visit):
    page = visit(stay=True)
    choose(page, "#txt2img-sampler", "DDIM")
    eta = option(page, "Eta")
    eta.fill("0.5")
    eta.press("Tab")
    expect(page.locator("#txt2img-note")).to_contain_text("tochastic")
    choose(page, "#txt2img-sampler", "Euler")
    expect(option(page, "Churn")).to_have_attribute("max", "100")
    expect(eta).to_have_count(0)
    choose(page, "#txt2img-schedule", "Karras")
    expect(option(page, "Rho", "txt2img-schedules")).to_be_visible()
    # Other kinds of controls between the same ones, in the order in which they are declared.
    choose(page, "#txt2img-sampler", "k-diffusion DPM adaptive (bridge)")
    labels = page.locator("#txt2img-samplers-options [data-testid=block-info]")
    expect(labels.locator("visible=true")).to_have_text(["Order", "Rtol", "Atol", "Eta", "S noise", "Max calls"])
    choose(page, "#txt2img-sampler", "DDPM")
    expect(page.locator("#txt2img-samplers-options")).to_be_hidden()
    choose(page, "#txt2img-sampler", "Flow")
    expect(page.locator("#txt2img-plan")).to_contain_text("as many network calls as it needs")
    expect(page.locator("#txt2img-schedule input")).to_be_disabled()
    expect(page.locator("#txt2img-schedule")).to_contain_text("makes its own steps")
    choose(page, "#txt2img-sampler", "DDIM")
    expect(page.locator("#txt2img-schedule")).not_to_contain_text("makes its own steps")
    expect(eta).to_have_value("0.5")
    expect(
        page.locator("#txt2img-samplers-options").get_by_label("range slider for Eta").locator("visible=true")
    ).to_have_value("0.5")
    expect(page.locator("#txt2img-schedule input")).to_be_enabled()
    generate(page)
    finished(page)
    expect(message(page)).to_contain_text("DDIM, Karras")
    page.locator("#txt2img-samplers-options").get_by_role("button", name="Defaults").click()
    expect(eta).to_have_value("0")
    expect(page.locator("#txt2img-note")).not_to_contain_text("tochastic")


def test_a_wrong_setting_is_explained_and_what_was_just_typed_is_used(visit, server):
    page = visit(stay=True)
    page.locator("#txt2img-steps input").fill("")
    generate(page)
    expect(message(page).locator("[role=alert]")).to_contain_text("Steps must be a whole number")
    page.locator("#txt2img-steps input").fill("3")
    option(page, "Eta").fill("0.25")
    outdate(page, "#txt2img-message")
    page.keyboard.press("Control+Enter")
    finished(page)
    job = server.engine.queue.finished[-1]
    assert job.request.options == {"eta": 0.25}


def test_stop_keeps_what_was_finished(visit, server):
    page = visit(stay=True)
    page.locator("#txt2img-count input").fill("6")
    page.locator("#txt2img-steps input").fill("30")
    server.pace.slow_after(30)
    generate(page)
    # Four fit into a batch; the other two are stopped.
    expect(page.locator("#txt2img-gallery .thumbnail-item")).to_have_count(4)
    page.locator("#txt2img-stop").click()
    expect(page.locator("#txt2img-stop")).to_be_disabled()
    server.pace.fast()
    expect(message(page)).to_contain_text("Stopped. 4 pictures finished before it.")
    expect(page.locator("#txt2img-gallery .thumbnail-item")).to_have_count(4)
    page.locator("#txt2img-gallery .thumbnail-item").nth(2).click()
    first = int(seed_box(page).input_value())
    expect(page.locator("#txt2img-picked code")).to_have_text(str((first + 2) % 2**32))
    page.locator("#txt2img-reuse").click()
    expect(seed_box(page)).to_have_value(str((first + 2) % 2**32))
    expect(page.locator("#txt2img-random input")).not_to_be_checked()


def test_img2img_shows_what_it_uses(visit, tmp_path, server):
    page = visit(stay=True)
    page.get_by_role("tab", name="img2img").click()
    (tmp_path / "bad.png").write_bytes(b"not a picture")
    page.locator("#img2img-image input[type=file]").set_input_files(tmp_path / "bad.png")
    expect(page.locator("#img2img-used [role=alert]")).to_contain_text("not a picture")
    generate(page, "img2img")
    expect(message(page, "img2img").locator("[role=alert]")).to_contain_text("not a picture")
    page.locator("#img2img-image").get_by_label("Remove Image").click()
    Image.new("RGB", (300, 200), "teal").save(tmp_path / "teal.png")
    page.locator("#img2img-image input[type=file]").set_input_files(tmp_path / "teal.png")
    expect(page.locator("#img2img-used")).to_contain_text("Used: 64 × 64, cropped from 300 × 200")
    page.locator("#img2img-fit").get_by_text("Pad").click()
    expect(page.locator("#img2img-used")).to_contain_text("padded with white from 300 × 200")
    plan = page.locator("#img2img-plan")
    expect(plan).to_contain_text("12 network calls")
    page.locator("#img2img-strength input[type=number]").fill("0.3")
    page.locator("#img2img-strength input[type=number]").press("Tab")
    expect(plan).to_contain_text("6 network calls")
    page.locator("#img2img-strength-as").get_by_text("Noise level").click()
    expect(plan).to_contain_text("30 % noise")
    generate(page, "img2img")
    finished(page, "img2img")
    assert server.engine.queue.finished[-1].request.fit == "pad"
    expect(message(page, "img2img")).to_contain_text("One picture")


def test_a_result_is_sent_to_img2img(visit):
    page = visit(stay=True)
    page.get_by_role("tab", name="img2img").click()
    page.locator("#img2img-fit").get_by_text("Crop").click()
    page.get_by_role("tab", name="txt2img").click()
    page.get_by_label("Prompt", exact=True).first.fill("sunflower")
    generate(page)
    finished(page)
    page.locator("#txt2img-send").click()
    expect(page.get_by_role("tab", name="img2img")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#img2img-used")).to_contain_text("Used: 64 × 64, scaled from 64 × 64")
    expect(page.locator("#img2img-prompt textarea")).to_have_value("sunflower")


def test_forms_and_pictures_survive_a_refresh(visit):
    page = visit(stay=True)
    closed = {"img2img": "img2img", "lab": "Lab"}
    churns = {mode: option(page, "Churn", f"{mode}-samplers") for mode in closed}

    def show(mode):
        page.get_by_role("tab", name=closed[mode], exact=True).click()
        if mode == "lab":
            page.get_by_role("button", name="Settings of the run").click()

    for mode, churn in churns.items():
        show(mode)
        choose(page, f"#{mode}-sampler", "Euler")
        with page.expect_response(lambda answer: "/predict" in answer.url and '"churn":12' in answer.text()):
            churn.fill("12")
            churn.press("Tab")
    page.get_by_role("tab", name="txt2img", exact=True).click()
    choose(page, "#txt2img-model", "toy")
    page.get_by_label("Prompt", exact=True).first.fill("octopus")
    page.locator("#txt2img-steps input").fill("5")
    choose(page, "#txt2img-sampler", "Euler")
    churn = option(page, "Churn")
    churn.fill("12")
    churn.press("Tab")
    choose(page, "#txt2img-schedule", "Karras")
    page.locator("#txt2img-width input[type=number]").fill("128")
    page.locator("#txt2img-width input[type=number]").press("Tab")
    expect(option(page, "Rho", "txt2img-schedules")).to_be_visible()
    generate(page)
    finished(page)
    said = message(page).inner_text()
    # The form is filled, and its options drawn after that.
    drawn = re.compile(r'\[\["Euler","Karras",[^\]]*\b1\]')
    with page.expect_response(lambda answer: drawn.search(answer.request.post_data or "")):
        page.reload()
    ready(page)
    finished(page)
    expect(message(page)).to_have_text(said)
    expect(page.locator("#txt2img-gallery img").first).to_be_visible()
    expect(page.get_by_label("Prompt", exact=True).first).to_have_value("octopus")
    expect(page.locator("#txt2img-sampler input")).to_have_value("Euler")
    expect(page.locator("#txt2img-schedule input")).to_have_value("Karras")
    expect(churn).to_have_value("12")
    expect(page.locator("#txt2img-width input[type=number]")).to_have_value("128")
    for mode, kept in churns.items():
        show(mode)
        expect(page.locator(f"#{mode}-sampler input")).to_have_value("Euler")
        expect(kept).to_have_value("12")


def test_a_phone_has_the_result_above_the_controls(visit):
    page = visit(PHONE, stay=True)
    page.get_by_role("button", name="rocket").first.click()
    generate(page)
    finished(page)
    wide = "() => document.documentElement.scrollWidth <= window.innerWidth"
    assert page.evaluate(wide)
    # Who has asked the system for no motion sees none.
    for asked, moving in (("reduce", "none"), ("no-preference", "all")):
        page.emulate_media(reduced_motion=asked)
        expect(page.locator("#txt2img-generate")).to_have_css("transition-property", moving)
    tops = [page.locator(box).bounding_box()["y"] for box in ("#txt2img-model", "#txt2img-prompt", "#txt2img-gallery")]
    assert tops == sorted(tops)
    # The settings come as a sheet, with Generate at the thumb below them, however far the page is scrolled.
    expect(page.locator("#txt2img-sampler")).to_be_hidden()
    settings(page)
    expect(page.locator("#txt2img-sampler input")).to_be_in_viewport()
    page.locator("#txt2img-variation").scroll_into_view_if_needed()
    page.get_by_role("button", name="Done", exact=True).click()
    expect(page.locator("#txt2img-sampler")).to_be_hidden()
    page.locator("#txt2img-picked").scroll_into_view_if_needed()
    generate_box = page.locator("#txt2img-generate").bounding_box()
    assert PHONE["height"] - 80 < generate_box["y"] < generate_box["y"] + generate_box["height"] < PHONE["height"]
    for tab in ("img2img", "Plugins"):
        page.get_by_role("tab", name=tab).click()
        assert page.evaluate(wide), tab
    page.go_back()
    expect(page.get_by_role("tab", name="img2img", exact=True)).to_have_attribute("aria-selected", "true")
    assert page.url.endswith("#img2img")
    page.go_forward()


def test_a_job_belongs_to_its_tab_and_waits_for_it_to_come_back(visit, server):
    page = visit(stay=True)
    context, working = page.context, re.compile(r"network call \d+ of \d+000")
    # A tab that made pictures before is as much one of its own.
    generate(page)
    finished(page)
    server.pace.seconds = SLOW
    page.locator("#txt2img-steps input").fill("1000")
    generate(page)
    # The run before may have been stopped at a step of 1000, too.
    renewed(page, "#txt2img-message")
    expect(message(page)).to_contain_text(working)
    expect(page.locator("#txt2img-stage img")).to_be_visible()
    (running,) = server.engine.queue.running
    page.reload()
    ready(page)
    expect(message(page)).to_contain_text(working)
    expect(page.locator("#txt2img-stage img")).to_be_visible()
    expect(page.locator("#txt2img-steps input")).to_have_value("1000")
    assert server.engine.queue.running == (running,)
    # Another tab of the same browser and another browser see nothing of it, and their Stop stops nothing.
    for other in (visit(context=context), visit()):
        expect(message(other)).to_contain_text("Nothing made yet")
        expect(other.locator("#txt2img-stop")).to_be_disabled()
        other.keyboard.press("Escape")
    generate(other)
    expect(message(other)).to_contain_text("Waiting: 1 job ahead")
    other.locator("#txt2img-stop").click()
    expect(message(other)).to_contain_text("Stopped")
    assert running.state == "running"
    page.locator("#txt2img-stop").click()
    expect(message(page)).to_contain_text("Stopped")
    assert running.state == "stopped"
    # Of several tabs, a new one is told what the one that began a job last has left.
    generate(page)
    renewed(page, "#txt2img-message")
    expect(message(page)).to_contain_text(working)
    (running,) = server.engine.queue.running
    for each in context.pages:
        each.close()
    page = visit(context=context)
    expect(message(page)).to_contain_text(working)
    assert server.engine.queue.running == (running,)
    server.engine.queue.patience, before = 1.0, server.engine.queue.patience
    try:
        page.close()
        assert running.wait(30) and running.state == "stopped"
    finally:
        server.engine.queue.patience = before
