"""A field of a request is one annotated line: a made-up one is found wherever fields are shown, sent, kept or read."""

from typing import Annotated, Literal

import gradio as gr
import pytest
from conftest import ToyModel, toy
from pydantic import Field

from webui.api.endpoints import build_endpoints
from webui.api.script_api import Api
from webui.core.fields import Setting, fields_of
from webui.core.infotext import infotext
from webui.core.limits import LOCAL
from webui.core.links import from_query, to_query
from webui.core.picture_metadata import read_picture
from webui.core.request import Number, Request, RequestError, Whole, read
from webui.engine.engine import Engine
from webui.gradio_ext.lazy_tab import LazyBlocks
from webui.importers.a1111 import read_infotext
from webui.importers.imported_settings import from_external
from webui.settings import Settings
from webui.tabs.form.apply_settings import fill, overlay
from webui.tabs.form.controls import build_form, build_input, build_prompt, shown_value
from webui.tabs.form.form import to_request
from webui.tabs.form.form_state import form_defaults, recall
from webui.tabs.form.page_context import Page
from webui.tabs.lab.axes import hint, kinds, read_axis

MODELS = {"toy": toy()}


class Wider(Request):
    """A request with made-up fields: a number for every picture, a switch, and a number and a choice for img2img."""

    seed_resize: Annotated[
        Whole,
        Field(ge=0, le=8),
        Setting("Resize the seed", "0 is off", group="seed", infotext="Seed resize", axis="0, 2, 4"),
    ] = 0
    tiling: Annotated[bool, Setting("Tiling", group="size", infotext="Tiling")] = False
    grain: Annotated[Number, Field(ge=0, le=64), Setting("Grain", group="input", step=1, needs_input=True)] = 4.0
    grain_from: Annotated[Literal["film", "noise"], Setting("Grain from", group="input", needs_input=True)] = "film"


@pytest.fixture(scope="module")
def engine(registry, tmp_path_factory):
    root = tmp_path_factory.mktemp("fields")
    settings = Settings(root=root, outputs=root / "outputs", model="toy")
    engine = Engine(registry, settings, lambda info, device: ToyModel(toy()), lambda folder: MODELS)
    engine.start()
    yield engine
    engine.close()


def form_of(engine, mode, schema):
    page = Page(engine, None, {}, None, None)
    with LazyBlocks():
        prompt = build_prompt(mode, None).prompt
        return build_form(page, mode, prompt, build_input(mode, schema) if mode == "img2img" else {}, schema)


def described(endpoint, schema, engine):
    """(name, type, default) of each argument, as clients see them; a required one has no default."""
    with LazyBlocks() as blocks:
        build_endpoints(engine, schema)
    return [
        (one["parameter_name"], one["python_type"]["type"])
        + ((one["parameter_default"],) if one["parameter_has_default"] else ())
        for one in blocks.get_api_info()["named_endpoints"][f"/{endpoint}"]["parameters"]
    ]


def test_the_form_has_a_widget_with_range_label_and_help(engine):
    number = form_of(engine, "txt2img", Wider).fields["seed_resize"]
    assert isinstance(number, gr.Number)
    assert (number.minimum, number.maximum, number.precision, number.value) == (0, 8, 0, 0)
    assert (number.label, number.info, number.elem_id) == ("Resize the seed", "0 is off", "txt2img-seed-resize")


def test_the_widget_is_that_of_the_type(engine):
    fields = form_of(engine, "img2img", Wider).fields
    assert isinstance(fields["tiling"], gr.Checkbox) and isinstance(fields["grain"], gr.Slider)
    assert isinstance(fields["grain_from"], gr.Radio)
    assert fields["grain_from"].choices == [("Film", "film"), ("Noise", "noise")]


def test_a_form_without_an_input_picture_has_no_widgets_for_it(engine):
    assert not {"grain", "grain_from", "strength"} & set(form_of(engine, "txt2img", Wider).fields)


def test_a_menu_of_several_names_is_given_a_list(engine):
    fields = {"styles": gr.Dropdown(multiselect=True), "outpaint": gr.Textbox()}
    shown = {name: shown_value(fields[name], fields_of(Request)[name].default) for name in fields}
    assert shown == {"styles": [], "outpaint": "0, 0, 0, 0"}


