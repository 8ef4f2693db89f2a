"""The request: what is filled in, what is refused, and in which words."""

import json
import math

import pytest
from conftest import toy
from hypothesis import given, settings
from hypothesis import strategies as st

from samplers import sampler
from samplers.registry import Entry, Registry
from webui.core.limits import PUBLIC
from webui.core.request import Request, RequestError, read
from webui.core.resolved_request import resolve

MODELS = {"toy": toy()}


def fail(registry, fields=None, limits=None, **more) -> str:
    with pytest.raises(RequestError) as caught:
        resolve(read({**(fields or {}), **more}), registry, MODELS, **({"limits": limits} if limits else {}))
    return str(caught.value)


def test_defaults_are_filled_in(registry):
    resolved = resolve(read(dict(prompt="a cat")), registry, MODELS).request
    assert (resolved.width, resolved.height, resolved.model, resolved.schedule) == (64, 64, "toy", "Uniform leading")
    assert resolved.options == {"eta": 0.0} and resolved.schedule_options == {"offset": 1}
    assert 0 <= resolved.seed < 2**32
    assert resolve(resolved, registry, MODELS).request == resolved


def test_random_seeds_differ_and_given_ones_stay(registry):
    assert len({resolve(Request(), registry, MODELS).request.seed for _ in range(20)}) == 20
    assert resolve(Request(seed=0), registry, MODELS).request.seed == 0
    assert Request(seed=2**32 - 1, count=3).seeds == (2**32 - 1, 0, 1)


def test_resolving_leaves_the_request_as_it_was(registry):
    options = {"eta": 1}
    request = read(dict(options=options))
    assert resolve(request, registry, MODELS).request.options == {"eta": 1.0}
    assert options == {"eta": 1} and request.options == {"eta": 1}


def test_numbers_as_sliders_and_json_send_them(registry):
    resolved = resolve(read(dict(steps=20.0, guidance=3, width=64.0, seed=5.0)), registry, MODELS).request
    assert (resolved.steps, resolved.guidance, resolved.width, resolved.seed) == (20, 3.0, 64, 5)
    assert isinstance(resolved.steps, int) and isinstance(resolved.guidance, float)


@pytest.mark.parametrize(
    "fields, said",
    [
        (dict(steps="20"), "Steps must be a whole number from 1 to 1000."),
        (dict(steps=True), "Steps must be a whole number from 1 to 1000."),
        (dict(steps=20.5), "Steps must be a whole number from 1 to 1000."),
        (dict(steps=0), "Steps must be a whole number from 1 to 1000."),
        (dict(steps=1001), "Steps must be a whole number from 1 to 1000."),
        (dict(steps=math.inf), "Steps must be a whole number from 1 to 1000."),
        (dict(count=65), "Count must be a whole number from 1 to 64."),
        (dict(guidance=math.nan), "Guidance must be a number from 0 to 30."),
        (dict(guidance=-0.1), "Guidance must be a number from 0 to 30."),
        (dict(guidance="5"), "Guidance must be a number from 0 to 30."),
        (dict(guidance=False), "Guidance must be a number from 0 to 30."),
        (dict(seed=2**32), "Seed must be a whole number from 0 to 4294967295, or -1 for a random one."),
        (dict(seed=-2), "Seed must be a whole number from 0 to 4294967295, or -1 for a random one."),
        (dict(strength=0), "Strength must be a number from 0.01 to 1."),
        (dict(strength_as="pixels"), "Strength as must be 'steps' or 'noise'."),
        (dict(fit="squeeze"), "Fit must be 'crop', 'pad' or 'stretch'."),
        (dict(prompt=None), "Prompt must be a text of at most 10000 characters."),
        (dict(prompt="x" * 10_001), "Prompt must be a text of at most 10000 characters."),
        (dict(prompt="a\0b"), "Prompt must be a text without NUL characters and broken Unicode (lone surrogates)."),
        (dict(negative_prompt="\ud83d"), "Negative prompt must be a text without NUL characters"),
        (dict(options=[1]), "Options must be names with values."),
        (
            dict(options={"eta": [1]}),
            "Options: option 'eta' must be a number, a text of at most 100000 characters, true or false.",
        ),
        (dict(sampler=7), "Sampler must be a text of at most 200 characters."),
        (dict(stepz=3), "Unknown setting 'stepz'; known are mode, prompt,"),
    ],
)
def test_wrong_fields_are_refused_in_words(fields, said):
    with pytest.raises(RequestError) as caught:
        read(fields)
    assert said in str(caught.value)


