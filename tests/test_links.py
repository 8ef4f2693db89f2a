"""A link holds a form's settings and gives them back through the checks of every request; a wrong one loses nothing."""

import json

import pytest
from conftest import toy
from hypothesis import given, settings
from hypothesis import strategies as st

from webui.core.fields import input_fields
from webui.core.links import MAX_QUERY, from_query, to_query
from webui.core.request import Request, RequestError
from webui.engine.engine import Engine
from webui.page import build_page
from webui.settings import Settings
from webui.tabs.form.apply_settings import overlay
from webui.tabs.form.form import to_request
from webui.tabs.form.form_state import form_defaults
from webui.tabs.form.link_events import mode_of, shortened
from webui.tabs.form.page_context import Page

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=100)
NAMES = st.text("abcdefgh_", min_size=1, max_size=8)
OPTIONS = st.dictionaries(
    NAMES, st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS, max_size=4
)


@settings(max_examples=150, deadline=None)
@given(
    prompt=TEXTS,
    negative=TEXTS,
    seed=st.integers(-1, 2**32 - 1),
    guidance=st.floats(0, 30),
    steps=st.integers(1, 1000),
    options=OPTIONS,
    schedule_options=OPTIONS,
    mode=st.sampled_from(["txt2img", "img2img"]),
    strength=st.floats(0.01, 1),
)
def test_everything_comes_back(prompt, negative, seed, guidance, steps, options, schedule_options, mode, strength):
    request = Request(
        prompt=prompt,
        negative_prompt=negative,
        seed=seed,
        guidance=guidance,
        steps=steps,
        mode=mode,
        options=options,
        schedule_options=schedule_options,
        strength=strength,
    )
    fields, problems = from_query("?__theme=dark&" + to_query(request))
    assert not problems and Request(**fields) == request


def test_a_link_is_short_and_carries_no_path(tmp_path):
    assert to_query(Request(prompt="red apple", sampler="Euler", seed=7)) == "prompt=red%20apple&sampler=Euler&seed=7"
    assert to_query(Request()) == ""
    assert to_query(Request(mode="img2img", image=tmp_path / "secret.png")) == "mode=img2img"
    assert (
        to_query(Request(options={"eta": 0.5, "method": "heun", "odd": "0.5"}))
        == "options.eta=0.5&options.method=heun&options.odd=%220.5%22"
    )


def test_a_prompt_that_is_too_long_is_an_error():
    with pytest.raises(RequestError, match=str(MAX_QUERY)):
        to_query(Request(prompt="\U0001f408" * 1_000))


@pytest.mark.parametrize(
    "query, good, bad",
    [
        ("", {}, {}),
        ("?__theme=dark&__lang=de", {}, {}),
        ("prompt=1984&steps=30", {"prompt": "1984", "steps": 30}, {}),
        ("prompt=a&steps=many", {"prompt": "a"}, {"steps": "Steps must be a whole number from 1 to 1000."}),
        ("steps=1e999&guidance=NaN", {}, {"steps": "Steps must", "guidance": "Guidance must"}),
        ("steps=[[[[&seed=" + "9" * 5000, {}, {"steps": "Steps must", "seed": "Seed must"}),
        ("image=/etc/passwd&prompt=a", {"prompt": "a"}, {}),
        ("colour=red", {}, {"colour": "Unknown setting 'colour'; known are mode"}),
        ("mode=video", {}, {"mode": "Mode must be 'txt2img' or 'img2img'."}),
        ("prompt=%00", {}, {"prompt": "Prompt must be"}),
        ("&".join(f"a{i}=1" for i in range(101)), {}, {"": "more than 100 settings"}),
        ("options=1&options.eta=0.5", {}, {"options": "Options"}),
    ],
)
def test_what_is_wrong_is_said_and_the_rest_is_taken(query, good, bad):
    fields, problems = from_query(query)
    assert set(problems) == set(bad) and all(bad[name] in problems[name] for name in bad)
    assert {name: fields.get(name) for name in good} == good


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200))
def test_any_address_is_read_or_explained(query):
    fields, problems = from_query(query)
    assert all(isinstance(text, str) and text for text in problems.values())
    for name, value in fields.items():
        Request(**{name: value})


@pytest.fixture(scope="module")
def page(registry, tmp_path_factory):
    settings = Settings(root=tmp_path_factory.mktemp("links"), model="toy")
    engine = Engine(registry, settings, lambda found, device: None, lambda path: {"toy": toy()})
    return Page(engine, None, {}, None, None)


class Stub:
    """A form without a page: the names that `overlay` asks for."""

    mode = "txt2img"
    names = tuple(name for name in form_defaults() if name not in input_fields(Request))