def test_the_values_of_a_form_make_the_request(engine):
    values = form_defaults(Wider) | {"seed_resize": 3, "options": {"samplers": {}, "schedules": {}, "guidances": {}}}
    assert to_request("txt2img", values, Wider) == Wider(seed_resize=3)


def test_endpoints_have_an_argument_behind_those_of_today(engine):
    before, after = (described("txt2img", schema, engine) for schema in (Request, Wider))
    assert after == [*before, ("seed_resize", "int", 0), ("tiling", "bool", False)]
    before, after = (described("img2img", schema, engine) for schema in (Request, Wider))
    assert after[len(before) :] == [
        *(("seed_resize", "int", 0), ("tiling", "bool", False)),
        *(("grain", "float", 4.0), ("grain_from", "str", "film")),
    ]


def test_a_script_gives_it_and_the_picture_remembers(engine):
    *_, result = Api(engine, Wider).txt2img("a", steps=1, seed_resize=3)
    assert result.info["seed_resize"] == 3 and "grain" not in result.info
    assert read_picture(result.files[0]).record.data["request"]["seed_resize"] == 3


def test_a_browser_remembers_what_fits(registry):
    def recalled(**saved):
        return recall({"model": "toy", **saved}, registry, MODELS, LOCAL, Wider)

    assert recalled(seed_resize=5, tiling=True)["seed_resize"] == 5
    assert recalled(seed_resize=9, tiling=True)["seed_resize"] == 0
    assert recalled(seed_resize=9, tiling=True)["tiling"] is True
    assert recalled(grain_from="water")["grain_from"] == "film"


def test_a_link_holds_it():
    request = Wider(seed_resize=2, tiling=True, grain_from="noise")
    assert to_query(request) == "seed_resize=2&tiling=true&grain_from=noise"
    assert from_query(to_query(request), Wider) == ({"seed_resize": 2, "tiling": True, "grain_from": "noise"}, {})


def test_a_form_takes_it_from_a_link(engine):
    form = form_of(engine, "txt2img", Wider)
    values, notes = overlay(
        Page(engine, None, {}, None, None), form, {}, {"seed_resize": 2, "grain_from": "noise"}, Wider
    )
    assert values["seed_resize"] == 2 and notes == ["Grain from is for img2img alone."]


def test_the_infotext_has_it_and_gives_it_back(engine, registry):
    *_, result = Api(engine, Wider).txt2img("a", steps=1, seed_resize=3, tiling=True)
    text = infotext(read_picture(result.files[0]).record.data, Wider)
    assert "Seed resize: 3, Tiling: True" in text
    read_back = from_external(read_infotext(text, Wider), registry, MODELS, schema=Wider)
    assert (read_back.fields["seed_resize"], read_back.fields["tiling"]) == (3, True)


def test_the_infotext_leaves_out_a_default(engine):
    *_, result = Api(engine, Wider).txt2img("a", steps=1)
    assert "Seed resize" not in infotext(read_picture(result.files[0]).record.data, Wider)


def test_a_grid_can_vary_it(registry):
    assert kinds(registry, Wider)["seed_resize"] == "Seed resize"
    assert hint("seed_resize", registry, Wider) == "0, 2, 4"
    axis = read_axis("seed_resize", "0..4 +2", registry, Wider)
    assert [value.change({})["seed_resize"] for value in axis.values] == [0, 2, 4]
    with pytest.raises(RequestError, match="Seed resize must be a whole number from 0 to 8"):
        read_axis("seed_resize", "9", registry, Wider)


@pytest.mark.parametrize(
    "fields, sentence",
    [
        ({"seed_resize": 9}, "Seed resize must be a whole number from 0 to 8."),
        ({"tiling": 1}, "Tiling must be true or false."),
        ({"grain": -1}, "Grain must be a number from 0 to 64."),
        ({"grain_from": "water"}, "Grain from must be 'film' or 'noise'."),
    ],
)
def test_an_error_says_what_is_allowed(fields, sentence):
    with pytest.raises(RequestError) as caught:
        read(fields, Wider)
    assert str(caught.value) == sentence


