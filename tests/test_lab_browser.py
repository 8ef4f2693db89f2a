"""The Lab as a visitor has it: a real browser on a real server, with a toy model as slow as a test wants."""

import io
import re
import threading
import zipfile
from contextlib import ExitStack

import pytest
from conftest import until
from pages import idle
from PIL import Image
from test_browser import DESKTOP, PHONE, browser, choose, expect, option, outdate, renewed, server, visit, window

from webui.core.picture_metadata import read_picture
from webui.tabs.form import form_events
from webui.tabs.lab import axes_view

__all__ = ["browser", "server", "visit", "window"]  # fixtures
pytestmark = pytest.mark.browser


def lab(page, tool=None):
    page.get_by_role("tab", name="Lab", exact=True).click()
    page.get_by_role("tab", name="Compare", exact=True).click()
    expect(page.locator("#compare-cost")).to_contain_text(re.compile("To make|nothing has to be made|cannot|allowed"))
    if tool:
        page.get_by_role("tab", name=tool, exact=True).click()
    return page


def unfold(page):
    if not page.locator("#lab-steps input").is_visible():
        page.locator("#lab-more button").first.click()


def axis(page, number, kind):
    if page.locator(f"#compare-axis{number} input").input_value() != kind:
        choose(page, f"#compare-axis{number}", kind)


def start(page, mode):
    outdate(page, f"#{mode}-message")
    page.locator(f"#{mode}-start").click()
    renewed(page, f"#{mode}-message")


def message(page, mode):
    return page.locator(f"#{mode}-message")


def ended(page, mode):
    expect(page.locator(f"#{mode}-stop")).to_be_disabled()
    expect(page.locator(f"#{mode}-start")).to_be_enabled()


def saved(page, button):
    with page.expect_download() as download:
        page.locator(button).click()
    return download.value.path().read_bytes()


def test_a_grid_tells_its_cost_fills_and_is_kept(visit, server):
    page = lab(visit(stay=True))
    page.locator("#lab-prompt textarea").fill("red apple")
    expect(page.locator("#compare-cost")).to_contain_text("12 pictures, 172 network calls")
    page.locator("#compare-values2 input, #compare-values2 textarea").fill("2, 3")
    expect(page.locator("#compare-cost")).to_contain_text("8 pictures, 23 network calls")
    start(page, "compare")
    expect(message(page, "compare")).to_contain_text("8 pictures made in")
    pictures = page.locator("#compare-grid td img")
    expect(pictures).to_have_count(8)
    assert (
        pictures.evaluate_all("all => Promise.all(all.map(one => one.decode().then(() => one.naturalWidth)))")
        == [64] * 8
    )
    expect(page.locator("#compare-grid figcaption").last).to_contain_text("5 calls")
    expect(page.locator("#compare-grid thead")).to_contain_text("DDPM")
    label = page.locator("#compare-grid th[scope=col]").first.bounding_box()
    assert pictures.first.bounding_box()["x"] == pytest.approx(label["x"], abs=1)
    # Two cells side by side, and what can be kept.
    choose(page, "#compare-a", "3: Euler · 2")
    expect(page.locator("#compare-slider img")).to_have_count(2)
    # The panel of a cell: a side of the comparison, and its settings in a form.
    page.locator("#compare-grid [data-cell='5']").click()
    expect(page.locator("#compare-cell")).to_contain_text("6: DDIM · 3")
    page.locator("#compare-cell-right").click()
    expect(page.locator("#compare-b input")).to_have_value("6: DDIM · 3")
    page.locator("#compare-use-txt2img").click()
    expect(page.locator("#txt2img-steps input")).to_have_value("3")
    expect(page.locator("#txt2img-sampler input")).to_have_value("DDIM")
    page.go_back()
    expect(page.get_by_role("tab", name="Lab", exact=True)).to_have_attribute("aria-selected", "true")
    with Image.open(io.BytesIO(saved(page, "#compare-png"))) as sheet:
        assert "sigmalab-grid" in sheet.info
    with zipfile.ZipFile(io.BytesIO(saved(page, "#compare-zip"))) as bundle:
        assert len([name for name in bundle.namelist() if name.endswith(".png")]) == 9
    wide = page.locator("#compare-grid .cells").bounding_box()["width"]
    assert wide > 0.9 * page.locator("#compare-grid").bounding_box()["width"]
    # The same again costs nothing.
    expect(page.locator("#compare-cost")).to_contain_text("All 8 cells are there already")
    calls = server.pace.calls
    start(page, "compare")
    expect(message(page, "compare")).to_contain_text("8 made before")
    expect(page.locator("#compare-grid figcaption").first).to_contain_text("made before")
    assert server.pace.calls == calls


