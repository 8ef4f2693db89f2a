"""Tabs whose content is sent when they are opened."""

import httpx
import pytest
from gradio.components.base import FormComponent
from pages import served

from webui.gradio_ext.lazy_tab import LazyContent


@pytest.fixture(scope="module")
def server(registry, tmp_path_factory):
    with served(registry, tmp_path_factory.mktemp("lazy")) as page:
        yield page


@pytest.fixture(scope="module")
def contents(server):
    found = {each.name: each for each in server.page.renderables if isinstance(each, LazyContent)}
    assert set(found) == {"img2img", "upscale", "schedule", "lab", "info", "history", "plugins"}
    return found


def page_config(server):
    """What the browser gets with the page."""
    return httpx.get(f"{server.url}/config", params={"page": ""}).json()


def open_tab(server, content, session):
    """What the server answers when a visitor opens a tab."""
    (event,) = (each for each in server.page.fns.values() if each.renderable is content)
    body = {"data": [], "fn_index": event._id, "session_hash": session}
    return httpx.post(f"{server.url}/gradio_api/run/predict", json=body).raise_for_status().json()["render_config"]


def named(config):
    return [each["props"].get("elem_id") for each in config["components"]]


def test_a_page_has_nothing_of_a_tab_that_nobody_opened(server, contents):
    config = page_config(server)
    ids, events = {each["id"] for each in config["components"]}, {each["id"] for each in config["dependencies"]}
    assert "txt2img-steps" in named(config)
    for content in contents.values():
        assert not ids & content.components
        assert not [each for each in server.page.fns.values() if each.rendered_in is content and each._id in events]
    assert "api" not in {each["type"] for each in config["components"]}


def test_a_tab_comes_whole_and_costs_no_memory(server, contents):
    before = len(server.page.blocks), len(server.page.fns)
    shown = dict(img2img="img2img-steps", upscale="upscale-start", schedule="schedule-steps", lab="lab-steps")
    shown |= dict(info="info-image", history="history-gallery", plugins="plugins")
    for name, content in contents.items():
        config = open_tab(server, content, "visitor")
        assert {each["id"] for each in config["components"]} == content.components | {content.container_id}
        assert config["layout"]["id"] == content.container_id
        own = {each._id for each in server.page.fns.values() if each.rendered_in is content}
        assert {each["id"] for each in config["dependencies"]} == own and own
        assert named(config).count(shown[name]) == 1
    visitor = server.page.state_holder["visitor"].blocks_config
    assert (len(visitor.blocks), len(visitor.fns)) == (len(server.page.blocks), len(server.page.fns)) == before


def test_scripts_find_every_component_that_an_event_names(server):
    """gradio_client looks each of them up when it connects."""
    config = httpx.get(f"{server.url}/config").json()
    ids = {each["id"] for each in config["components"]}
    assert {each for event in config["dependencies"] for each in (*event["inputs"], *event["outputs"])} <= ids


def begins(server, event):
    """The event that this one goes back to, through what it follows."""
    while event.trigger_after is not None:
        event = server.page.fns[event.trigger_after]
    return event


def waits_for(server, event, content):
    """Whether an event follows one that has the content sent."""
    arrival = f"window.sigmalab.sent('{content.name}')"
    while event.trigger_after is not None:
        event = server.page.fns[event.trigger_after]
        if isinstance(event.js, str) and arrival in event.js:
            return True
    return False


def test_no_event_reads_or_fills_the_content_of_a_tab_before_it_is_there(server, contents):
    """`reach` is for these; the value of a state is the server's, and there at any time."""
    wrong = []
    for content in contents.values():
        within = content.components
        for event in server.page.fns.values():
            touched = {each._id for each in event.inputs if not each.stateful} | {each._id for each in event.outputs}
            heard = any(target in within for target, _ in begins(server, event).targets)
            if touched & within and event.rendered_in is not content and not heard:
                wrong += [] if waits_for(server, event, content) else [(content.name, event.name)]
    assert wrong == []


def test_no_tab_takes_the_place_of_other_listeners(server, contents):
    """What is sent later replaces whoever listens to the same event of a component: `follow` is for these."""
    heard = {}
    for event in server.page.fns.values():
        for target in event.targets:
            if target[1] not in ("then", "success", "load"):
                heard.setdefault(target, set()).add(event.rendered_in)
    assert {target: by for target, by in heard.items() if len(by) > 1} == {}


def test_events_name_few_components(server):
    """What an event has for an input Gradio draws anew whenever any event goes on, see `gather`."""
    own = [each for each in server.page.fns.values() if each.fn and each.api_visibility == "private"]
    many = {each.name: sum(not block.stateful for block in each.inputs) for each in own}
    assert len(own) > 100 and {name: count for name, count in many.items() if count > 5} == {}


def test_nothing_is_on_the_page_that_nobody_placed(server):
    """A component that is made as an update while the page is built is one more on the page."""
    shown = [each for each in server.page.blocks.values() if isinstance(each, FormComponent) and each.visible is True]
    stray = [each for each in shown if each.label is None and not each.elem_id and not each.elem_classes]
    assert len(shown) > 200 and stray == []


def test_an_event_that_a_visitor_does_not_have_is_refused_in_words(server):
    for path in ("queue/join", "run/predict"):
        answer = httpx.post(
            f"{server.url}/gradio_api/{path}", json={"data": [], "fn_index": 99_999, "session_hash": "nobody"}
        )
        assert answer.status_code == 404 and answer.json()["detail"] == "There is no event 99999; reload the page."