def test_a_field_stays_as_it_was_where_a_picture_says_nothing_possible(page):
    saved = {"prompt": "mine", "steps": 33, "width": 128, "options": {"samplers": {"Euler": {"churn": 3.0}}}}
    fields = {
        "prompt": "theirs",
        "width": 1001,
        "sampler": "DDIM",
        "options": {"eta": 7.0, "churn": 1.0},
        "strength": 0.3,
    }
    values, notes = overlay(page, Stub, saved, fields)
    assert (values["prompt"], values["steps"], values["width"], values["sampler"]) == ("theirs", 33, 128, "DDIM")
    assert values["options"]["samplers"]["Euler"] == {"churn": 3.0}
    assert notes == [
        "Width 1001 is not possible here; it stays 128.",
        "Strength is for img2img alone.",
        "DDIM: option 'eta' is 7.0; allowed is a number from 0 to 1.",
        "DDIM has no option 'churn'.",
    ]


def test_what_the_lab_has_no_control_for_is_told_with_the_tabs_that_have_one(page):
    lab = type("Lab", (), dict(mode="lab", names=tuple(set(Stub.names) - {"refiner", "hires_scale"})))
    sent = {"refiner": "toy", "hires_scale": 2.0, "strength": 0.3}
    assert sorted(overlay(page, lab, {}, sent)[1]) == [
        "Hires scale is for txt2img alone.",
        "Refiner is for txt2img and img2img alone.",
        "Strength is for img2img alone.",
    ]


def test_a_seed_is_fixed_and_a_random_one_is_not(page):
    values, notes = overlay(page, Stub, {}, {"seed": 5, "width": 0, "height": 0})
    assert (values["seed"], values["random_seed"], values["width"], notes) == (5, False, 64, [])
    assert overlay(page, Stub, {"seed": 5}, {"seed": -1})[0]["random_seed"] is True


def test_a_form_gives_a_link_that_fills_it(registry, page):
    request = Request(
        sampler="Euler", options={"churn": 0.0, "churn_from": 0.5}, schedule="Karras", schedule_options={"rho": 7.0}
    )
    usual = {option.name: option.default for option in registry.samplers["Euler"].item.options}
    kept = shortened(page, request.model_copy(update={"options": usual | {"churn": 2.0}}))
    assert kept.options == {"churn": 2.0} and kept.schedule_options == {}


def test_menus_without_a_choice_are_an_error_that_says_so():
    values = {name: form_defaults()[name] for name in Stub.names} | {
        "options": {"samplers": {}, "schedules": {}, "guidances": {}},
        "model": "toy",
    }
    assert to_request("txt2img", values).sampler == "DDIM"
    for name in ("sampler", "schedule", "guidance method", "model"):
        with pytest.raises(RequestError, match=f"No {name} is chosen"):
            to_request("txt2img", values | {name.replace(" ", "_"): None})


def test_the_tab_is_that_of_the_link():
    modes = ["txt2img", "img2img"]
    assert [mode_of(query, modes) for query in ("prompt=a", "mode=img2img", "__theme=dark", "", "mode=x")] == [
        "txt2img",
        "img2img",
        None,
        None,
        "txt2img",
    ]
    assert mode_of(None, modes) is None


def opens_form(event, blocks):
    """Whether it fills the form of txt2img when the page is opened."""
    begun = blocks.fns.get(event.trigger_after)
    loads = begun is not None and any(kind == "load" for _, kind in begun.targets)
    return loads and "txt2img-model" in [each.elem_id for each in event.outputs]


def test_a_link_names_what_is_not_here(registry, tmp_path):
    engine = Engine(registry, Settings(root=tmp_path, model="toy"), lambda f, d: None, lambda path: {"toy": toy()})
    blocks = build_page(engine)
    assert json.dumps(blocks.config["title"]) == '"Sigmalab"'
    (event,) = (each for each in blocks.fns.values() if opens_form(each, blocks))
    updates = event.fn([None, "sampler=Nope&model=gone&schedule=Karras&steps=5&width=12"])
    by_id = {component.elem_id: update for component, update in updates.items()}
    message = by_id["txt2img-message"]
    assert "Unknown sampler &#39;Nope&#39;; known are Calibrated, DDIM" in message
    assert "Unknown model &#39;gone&#39;" in message
    assert "Width 12 is not possible here" in message
    assert by_id["txt2img-sampler"]["value"] is None
    assert by_id["txt2img-model"]["value"] is None
    assert by_id["txt2img-schedule"]["value"] == "Karras"
    assert by_id["txt2img-steps"]["value"] == 5