def test_a_trajectory_can_be_scrubbed_filmed_and_made_again(visit, server):
    page = lab(visit(stay=True), "Trajectory")
    page.locator("#trajectory-last").click()
    expect(message(page, "trajectory")).to_contain_text("There is no result yet")
    expect(page.locator("#trajectory-cost")).to_have_text("One picture: 20 network calls.")
    start(page, "trajectory")
    expect(message(page, "trajectory")).to_contain_text("20 network calls · DDIM")
    kept = max(server.outputs.rglob("*.png"), key=lambda path: path.stat().st_mtime)
    page.locator("#trajectory-file input[type=file]").set_input_files(kept)
    expect(message(page, "trajectory")).to_contain_text(f"compared with {kept.name}, the final picture is bit-equal")
    pair = page.locator("#trajectory-pair")
    expect(pair).to_contain_text("step 20: sigma 0")
    expect(pair.locator("img")).to_have_count(2)
    number = page.locator("#trajectory-step input[type=number]")
    number.fill("0")
    number.press("Enter")
    expect(pair).to_contain_text("start: sigma")
    expect(pair).to_contain_text("Nothing asked of the network yet")
    for plot in range(3):
        expect(page.locator(f"#trajectory-plot{plot} .js-plotly-plot")).to_be_visible()
    with Image.open(io.BytesIO(saved(page, "#trajectory-film"))) as film:
        assert film.format == "WEBP" and film.n_frames == 21


def test_convergence_is_measured_without_a_model(visit, server):
    page = lab(visit(stay=True), "Convergence")
    expect(page.locator("#convergence-cost")).to_contain_text("All runs: 1570 network calls and as many")
    calls = server.pace.calls
    start(page, "convergence")
    expect(message(page, "convergence")).to_contain_text("Measured with")
    assert server.pace.calls == calls
    table = page.locator("#convergence-table")
    expect(table).to_contain_text("exact answer")
    expect(table.locator("tr", has_text="UniPC")).to_contain_text("3.0")
    expect(table.locator("tr", has_text="Flow")).to_contain_text("over tolerances")
    expect(page.locator("#convergence-plot .js-plotly-plot")).to_be_visible()


def test_convergence_on_the_model_shows_progress_and_stops(visit, server):
    page = lab(visit(stay=True), "Convergence")
    page.get_by_label("The model, with the prompt above").check()
    server.pace.slow_after(10)
    start(page, "convergence")
    expect(message(page, "convergence")).to_contain_text("The reference · network call 10 of")
    expect(message(page, "convergence")).to_contain_text("left")
    page.locator("#convergence-stop").click()
    expect(page.locator("#convergence-stop")).to_be_disabled()
    server.pace.fast()
    expect(message(page, "convergence")).to_contain_text("Measured with 11 network calls")
    expect(message(page, "convergence")).to_contain_text("Stopped;")


def test_samplers_draw_paths_through_the_plane(visit):
    page = lab(visit(stay=True), "Paths in 2-D")
    expect(page.locator("#lab-settings")).to_be_hidden()
    plot = page.locator("#plane-plot .js-plotly-plot")
    expect(plot).to_be_visible()
    start(page, "plane")
    expect(message(page, "plane")).to_contain_text("Drawn with")
    for name in ("DDPM", "DDIM", "Euler", "Heun", "Flow", "Exact flow"):
        expect(plot.locator(".legendtext", has_text=re.compile(f"^{name}$"))).to_be_visible()
    level = page.locator("#plane-level input[type=number]")
    level.fill("100")
    level.press("Enter")
    expect(page.locator("#plane-note")).to_contain_text("sigma 14.6")
    # The tool is in the address: Back and a reload find it.
    assert page.url.endswith("#lab/plane")
    page.get_by_role("tab", name="Compare", exact=True).click()
    expect(page.locator("#lab-settings")).to_be_visible()
    page.wait_for_url("**/#lab")
    page.go_back()
    expect(page.locator("#lab-settings")).to_be_hidden()
    page.reload()
    expect(page.get_by_role("tab", name="Paths in 2-D")).to_have_attribute("aria-selected", "true")
    assert page.url.endswith("#lab/plane")
    page.get_by_role("tab", name="Compare", exact=True).click()


def test_the_tour_draws_what_it_tells(visit):
    page = visit(stay=True)
    choose(page, "#txt2img-model", "other")
    page.get_by_role("tab", name="txt2img", exact=True).click()
    page.get_by_role("button", name="How does it work?").first.click()
    expect(page.get_by_role("tab", name="Tour", exact=True)).to_have_attribute("aria-selected", "true")
    drawn = page.locator("#tour-drawn")
    for text, pictures, number in (
        ("Start, sigma", 1, 0),
        ("Step 8, sigma 0", 17, 1),
        ("Guidance", 4, 2),
        ("Heun", 12, 3),
    ):
        start(page, "tour")
        expect(message(page, "tour")).to_contain_text("Drawn")
        expect(drawn.locator("img")).to_have_count(pictures)
        expect(drawn).to_contain_text(text)
        if number < 3:
            page.locator(f"#tour-next{number}").click()
            places = page.locator("#tour-walk").get_by_role("tab")
            expect(places.nth(number + 1)).to_have_attribute("aria-selected", "true")


