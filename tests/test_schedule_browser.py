"""The Schedule tab as a visitor has it, in a real browser on a toy model."""

import json

import pytest
from pages import idle
from PIL import Image
from test_browser import (  # noqa: F401
    DESKTOP,
    PHONE,
    browser,
    choose,
    expect,
    finished,
    generate,
    option,
    seed_box,
    server,
    visit,
    window,
)

from samplers.schedule import noise_share, stable_diffusion
from webui.engine.run_preview import preview_run

pytestmark = pytest.mark.browser
SIGMAS = "#schedule-list textarea"
FIRST = ["Training of toy", "Uniform leading, offset 1, 20 steps"]
# Without the halos of guidance, which lie behind every run.
TRACES = """id => (document.querySelector(`#${id} .js-plotly-plot`)?.data || [])
    .filter(trace => !trace.name.startsWith("Guidance"))
    .map(trace => ({name: trace.name, x: [...trace.x], y: [...trace.y], visible: trace.visible ?? true}))"""


def opened(visit, viewport=DESKTOP, query=""):  # noqa: F811
    """The tab with the settings of the run that a new page has, which are in txt2img still; not with its looks."""
    page = visit(viewport, query, stay=not query)
    page.get_by_role("tab", name="Schedule", exact=True).click()
    part(page, "The run")
    page.locator("#schedule-take-txt2img").click()
    until_drawn(page, FIRST)
    expect(page.locator("#schedule-facts")).to_contain_text("network call")
    return page


def part(page, name):
    page.get_by_role("tab", name=name).click()


def drawn(page, plot):
    page.wait_for_function(f"id => ({TRACES})(id).length > 0", arg=plot)


def traces(page, plot="schedule-plot"):
    return {trace["name"]: trace for trace in page.evaluate(TRACES, plot)}


def until_drawn(page, names, plot="schedule-plot"):
    page.wait_for_function(
        f"([id, names]) => JSON.stringify(({TRACES})(id).map(t => t.name)) == names",
        arg=[plot, json.dumps(names, separators=(",", ":"))],
    )


def fill(page, box, value):
    page.locator(f"{box} input[type=number]").fill(str(value))
    page.locator(f"{box} input[type=number]").press("Tab")


def open_file(page, file):
    with page.expect_file_chooser() as chooser:
        page.locator("#schedule-open").click()
    chooser.value.set_files(file)


def planned_sigmas(server, **fields):  # noqa: F811
    return list(preview_run(server.engine, fields).run.sigmas)


def shown_sigmas(page):
    return [float(number) for number in page.locator(SIGMAS).input_value().split(",")]


def test_plotly_begins_while_nothing_happens_and_not_on_a_phone(visit):  # noqa: F811
    fetched = []
    phone = visit(PHONE)
    phone.on("request", lambda request: fetched.append(request.url))
    desktop = visit(DESKTOP)
    with desktop.expect_request("**/PlotlyPlot-*", timeout=60000):
        desktop.mouse.move(5, 5)
    assert not any("PlotlyPlot" in url for url in fetched)


def test_a_curve_is_drawn_by_hand(visit):  # noqa: F811
    page = opened(visit)
    editor = page.locator(".curve-editor")
    run = shown_sigmas(page)[:-1]
    editor.get_by_text("Edit this run's curve").click()
    until_drawn(page, ["Training of toy", "Custom, 20 steps"])
    assert shown_sigmas(page) == [*run, 0]
    point = editor.locator("[data-point='6']")
    point.scroll_into_view_if_needed()
    box = point.bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(*middle)
    page.mouse.down()
    # Far below the point behind it, where it has to stay above.
    page.mouse.move(middle[0], middle[1] + 60, steps=4)
    page.mouse.up()
    expect(point).to_have_attribute("aria-valuenow", f"{run[7] * 1.001:.4g}")
    page.wait_for_function(
        f"first => document.querySelector('{SIGMAS}').value.split(', ')[6] != first", arg=str(run[6])
    )
    assert shown_sigmas(page) == [*run[:6], float(f"{run[7] * 1.001:.4g}"), *run[7:], 0]
    expect(point).to_be_focused()
    point.press("ArrowUp")
    expect(point).to_have_attribute("aria-valuenow", f"{run[7] * 1.001 * 1.05:.4g}")
    point.press("ArrowRight")
    expect(editor.locator("[data-point='7']")).to_be_focused()
    undo = editor.get_by_text("Undo")
    undo.click()
    undo.click()
    page.wait_for_function(
        f"first => document.querySelector('{SIGMAS}').value.split(', ')[6] == first", arg=str(run[6])
    )
    # What is typed is drawn, and what is no list of numbers is left alone.
    page.locator("#schedule-paste textarea").fill("9, 3, 1")
    expect(editor.locator("circle")).to_have_count(3)
    page.locator("#schedule-paste textarea").fill("9, x")
    expect(editor.locator("circle")).to_have_count(0)


