"""Values that no page sends: each endpoint and each event of the page answers them or refuses them in words."""

import inspect

import gradio as gr
import pytest
from conftest import ToyModel, toy
from pages import gathered

from webui.engine.engine import Engine
from webui.page import build_page
from webui.settings import Settings

ODD = (
    None,
    [],
    {},
    "x",
    "",
    True,
    -1,
    0.5,
    1e308,
    2**70,
    [["a"]],
    {"a": []},
    {"eta": []},
    ["Euler"],
    "\0",
    "é" * 20_000,
)
ENDPOINTS = {"txt2img": {"prompt": "a"}, "img2img": {"prompt": "a", "image": {"path": "x"}}, "schedule": {}}


@pytest.fixture(scope="module")
def engine(registry, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    settings = Settings(root=folder, outputs=folder / "outputs", model="toy")
    engine = Engine(registry, settings, lambda info, device: ToyModel(info), lambda path: {"toy": toy()})
    engine.start()
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def functions(engine):
    return list(build_page(engine).fns.values())


def call(function, *given, **named):
    """Call an event's function as far as its first answer. Only a gr.Error has words for the caller."""
    try:
        answer = function(*given, **named)
        if inspect.isgenerator(answer):
            next(answer, None)
            answer.close()
    except gr.Error as error:
        assert str(error.message)


@pytest.mark.parametrize("name", ENDPOINTS)
def test_an_endpoint_takes_anything_for_an_argument(functions, name):
    (function,) = [each.fn for each in functions if each.api_name == name]
    for parameter in inspect.signature(function).parameters:
        for odd in ODD:
            call(function, **ENDPOINTS[name] | {parameter: odd})


def test_the_events_of_the_page_take_a_list_for_a_name(functions, monkeypatch):
    monkeypatch.setattr(gr, "Warning", lambda text: None)
    blocks = {block._id: block for each in functions for block in each.inputs}
    sources = gathered([each.get_config() for each in functions])
    called = 0
    for each in functions:
        if each.fn is None or each.api_name in ENDPOINTS or inspect.iscoroutinefunction(each.fn):
            continue
        values = [block.value for block in each.inputs]
        for place, block in enumerate(each.inputs):
            given = [blocks[number] for number in sources.get(each._id, [])] if isinstance(block, gr.JSON) else []
            for odd in odd_names(block, given):
                call(each.fn, *values[:place], odd, *values[place + 1 :])
                called += 1
    assert called > 100


def odd_names(block, given=()):
    """Lists in place of a menu's name, by itself or among the values that the browser gathers, see `gather`."""
    if isinstance(block, gr.Dropdown):
        # What Gradio's own check of the choices lets through, if the event has one.
        yield from ([], [choice for _, choice in block.choices[:1]])
    values = [each.value for each in given]
    for place, each in enumerate(given):
        yield from ([*values[:place], odd, *values[place + 1 :]] for odd in odd_names(each))