def test_every_tool_fits_the_screen(visit):
    page = lab(visit(stay=True))
    for viewport in (DESKTOP, PHONE):
        page.set_viewport_size(viewport)
        for tool in ("Compare", "Trajectory", "Convergence", "Paths in 2-D"):
            page.get_by_role("tab", name=tool, exact=True).click()
            expect(page.get_by_role("tab", name=tool, exact=True)).to_have_attribute("aria-selected", "true")
            assert page.evaluate("() => document.documentElement.scrollWidth <= window.innerWidth"), (tool, viewport)


def test_stop_keeps_what_is_there_and_a_reload_finds_it(visit, server):
    page = lab(visit(stay=True))
    page.locator("#lab-prompt textarea").fill("stopped in the middle")
    page.locator("#compare-values2 input, #compare-values2 textarea").fill("2")
    expect(page.locator("#compare-cost")).to_contain_text("4 pictures")
    server.pace.slow_after(3)
    start(page, "compare")
    expect(message(page, "compare")).to_contain_text("Cell 2 of 4 (DDIM · 2)")
    expect(page.locator("#compare-grid td img")).to_have_count(1)
    (job,) = server.engine.queue.running
    page.goto(f"{server.url}/theme.css")
    until(lambda: job.should_stop(patience=0))
    page.goto(server.url)
    # The job is followed before its tab is opened: else it would be given up.
    until(lambda: not job.should_stop(patience=0))
    lab(page)
    expect(message(page, "compare")).to_contain_text("Cell 2 of 4")
    page.locator("#compare-stop").click()
    expect(page.locator("#compare-stop")).to_be_disabled()
    # Who comes back before it has ended need not stop it again.
    page.reload()
    lab(page)
    expect(page.locator("#compare-start")).to_have_text("At work")
    expect(page.locator("#compare-stop")).to_be_disabled()
    server.pace.fast()
    expect(message(page, "compare")).to_contain_text("Stopped; what was finished is kept")
    expect(page.locator("#compare-grid td img")).to_have_count(1)
    idle(server.engine)


def test_an_axis_text_is_never_html(visit):
    page = lab(visit(stay=True))
    page.locator("#lab-prompt textarea").fill("red apple")
    choose(page, "#compare-axis2", "Prompt replacement")
    box = page.locator("#compare-values2 input, #compare-values2 textarea")
    expect(box).to_have_attribute("placeholder", "red apple -> rocket, cat face")
    box.fill("red apple -> <img src=x onerror=alert(1)>, rocket")
    expect(page.locator("#compare-cost")).to_contain_text("8 pictures")
    start(page, "compare")
    expect(page.locator("#compare-grid td img")).to_have_count(8)
    expect(page.locator("#compare-grid th[scope=row]").first).to_have_text("<img src=x onerror=alert(1)>")


def test_what_cannot_be_made_says_why(visit):
    page = lab(visit(stay=True))
    choose(page, "#compare-axis2", "Option: Eta")
    values = page.locator("#compare-values2 input, #compare-values2 textarea")
    expect(values).to_have_attribute("placeholder", re.compile("from 0 to 1"))
    values.fill("0, 1")
    expect(page.locator("#compare-cost")).to_contain_text("cannot be made and will say why")
    start(page, "compare")
    ended(page, "compare")
    expect(page.locator("#compare-grid td.none").first).to_contain_text("has no option 'eta'")
    values.fill("0, 3")
    expect(page.locator("#compare-cost")).to_contain_text("allowed is a number from 0 to 1")
    start(page, "compare")
    expect(message(page, "compare")).to_contain_text("allowed is a number from 0 to 1")