def test_the_list_drawn_is_the_list_run(visit, server):  # noqa: F811
    page = opened(visit)
    choose(page, "#schedule-schedule", "Karras")
    fill(page, "#schedule-steps", 12)
    until_drawn(page, ["Training of toy", "Karras, rho 7, 12 steps"])
    wanted = planned_sigmas(server, schedule="Karras", steps=12)
    assert shown_sigmas(page) == wanted
    assert traces(page)["Karras, rho 7, 12 steps"]["y"] == pytest.approx([*wanted[:-1], None])
    # The very run, by the form that takes over these settings.
    page.locator("#schedule-use-txt2img").click()
    expect(page.locator("#txt2img-schedule input")).to_have_value("Karras")
    expect(page.locator("#txt2img-steps input")).to_have_value("12")
    expect(page.locator("#txt2img-plan")).to_contain_text("12 network calls")
    generate(page)
    finished(page)
    page.get_by_role("tab", name="Schedule", exact=True).click()
    page.locator("#schedule-last").click()
    until_drawn(page, ["Training of toy", "Karras, rho 7, 12 steps", "Run: DDIM, Karras, 12 steps"])
    expect(page.locator("#schedule-message")).to_contain_text(
        "12 network calls. Guidance 5 acts in all 12 steps. The same settings run the same list here."
    )
    assert traces(page)["Run: DDIM, Karras, 12 steps"]["y"] == pytest.approx([*wanted[:-1], None])


def test_settings_come_from_a_form_and_a_run_from_a_file(visit, server):  # noqa: F811
    page = visit(stay=True)
    choose(page, "#txt2img-sampler", "Heun")
    choose(page, "#txt2img-schedule", "Uniform leading")
    page.locator("#txt2img-steps input").fill("200")
    page.locator("#txt2img-steps input").press("Tab")
    expect(page.locator("#txt2img-plan")).to_contain_text("399 network calls")
    page.locator("#txt2img-steps input").fill("7")
    page.locator("#txt2img-more").get_by_role("button").click()
    page.locator("#txt2img-guidance-low input").fill("1")
    generate(page)
    finished(page)
    page.get_by_role("tab", name="Schedule", exact=True).click()
    page.locator("#schedule-take-txt2img").click()
    expect(page.locator("#schedule-facts")).to_contain_text("13 network calls")
    expect(page.locator("#schedule-facts")).to_contain_text("Guidance 5 acts in 7 of 13 network calls (sigma above 1).")
    saved = max(server.outputs.rglob("*.png"), key=lambda path: path.stat().st_mtime)
    open_file(page, saved)
    expect(page.locator("#schedule-message")).to_contain_text(
        "Run: Heun, Uniform leading, 7 steps on toy: 13 network calls. Guidance 5 acts in 4 of 7 steps"
    )
    plain = server.outputs / "plain.png"
    Image.new("RGB", (8, 8)).save(plain)
    open_file(page, plain)
    expect(page.locator("#schedule-message")).to_contain_text("carries no settings")
    plain.unlink()


def test_a_pasted_list_is_the_schedule_custom(visit, server):  # noqa: F811
    page = visit(stay=True)
    page.get_by_role("tab", name="Schedule", exact=True).click()
    page.locator("#schedule-clear").click()
    choose(page, "#schedule-sampler", "DDIM")
    paste = page.locator("#schedule-paste textarea")
    paste.fill("3, 5, 1")
    page.locator("#schedule-paste-use").click()
    expect(page.locator("#schedule-facts")).to_contain_text("Number 2 is 5, not below 3 before it")
    paste.fill("[9.5; 4 1.25\n0.3, 0]")
    page.locator("#schedule-paste-use").click()
    expect(page.locator("#schedule-paste-message")).to_contain_text("Custom now, of 4 steps")
    until_drawn(page, ["Training of toy", "Custom, 4 steps"])
    assert shown_sigmas(page) == [9.5, 4.0, 1.25, 0.3, 0.0]
    page.locator("#schedule-use-txt2img").click()
    expect(page.locator("#txt2img-schedule input")).to_have_value("Custom")
    expect(page.locator("#txt2img-plan")).to_contain_text(
        "4 network calls a picture, starting at 98.9 % noise (sigma 9.5)"
    )
    generate(page)
    finished(page)
    page.get_by_role("tab", name="Schedule", exact=True).click()
    page.locator("#schedule-last").click()
    expect(page.locator("#schedule-message")).to_contain_text("The same settings run the same list here.")


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_texts_of_plots_follow_light_and_dark(visit, theme):  # noqa: F811
    page = opened(visit, query="?__theme=dark" if theme == "dark" else "")
    fill_of = "box => getComputedStyle(document.querySelector(box)).fill"
    text = page.evaluate(fill_of, "#schedule-plot .xtitle")
    red, green, blue = (int(part) for part in text[text.index("(") + 1 : -1].split(",")[:3])
    assert (red + green + blue > 500) == (theme == "dark")


