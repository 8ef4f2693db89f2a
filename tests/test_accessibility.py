"""The page for people who do not see it, see it badly or have no mouse: axe on every tab, a picture by the keyboard."""

import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from test_browser import DESKTOP, PHONE, browser, expect, server, visit, window  # noqa: F401  (fixtures)

pytestmark = pytest.mark.browser
# The rest is made of the same controls, and axe takes seconds for each.
TABS = ("txt2img", "Lab", "History")
LATE = {"Lab": "#compare-cost .note"}  # what says that a tab is built
COLOURS = {"runOnly": ["color-contrast"]}
# Colours take axe ten times as long as all the rest.
THE_REST = {"rules": {"color-contrast": {"enabled": False}}}


def violations(page, options):
    found = Axe().run(page, options=options).response["violations"]
    # Gradio writes the caption of a gallery's picture into its alt as well.
    found = [each for each in found if each["id"] != "image-redundant-alt"]
    return [(each["id"], [node["html"][:160] for node in each["nodes"][:4]]) for each in found]


def test_axe_finds_nothing(visit):  # noqa: F811
    page = visit(viewport=DESKTOP)
    # Else colours are caught on their way from light to dark.
    page.emulate_media(reduced_motion="reduce")
    found = {}
    for dark in (False, True):
        page.evaluate("dark => document.body.classList.toggle('dark', dark)", dark)
        found["colours", dark] = violations(page, COLOURS)
    page.set_viewport_size(PHONE)
    for tab in TABS:
        page.get_by_role("tab", name=tab).first.click()
        if tab in LATE:
            expect(page.locator(LATE[tab])).to_be_visible()
        found[tab] = violations(page, THE_REST)
    page.emulate_media(reduced_motion="no-preference")
    assert not {place: wrong for place, wrong in found.items() if wrong}


def test_a_picture_is_drawn_by_the_keyboard_alone(visit, server):  # noqa: F811
    page = visit(viewport=DESKTOP)
    keys = page.keyboard

    def until_focused(selector, key="Tab", most=60):
        for _ in range(most):
            if page.evaluate("box => Boolean(document.activeElement.closest(box))", selector):
                return
            keys.press(key)
        raise AssertionError(f"{selector} is not reached")

    page.evaluate("() => document.activeElement.blur()")
    until_focused("#txt2img-prompt")
    keys.type("red apple")
    # A chip of a row, along which the arrow keys go; its row is one stop.
    until_focused("#txt2img-chips button")
    keys.press("ArrowRight")
    until_focused("#txt2img-sampler")
    keys.press("Control+a")
    keys.type("Heun")
    keys.press("Enter")
    expect(page.locator("#txt2img-sampler input")).to_have_value("Heun")
    until_focused("#txt2img-steps input[type=number]")
    keys.press("Control+a")
    keys.type("4")
    until_focused("#txt2img-generate", "Shift+Tab")
    keys.press("Enter")
    expect(page.locator("#txt2img-message")).to_contain_text("7 network calls · Heun")
    # What is drawn is for the screen reader, too, and the focus is where it was.
    expect(page.locator("#sigmalab-told")).to_contain_text("One picture in")
    expect(page.locator("#txt2img-generate")).to_be_focused()
    until_focused("#txt2img-vary")
    keys.press("Enter")
    expect(page.locator("#txt2img-message")).to_contain_text("4 pictures in")
    keys.press("Shift+Tab")
    # The settings open, and leave by Escape, which stops nothing then.
    until_focused("[data-settings]", "Shift+Tab", 90)
    keys.press("Enter")
    expect(page.locator("#settings-sheet")).to_be_visible()
    page.get_by_label("Dark", exact=True).focus()
    keys.press("Space")
    expect(page.locator("body")).to_have_class(re.compile("dark"))
    keys.press("Escape")
    expect(page.locator("#settings-sheet")).to_be_hidden()