def test_every_wrong_field_has_its_sentence():
    with pytest.raises(RequestError) as caught:
        read(dict(steps=0, guidance="x"))
    assert "Steps must be" in str(caught.value) and "Guidance must be" in str(caught.value)


def test_unknown_names_list_the_known_ones(registry):
    for name in ("DDPM", "DDIM", "Euler", "Flow"):
        assert name in fail(registry, sampler="Eulre")
    assert "'Eulre'" in fail(registry, sampler="Eulre")
    assert "Karras" in fail(registry, schedule="Karas")
    assert fail(registry, model="sdxl") == "Unknown model 'sdxl'; known are toy."
    assert "No model was found" in str(pytest.raises(RequestError, resolve, Request(), registry, {}).value)


def test_options_name_what_is_allowed(registry):
    assert "DDIM has no option 'etta'; it takes eta" in fail(registry, options={"etta": 1})
    assert "allowed is a number from 0 to 1" in fail(registry, options={"eta": 1.5})
    assert "allowed is a number from 0 to 1" in fail(registry, options={"eta": True})
    assert "allowed is a number from 0 to 1" in fail(registry, options={"eta": math.nan})
    assert "Schedule Karras" in fail(registry, schedule="Karras", schedule_options={"rho": 0})


def test_sizes(registry):
    assert fail(registry, width=60) == "Width is 60; model toy makes 16 to 2048, in multiples of 8."
    assert "Height is 4096" in fail(registry, height=4096)
    assert "Height is 8" in fail(registry, height=8)
    assert "Width x height x count" in fail(registry, width=2048, height=2048, count=16)
    assert "which is 15 of this size" in fail(registry, width=2048, height=2048, count=16)
    resolve(read(dict(width=2048, height=2048, count=15)), registry, MODELS)


def test_public_pages_allow_less(registry):
    assert "A picture of 1032x1024 is too large; allowed are 1 megapixels." in fail(
        registry, limits=PUBLIC, width=1032, height=1024
    )
    assert "Count is 9; allowed here is 1 to 8." in fail(registry, limits=PUBLIC, count=9)
    assert "Steps is 151; allowed here is 1 to 150." in fail(registry, limits=PUBLIC, steps=151)
    assert "Prompt has 2001 characters; allowed are 2000." in fail(registry, limits=PUBLIC, prompt="x" * 2001)
    resolve(read(dict(width=1024, height=1024, count=8, steps=150)), registry, MODELS, limits=PUBLIC)


def test_img2img_needs_a_picture(registry):
    assert "needs an input picture" in fail(registry, mode="img2img")


def test_a_plugin_that_cannot_plan_is_named(registry):
    @sampler("Odd", calls=lambda sigmas: 1 // 0)
    def odd(denoise, x, sigmas, noise):
        yield

    odd_registry = Registry({**registry.samplers, "Odd": Entry(odd, "test", "1")}, registry.schedules)
    assert "Sampler Odd" in fail(odd_registry, sampler="Odd") and "ZeroDivisionError" in fail(
        odd_registry, sampler="Odd"
    )


def test_steps_of_all_sizes_plan(registry):
    for steps in (1, 2, 999, 1000):
        for schedule in registry.schedules:
            sigmas = resolve(read(dict(steps=steps, schedule=schedule)), registry, MODELS).plan.sigmas
            assert len(sigmas) == steps + 1 and sigmas[-1] == 0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda x: st.lists(x) | st.dictionaries(st.text(), x),
    max_leaves=4,
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(Request.model_fields)) | st.text(max_size=5), JSON, max_size=4))
def test_anything_from_outside_is_served_or_refused(registry, fields):
    try:
        resolved = resolve(read(fields), registry, MODELS).request
    except RequestError as error:
        assert str(error).endswith((".", "!")) and len(str(error)) < 20_000
    else:
        json.dumps(resolved.model_dump(mode="json"), allow_nan=False).encode()