def test_trainings_can_be_played_with(visit):  # noqa: F811
    page = opened(visit)
    part(page, "How models are trained")
    until_drawn(page, ["Training of toy", "scaled linear", "cosine", "flow"], "training-plot")
    page.locator("#training-zero input").check()
    fill(page, "#training-shift", 3)
    names = [
        "Training of toy",
        "scaled linear",
        "scaled linear, zero terminal SNR",
        "cosine",
        "cosine, zero terminal SNR",
        "flow",
        "flow, shift 3",
    ]
    until_drawn(page, names, "training-plot")
    expect(page.locator("#training-table")).to_contain_text("6.8 %")
    expect(page.locator("#training-sentence")).to_contain_text("where the network never was")
    page.get_by_label("sigmoid").click()
    until_drawn(page, [*names, "sigmoid", "sigmoid, zero terminal SNR"], "training-plot")
    page.locator("#training-start input").fill("0.09")
    page.locator("#training-start input").press("Tab")
    expect(page.locator("#training-sentence")).to_contain_text("it has to be below the last one")


def test_a_picture_goes_into_noise(visit, server):  # noqa: F811
    page = opened(visit)
    part(page, "A picture into noise")
    drawn(page, "forward-plot")
    caption = page.locator("#forward-pictures figcaption").nth(1)
    expect(caption).to_contain_text("Time 0.35")
    fill(page, "#forward-time", 1)
    expect(caption).to_contain_text("Time 1: sigma 14.6, 99.5 % noise")
    page.wait_for_function(f"() => Math.abs(Math.max(...({TRACES})('forward-plot')[1].y) - 0.4) < 0.05")
    expect(page.locator("#forward-strip figure")).to_have_count(8)
    page.get_by_label("variance exploding").click()
    expect(page.locator("#forward-sentence")).to_contain_text("far beyond black and white")
    page.wait_for_function(f"() => ({TRACES})('forward-plot')[1].x[0] < -50")
    page.locator("#forward-deep input").check()
    expect(page.locator("#forward-latents")).to_contain_text("In latents: sigma 14.6")
    expect(page.locator("#forward-latents figure")).to_have_count(10)
    page.locator("#forward-deep input").uncheck()
    expect(page.locator("#forward-latents figure")).to_have_count(0)
    assert stable_diffusion().sigma_max == pytest.approx(14.6146, abs=1e-4)


def test_a_wrong_upload_is_explained_and_the_example_comes_back(visit, tmp_path):  # noqa: F811
    page = opened(visit)
    part(page, "A picture into noise")
    drawn(page, "forward-plot")
    (tmp_path / "text.png").write_text("no picture")
    page.locator("#forward-image input[type=file]").set_input_files(tmp_path / "text.png")
    expect(page.locator("#forward-message")).to_contain_text("not a picture that can be read")
    page.locator("#forward-last").click()
    expect(page.locator("#forward-message")).to_contain_text("There is no result yet")
    page.locator("#forward-example").click()
    expect(page.locator("#forward-message .problem")).to_have_count(0)
    expect(page.locator("#forward-pictures figure")).to_have_count(2)


def test_no_model_is_loaded_for_the_curves(visit, server):  # noqa: F811
    idle(server.engine)
    calls, model = server.pace.calls, server.engine.opened_model
    page = opened(visit)
    choose(page, "#schedule-model", "other")
    until_drawn(page, ["Training of other", "Uniform leading, offset 1, 20 steps"])
    assert server.engine.opened_model is model and model.name == "toy" and server.pace.calls == calls