@pytest.mark.parametrize("name", ["clip_skip", "guidance_rescale", "guidance_low", "guidance_high"])
def test_what_conditions_the_network_can_vary_in_a_grid(registry, name):
    axis = read_axis(name, fields_of(Request)[name].setting.axis.partition(" or ")[0], registry)
    assert len(axis.values) > 1


PROMPT = [("prompt", "str")]
RUN = [
    ("sampler", "str", "DDIM"),
    ("schedule", "str", ""),
    ("steps", "int", 20),
    ("guidance", "float", 5.0),
    ("width", "int", 0),
    ("height", "int", 0),
    ("seed", "int", -1),
    ("count", "int", 1),
    ("options", "dict(str, Any)", {}),
    ("model", "str", ""),
    ("schedule_options", "dict(str, Any)", {}),
]
INPAINT = [
    ("mask", "filepath", None),
    ("mask_blur", "int", 4),
    ("mask_fill", "str", "original"),
    ("inpaint_area", "str", "whole"),
    ("padding", "int", 32),
    ("outpaint", "list[Any]", [0, 0, 0, 0]),
]
HIRES = [
    ("hires_scale", "float", 0.0),
    ("hires_steps", "int", 0),
    ("hires_strength", "float", 0.5),
    ("hires_sampler", "str", ""),
    ("hires_schedule", "str", ""),
    ("upscaler", "str", ""),
    *(VARIATION := [("variation_seed", "int", -1), ("variation_strength", "float", 0.0)]),
    ("hires_strength_as", "str", "steps"),
]
REFINER = [("refiner", "str", ""), ("refiner_switch", "float", 0.8)]
REUSE = ("feature_reuse", "int", 1)
METHOD = [("guidance_method", "str", ""), ("guidance_options", "dict(str, Any)", {})]
TILES = [("scale", "float", 0.0), ("upscaler", "str", "")]
NEWEST = [("size_condition", "list[Any]", [0, 0, 0, 0]), ("decoder", "str", "vae")]
PROMPTS = [("prompt_syntax", "str", "full"), ("styles", "list[Any]", []), *NEWEST]
NEGATIVE, FIT = [("negative_prompt", "str", "")], [("fit", "str", "crop")]
GUIDED = [("guidance_low", "float", 0.0), ("guidance_high", "float", 0.0)]
CONDITIONING = [("clip_skip", "int", 1), ("guidance_rescale", "float", 0.0), *GUIDED]
ENDPOINTS = {
    "txt2img": [
        *[
            *PROMPT,
            *NEGATIVE,
            *RUN,
            *CONDITIONING,
            *HIRES,
            *METHOD,
            *PROMPTS,
            ("hires_model", "str", ""),
            *REFINER,
            REUSE,
        ]
    ],
    "img2img": [
        *[("image", "filepath"), *PROMPT, ("strength", "float", 0.6), ("strength_as", "str", "steps")],
        *[*NEGATIVE, *RUN, *FIT, *CONDITIONING, *INPAINT, *VARIATION, *METHOD, *TILES, *PROMPTS, *REFINER, REUSE],
    ],
    "schedule": [
        ("model", "str", ""),
        ("schedule", "str", ""),
        ("steps", "int", 20),
        ("strength", "float", 1.0),
        ("sampler", "str", "DDIM"),
        ("options", "dict(str, Any)", {}),
        ("schedule_options", "dict(str, Any)", {}),
        ("strength_as", "str", "steps"),
        ("guidance", "float", 5.0),
        *GUIDED,
    ],
}


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_clients_see_the_arguments_in_the_order_that_they_know(engine, endpoint):
    assert described(endpoint, Request, engine) == ENDPOINTS[endpoint]


def test_a_size_waits_for_a_model_that_makes_it(engine):
    form, page = form_of(engine, "txt2img", Request), Page(engine, None, {}, None, None)
    updates, notes = fill(page, form, {}, {"width": 4096, "height": 64}, model_is_missing=True)
    assert updates[form.sizes] == {"width": 4096, "height": 64}
    assert notes[-1].startswith("The next model that you choose gets the picture's width and height")
    assert fill(page, form, {}, {"width": 4096})[0][form.sizes] == {}
