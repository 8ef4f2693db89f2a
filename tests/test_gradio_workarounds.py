"""What Gradio does that gradio_ext and page.js work around: a test that fails here says that a workaround can go."""

import time

import gradio as gr
import pytest
from gradio.state_holder import StateHolder
from gradio_client import Client
from pages import CHROMIUM, free_port
from test_browser import FLAGS

from webui.gradio_ext.gradio_events import QUIET
from webui.gradio_ext.sessions import lighten_sessions
from webui.gradio_ext.theme import PLOTLY, head

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.browser
expect = sync_api.expect
LISTS_INPUTS = """async () => {
  const link = document.querySelector("link[href*='/statustracker-'][href$='.js']");
  const tracker = Object.values(await import(link.href)).find((each) => each.prototype && each.prototype.resolve_args);
  const status = new tracker();
  status.register(0, [], [7], "hidden");
  status.update({ fn_index: 0, status: "complete", stream_state: "closed" });
  return 7 in status.current;
}"""


@pytest.fixture(scope="module")
def probe():
    """A plain Gradio page in a browser, and what its events were told."""
    told = {"input": 0, "busy": 0, "outside": 0, "inside": 0}

    def count(name, seconds=0.0):
        told[name] += 1
        time.sleep(seconds)

    with gr.Blocks() as blocks:
        with gr.Tab("First"):
            menu = gr.Dropdown(["a", "b"], value="a", label="Menu", interactive=True)
            box = gr.Textbox(label="Box")
        with gr.Tab("Second"):
            kept = gr.BrowserState("default", storage_key="probe", secret="probe")
        read, store = gr.Textbox(label="Read"), gr.Button("Store")
        store.click(lambda: "stored", None, kept, **QUIET)
        menu.input(lambda: count("input"), None, None, **QUIET)
        for seconds in (0.6, 0.9):
            box.change(lambda seconds=seconds: count("busy", seconds), None, None, trigger_mode="always_last", **QUIET)
        blocks.load(lambda value: f"read {value}", kept, read, **QUIET)
        shared, build = gr.Textbox(label="Shared"), gr.Button("Build")
        shared.change(lambda: count("outside"), None, None, **QUIET)

        @gr.render(triggers=[build.click], show_progress="hidden")
        def later():
            gr.Textbox(label="Built")
            shared.change(lambda: count("inside"), None, None, **QUIET)

    _, url, _ = blocks.queue().launch(prevent_thread_lock=True, quiet=True, server_port=free_port(), ssr_mode=False)
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        page = browser.new_page()
        page.goto(url)
        expect(page.get_by_label("Read")).to_have_value("read default", timeout=60_000)
        yield page, told
        browser.close()
    blocks.close(verbose=False)


def test_an_ended_event_lists_its_inputs_among_those_that_show_progress(probe):
    """gather."""
    page, _ = probe
    assert page.evaluate(LISTS_INPUTS)


def test_a_browser_state_in_a_closed_tab_is_not_read(probe):
    """browser_store."""
    page, _ = probe
    page.get_by_role("button", name="Store").click()
    page.wait_for_timeout(1000)
    page.reload()
    expect(page.get_by_label("Read")).to_have_value("read default", timeout=60_000)


def test_a_menu_tells_of_an_input_when_it_is_left(probe):
    """on_choice."""
    page, told = probe
    page.get_by_label("Menu").click()
    page.keyboard.press("Tab")
    page.wait_for_timeout(1000)
    assert told["input"] == 1


def test_two_busy_listeners_of_one_component_restart_each_other(probe):
    """on_change; two changes ask for two runs of each."""
    page, told = probe
    told["busy"] = 0
    for text in ("x", "xy"):
        page.get_by_label("Box").fill(text)
        page.wait_for_timeout(100)
    # More than the four runs that were asked for.
    for _ in range(100):
        if told["busy"] > 4:
            return
        page.wait_for_timeout(100)
    pytest.fail(f"{told['busy']} runs")


def test_what_is_built_later_takes_the_place_of_other_listeners(probe):
    """lazy_tab: follow."""
    page, told = probe
    page.get_by_role("button", name="Build").click()
    expect(page.get_by_label("Built")).to_be_visible()
    page.get_by_label("Shared").fill("x")
    for _ in range(100):
        if told["inside"]:
            break
        page.wait_for_timeout(100)
    page.wait_for_timeout(500)
    assert (told["outside"], told["inside"]) == (0, 1)


def test_an_update_to_none_is_dropped():
    """schedule_update says "" instead."""
    assert "info" not in gr.utils.delete_none(gr.update(info=None, label="x"), skip_value=True)


def test_plotly_is_a_module_of_its_own_that_is_fetched_when_a_plot_is_drawn():
    (module,) = PLOTLY
    assert module.stat().st_size > 1 << 20
    assert f"assets/{module.name}" in head()


def test_sessions_begin_with_a_description_of_every_component():
    with gr.Blocks() as blocks:
        box, button = gr.Textbox(), gr.Button()
        button.click(lambda: "told", None, box)
    _, url, _ = blocks.launch(prevent_thread_lock=True, quiet=True, server_port=free_port(), ssr_mode=False)
    try:
        plain = StateHolder()
        plain.set_blocks(blocks)
        assert len(plain["anybody"].config_values) == len(blocks.blocks), "lighten_sessions can go"
        lighten_sessions(blocks)
        assert not blocks.app.state_holder["somebody"].config_values
        assert Client(url, verbose=False).predict(fn_index=0) == "told"
    finally:
        blocks.close(verbose=False)
