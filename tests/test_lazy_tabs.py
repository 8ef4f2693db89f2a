"""Tabs that are built when they are opened, and what Gradio does that `lazy_tab` works around."""

import copy

import gradio as gr
import httpx
import pytest
from gradio.context import LocalContext
from pages import served

from webui.gradio_ext import lazy_tab
from webui.gradio_ext.gradio_events import QUIET


@pytest.fixture(scope="module")
def server(registry, tmp_path_factory):
    with served(registry, tmp_path_factory.mktemp("lazy")) as page:
        yield page


def render_events(server):
    return [each for each in server.page.fns.values() if each.renderable is not None]


def open_tab(server, event, session):
    """What the server answers when a visitor opens a tab."""
    api = f"{server.url}/gradio_api/queue"
    data = [None] * len(event.inputs)
    httpx.post(f"{api}/join", json={"data": data, "fn_index": event._id, "session_hash": session}).raise_for_status()
    return httpx.get(f"{api}/data", params={"session_hash": session}, timeout=60).text


def test_a_page_has_nothing_of_a_tab_that_nobody_opened(server):
    shown = httpx.get(f"{server.url}/config").text
    assert '"txt2img-steps"' in shown
    assert '"lab-steps"' not in shown and '"schedule-steps"' not in shown


def test_a_tab_that_is_built_again_replaces_what_was_built(server):
    sizes = []
    for _ in range(2):
        for event in render_events(server):
            assert '"success":true' in open_tab(server, event, "visitor")
        page = server.page.state_holder["visitor"].blocks_config
        names = [getattr(block, "elem_id", None) for block in page.blocks.values()]
        assert names.count("lab-steps") == 1 and names.count("schedule-steps") == 1
        sizes.append((len(page.blocks), len(page.fns), len(server.page.temp_file_sets)))
    assert sizes[0] == sizes[1]
    assert sizes[0][0] > len(server.page.blocks)


def test_events_name_few_components(server):
    """What an event has for an input Gradio draws anew whenever any event goes on, see `gather`."""
    for event in render_events(server):
        open_tab(server, event, "counting")
    events = server.page.state_holder["counting"].blocks_config.fns.values()
    own = [each for each in events if each.fn and each.api_visibility == "private"]
    named = {each.name: sum(not block.stateful for block in each.inputs) for each in own}
    assert len(own) > 100 and {name: count for name, count in named.items() if count > 5} == {}


def test_an_event_that_a_visitor_does_not_have_is_refused_in_words(server):
    for path in ("queue/join", "run/predict"):
        answer = httpx.post(
            f"{server.url}/gradio_api/{path}", json={"data": [], "fn_index": 99_999, "session_hash": "nobody"}
        )
        assert answer.status_code == 404 and answer.json()["detail"] == "There is no event 99999; reload the page."


def visitor_page(build):
    """A page with a tab that `build` fills, and a visitor's copy of it."""
    with gr.Blocks() as blocks, gr.Tabs(), gr.Tab("Tab") as tab:
        build(tab)
    return blocks, copy.copy(blocks.default_config)


def rendered(blocks, page):
    """Call the page's render event for a visitor, as Gradio does."""
    event = next(each for each in blocks.fns.values() if each.renderable is not None)
    token = LocalContext.blocks_config.set(page)
    try:
        event.renderable.apply()
    finally:
        LocalContext.blocks_config.reset(token)


def test_a_visitors_page_changes_at_once_and_not_while_it_is_built():
    seen = []

    def fill():
        box = gr.Textbox()
        box.change(lambda: None, **QUIET)
        seen.append((page.blocks, page.fns, len(page.blocks), len(page.fns)))

    blocks, page = visitor_page(lambda tab: lazy_tab.build_when_opened(tab, fill))
    before = (page.blocks, page.fns, len(page.blocks), len(page.fns))
    rendered(blocks, page)
    assert seen == [before]
    # A loop over these two goes on undisturbed.
    assert (len(before[0]), len(before[1])) == before[2:]
    assert len(page.fns) == before[3] + 1 and len(page.blocks) > before[2]


def test_gradio_itself_changes_a_visitors_page_while_it_builds():
    """lazy_tab: _apart."""

    def plain(tab):
        @gr.render(triggers=[tab.select])
        def fill():
            gr.Textbox().change(lambda: None, **QUIET)

    blocks, page = visitor_page(plain)
    events, count = page.fns, len(page.fns)
    rendered(blocks, page)
    assert page.fns is events and len(events) == count + 1


def test_gradio_keeps_what_was_built_before():
    """lazy_tab: _apart, which removes it."""

    def plain(tab):
        @gr.render(triggers=[tab.select])
        def fill():
            gr.Textbox()

    blocks, page = visitor_page(plain)
    counts = []
    for _ in range(3):
        rendered(blocks, page)
        counts.append((len(page.blocks), len(blocks.temp_file_sets)))
    assert counts[0] < counts[1] < counts[2]