def test_strength_cuts_the_schedule_and_both_meanings_are_told(visit, server):  # noqa: F811
    page = opened(visit)
    choose(page, "#schedule-schedule", "Karras")
    fill(page, "#schedule-strength", 0.6)
    rows = page.locator("#schedule-facts tbody tr")
    expect(rows.nth(0)).to_contain_text("12")
    expect(rows.nth(0)).to_contain_text("80 %")
    expect(rows.nth(1)).to_contain_text("60 %")
    sigmas = planned_sigmas(server, schedule="Karras", steps=20, strength=0.6)
    assert shown_sigmas(page) == sigmas and traces(page)["Left out by the strength"]["x"] == list(range(9))
    page.locator("#schedule-strength-as").get_by_label("Noise level").click()
    expect(page.locator("#schedule-facts strong").nth(1)).to_contain_text("60 % noise")
    assert noise_share(shown_sigmas(page)[0]) == pytest.approx(0.6)
    page.locator("#schedule-use-img2img").click()
    expect(page.locator("#img2img-strength input[type=number]")).to_have_value("0.6")
    expect(page.locator("#img2img-plan")).to_contain_text("60 % noise")


def test_inner_calls_and_churn_are_rings(visit):  # noqa: F811
    page = opened(visit)
    choose(page, "#schedule-sampler", "Heun")
    choose(page, "#schedule-schedule", "Karras")
    until_drawn(page, ["Training of toy", "Karras, rho 7, 20 steps", "Network calls (39)"])
    option(page, "Churn", "schedule-samplers").fill("5")
    expect(page.locator("#schedule-facts")).to_contain_text("Noise is added before 20 of the 20 steps")
    asked, run = traces(page)["Network calls (39)"]["y"], traces(page)["Karras, rho 7, 20 steps"]["y"]
    assert asked[0] == pytest.approx(run[0] * 1.25)
    choose(page, "#schedule-sampler", "Flow")
    expect(page.locator("#schedule-facts")).to_contain_text("adaptive")
    expect(page.locator("#schedule-schedule input")).to_be_disabled()


def test_a_phone_shows_all_of_it_without_scrolling_sideways(visit):  # noqa: F811
    page = opened(visit, PHONE)
    wide = "() => document.documentElement.scrollWidth <= window.innerWidth"
    assert page.evaluate(wide)
    for name, plot in (("A picture into noise", "forward-plot"), ("How models are trained", "training-plot")):
        part(page, name)
        drawn(page, plot)
        assert page.evaluate(wide), name
        box = page.locator(f"#{plot} .js-plotly-plot").bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= PHONE["width"]


def test_a_curve_is_kept_while_others_come(visit):  # noqa: F811
    page = opened(visit)
    choose(page, "#schedule-schedule", "Karras")
    until_drawn(page, ["Training of toy", "Karras, rho 7, 20 steps"])
    page.locator("#schedule-keep").click()
    until_drawn(page, ["Training of toy", "Karras, rho 7, 20 steps", "Karras, rho 7, 20 steps"])
    option(page, "Rho", "schedule-schedules").fill("3")
    until_drawn(page, ["Training of toy", "Karras, rho 3, 20 steps", "Karras, rho 7, 20 steps"])
    page.locator("#schedule-clear").click()
    until_drawn(page, ["Training of toy", "Karras, rho 3, 20 steps"])
    # The settings and the looks outlive the page, in the browser.
    with page.expect_response(lambda answer: "/predict" in answer.url and '"measure":"alpha-bar"' in answer.text()):
        page.get_by_label("alpha-bar").first.click()
    expect(page.locator("#schedule-sentence")).to_contain_text("share of picture in the variance")
    page.reload()
    page.get_by_role("tab", name="Schedule", exact=True).click()
    until_drawn(page, ["Training of toy", "Karras, rho 3, 20 steps"])
    expect(page.locator("#schedule-sentence")).to_contain_text("share of picture in the variance")
    expect(page.locator("#schedule-schedules-options").get_by_role("spinbutton", name="Rho").first).to_have_value("3")


def test_axes_measures_and_a_legend_that_can_be_clicked(visit):  # noqa: F811
    page = opened(visit)
    page.get_by_label("log-SNR").first.click()
    page.wait_for_function(f"() => ({TRACES})('schedule-plot')[1].y[0] < 0")
    page.get_by_label("time", exact=True).click()
    expect(page.locator("#schedule-sentence")).to_contain_text("every schedule lies on the model's own curve")
    page.wait_for_function(f"() => ({TRACES})('schedule-plot')[1].x[0] > 900")
    choose(page, "#schedule-compare", "Exponential")
    until_drawn(page, ["Training of toy", "Uniform leading, offset 1, 20 steps", "Exponential"])
    page.locator("#schedule-plot .legendtoggle").nth(2).click()
    page.wait_for_function(f"() => ({TRACES})('schedule-plot')[2].visible == 'legendonly'")