def test_the_settings_unfold_with_the_samplers_options(visit, server):
    page = lab(visit(stay=True))
    expect(option(page, "Eta", "lab-samplers")).not_to_be_visible()
    unfold(page)
    # The form has what the browser kept; what is typed earlier is the matter of a test of its own.
    expect(page.locator("#lab-plan")).to_contain_text("network call")
    page.locator("#lab-prompt textarea").fill("not made before")
    eta = option(page, "Eta", "lab-samplers")
    eta.fill("0.5")
    eta.press("Tab")
    axis(page, 2, "Steps")
    page.locator("#compare-values2 input, #compare-values2 textarea").fill("2")
    expect(page.locator("#compare-cost")).to_contain_text("4 pictures")
    start(page, "compare")
    expect(message(page, "compare")).to_contain_text("4 pictures made in")
    records = [read_picture(path).record.data for path in server.outputs.rglob("*.png")]
    assert any(
        record["request"]["sampler"] == "DDIM" and record["request"]["options"] == {"eta": 0.5} for record in records
    )
    # Another model brings its own schedule, and that one's options.
    choose(page, "#lab-schedule", "Karras")
    rho = page.locator("#lab-schedules-options").get_by_label("Rho", exact=False).first
    expect(rho).to_be_visible()
    choose(page, "#lab-model", "other")
    expect(page.locator("#lab-schedule input")).to_have_value("Model's own")
    expect(page.locator("#lab-schedules-options")).to_be_hidden()


def test_values_stay_when_a_menu_is_only_looked_into(visit):
    page = lab(visit(stay=True))
    values = page.locator("#compare-values2 input, #compare-values2 textarea")
    values.fill("2, 3")
    page.locator("#compare-axis2 input").click()
    expect(page.get_by_role("option").first).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("Tab")
    axis(page, 1, "Schedule")
    expect(page.locator("#compare-names1")).to_contain_text("Uniform leading")
    expect(values).to_have_value("2, 3")


def test_axes_outlive_the_page(visit):
    page = lab(visit())
    choose(page, "#compare-axis1", "Schedule")
    expect(page.locator("#compare-names1")).to_contain_text("Uniform leading")
    page.locator("#compare-names1").get_by_role("button", name="Remove").first.click()
    expect(page.get_by_role("option")).to_have_count(0)
    choose(page, "#compare-axis3", "Guidance")
    third = page.locator("#compare-values3 textarea")
    with page.expect_response(lambda each: "/predict" in each.url and re.search('"1, 7".*"each"', each.text())):
        third.fill("1, 7")
        page.locator("#compare-policy").get_by_label("A seed of its own").click()
    expect(page.locator("#compare-cost")).to_contain_text("30 pictures")
    page.reload()
    lab(page)
    expect(page.locator("#compare-axis1 input")).to_have_value("Schedule")
    expect(page.locator("#compare-names1")).to_contain_text("Karras")
    expect(page.locator("#compare-names1")).not_to_contain_text("Uniform leading")
    expect(page.locator("#compare-values1")).to_be_hidden()
    expect(page.locator("#compare-values2 textarea")).to_have_value("5, 10, 20")
    expect(third).to_have_value("1, 7")
    expect(page.locator("#compare-cost")).to_contain_text("30 pictures")
    expect(page.locator("#compare-policy").get_by_label("A seed of its own")).to_be_checked()
    # A ready comparison sets the axes.
    page.locator("#compare-preset2").click()
    expect(page.locator("#compare-cost")).to_contain_text("6 pictures")
    expect(page.locator("#compare-axis1 input")).to_have_value("Guidance")


def filling(server, name):
    """The event that fills what has this signal with what the browser kept, when the page is opened."""
    events = server.page.fns.values()
    loads = {each._id for each in events if any(kind == "load" for _, kind in each.targets)}
    (found,) = (e for e in events if e.trigger_after in loads and name in [out.elem_id for out in e.outputs])
    return found._id


def answers_to(response, event):
    return "/predict" in response.url and response.request.post_data_json["fn_index"] == event


def test_what_is_entered_before_the_page_has_been_filled_stays(visit, server, monkeypatch):
    """On a busy machine the answer takes its time, and nobody waits for it."""
    page, come = visit(), threading.Event()

    def late(function):
        return lambda *given: come.wait(60) and function(*given)

    monkeypatch.setattr(form_events, "recall_options", late(form_events.recall_options))
    monkeypatch.setattr(axes_view, "recall_axes", late(axes_view.recall_axes))
    page.reload()
    page.get_by_role("tab", name="Lab", exact=True).click()
    page.locator("#lab-more button").first.click()
    entered = {
        "0.5": option(page, "Eta", "lab-samplers"),
        "7": page.locator("#lab-steps input"),
        "2, 3": page.locator("#compare-values2 input, #compare-values2 textarea"),
        "red apple": page.locator("#lab-prompt textarea"),
    }
    for text, box in entered.items():
        box.fill(text)
        box.press("Tab")
    with ExitStack() as answers:
        for name in ("lab-revision", "compare-filled"):
            event = filling(server, name)
            answers.enter_context(page.expect_response(lambda each, event=event: answers_to(each, event)))
        come.set()
    choose(page, "#lab-schedule", "Karras")
    expect(page.locator("#lab-schedules-options").get_by_label("Rho", exact=False).first).to_be_visible()
    for text, box in entered.items():
        expect(box).to_have_value(text)
