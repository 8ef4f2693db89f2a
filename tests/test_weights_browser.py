"""What a visitor sees of models and prompts: tokens, what cannot be used, and the folded options, in a real browser."""

import pytest
from conftest import toy
from pages import idle, served
from test_browser import DESKTOP, PHONE, browser, expect, ready, settings, visit, window  # noqa: F401 - fixtures, used by name

from webui.tabs.form.model_events import SHOWN, model_note, tokens_note
from weights.model_info import ModelInfo

pytestmark = pytest.mark.browser
EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def server(registry, tmp_path_factory):
    with served(registry, tmp_path_factory.mktemp("browser")) as page:
        refused = {"bad": f"bad.ckpt looks like {EVIL}"}
        page.engine.refused = lambda: refused
        page.refused = refused
        yield page


def test_tokens_are_counted_as_they_are_typed(visit):  # noqa: F811
    page = visit(stay=True)
    tokens = page.locator("#txt2img-tokens")
    expect(tokens).to_have_text("0 of 75 tokens")
    page.fill("#txt2img-prompt textarea", "a red apple")
    expect(tokens).to_have_text("3 of 75 tokens")


def test_what_cannot_be_used_is_told_and_not_run(visit):  # noqa: F811
    page = visit(stay=True)
    note = page.locator("#txt2img-model-note")
    expect(note).to_contain_text("One file in weights/ cannot be used")
    note.locator("summary").click()
    expect(note.locator("li")).to_have_text(f"bad.ckpt looks like {EVIL}")
    assert note.locator("img").count() == 0


def test_folded_options_reach_the_picture_and_survive_a_reload(visit, server, monkeypatch):  # noqa: F811
    page = visit(PHONE, stay=True)
    more = page.locator("#txt2img-more")
    expect(page.locator("#txt2img-clip-skip input")).to_be_hidden()
    settings(page)
    more.locator("button").first.click()
    page.fill("#txt2img-clip-skip input", "2")
    page.fill("#txt2img-guidance-rescale input[type=number]", "0.5")
    page.fill("#txt2img-guidance-low input", "0.25")
    page.fill("#txt2img-guidance-high input", "6")
    page.locator("#txt2img-guidance-high input").blur()
    page.fill("#txt2img-steps input", "2")
    page.click("#txt2img-generate")
    expect(page.locator("#txt2img-message")).to_contain_text("One picture in")
    request = server.engine.queue.finished[-1].request
    assert request.conditioning == dict(
        clip_skip=2,
        guidance_rescale=0.5,
        guidance_low=0.25,
        guidance_high=6.0,
        prompt_syntax="full",
        size_condition=(0, 0, 0, 0),
        feature_reuse=1,
    )
    for viewport in (PHONE, DESKTOP):
        page.set_viewport_size(viewport)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), viewport
    # A checkpoint that comes in between is in the menu after the reload.
    found = server.engine.models()
    monkeypatch.setattr(server.engine, "models", lambda: found | {"newcomer": toy("newcomer")})
    page.reload()
    ready(page)
    page.locator("#txt2img-model input").click()
    expect(page.get_by_role("option", name="newcomer", exact=True)).to_be_visible()
    page.keyboard.press("Escape")
    page.locator("#txt2img-more button").first.click()
    expect(page.locator("#txt2img-clip-skip input")).to_have_value("2")
    expect(page.locator("#txt2img-guidance-high input")).to_have_value("6")
    idle(server.engine)


def test_an_empty_interval_is_told_on_the_page(visit):  # noqa: F811
    page = visit(stay=True)
    if page.locator("#txt2img-guidance-low input").is_hidden():
        page.locator("#txt2img-more button").first.click()
    page.fill("#txt2img-guidance-low input", "5")
    page.fill("#txt2img-guidance-high input", "1")
    page.locator("#txt2img-guidance-high input").blur()
    page.click("#txt2img-generate")
    expect(page.locator("#txt2img-message")).to_contain_text("high must be above low, or 0 for no upper end")


class TestNotes:
    def test_without_a_model_nothing_is_counted(self):
        assert tokens_note(None) == "" and "80 of 150 tokens" in tokens_note((80, 150))

    def test_everything_from_files_is_escaped(self):
        found = ModelInfo("x", None, None, "epsilon", 4, 8, None, notes=(EVIL,))
        assert "<img" not in model_note(found, {"a": EVIL}) and model_note(found, {"a": EVIL}).count("&lt;img") == 2

    def test_a_folder_full_of_them_is_a_short_list(self):
        text = model_note(None, {str(number): f"reason {number}" for number in range(SHOWN + 3)})
        assert text.count("<li>") == SHOWN + 1 and "and 3 more" in text and f"{SHOWN + 3} files" in text
        assert model_note(None, {}) == ""
