"""Options: a signature is the whole description, and every error names what was wrong and what is allowed."""

import json
import math
from typing import Annotated

import pytest

from samplers import Choice, Former, Length, Range
from samplers.options import BoolOption, ChoiceOption, NumberOption, TextOption, read_options, resolve, with_former

POSITIONAL = ("denoise", "x", "sigmas", "noise")


def everything(
    denoise,
    x,
    sigmas,
    noise,
    *,
    eta: Annotated[float, Range(0, 1, 0.05), "share of fresh noise"] = 0.0,
    order: Annotated[int, Range(1, 4)] = 3,
    method: Annotated[str, Choice("heun", "midpoint"), "which method"] = "heun",
    exact: Annotated[bool, "slower"] = False,
    label: str = "",
    plain: bool = True,
):
    yield


OPTIONS = read_options(everything, POSITIONAL)


def check_resolved(**given):
    return resolve("sampler X", OPTIONS, given)


def test_a_signature_is_read_in_its_order():
    assert OPTIONS == (
        NumberOption("eta", 0.0, 0, 1, 0.05, help="share of fresh noise"),
        NumberOption("order", 3, 1, 4, whole=True),
        ChoiceOption("method", "heun", ("heun", "midpoint"), help="which method"),
        BoolOption("exact", False, help="slower"),
        TextOption("label", ""),
        BoolOption("plain", True),
    )


def test_a_text_may_declare_its_own_length():
    def long(denoise, x, sigmas, noise, *, text: Annotated[str, Length(5), "five"] = ""):
        yield

    (option,) = read_options(long, POSITIONAL)
    assert option.check("abcde") == "abcde" and option.schema()["longest"] == option.longest == 5
    with pytest.raises(ValueError, match="option 'text' has 6 characters; allowed is a text of at most 5 characters"):
        option.check("abcdef")

    def longer(denoise, x, sigmas, noise, *, text: Annotated[str, Length(100_001)] = ""):
        yield

    with pytest.raises(TypeError, match="option 'text' has a length of 100001; allowed is 1 to 100000"):
        read_options(longer, POSITIONAL)


def test_string_annotations_are_read_too():
    def late(denoise, x, sigmas, noise, *, eta: "Annotated[float, Range(0, 1)]" = 0.5):
        yield

    assert read_options(late, POSITIONAL) == (NumberOption("eta", 0.5, 0, 1),)


def test_leading_arguments_may_have_other_names():
    def renamed(model, state, levels, rng, /):
        yield

    assert read_options(renamed, POSITIONAL) == ()


def test_resolving_fills_in_defaults_and_keeps_types():
    assert check_resolved() == dict(eta=0.0, order=3, method="heun", exact=False, label="", plain=True)
    resolved = check_resolved(eta=1, order=2.0, method="midpoint", exact=True, label="a")
    assert resolved == dict(eta=1.0, order=2, method="midpoint", exact=True, label="a", plain=True)
    assert type(resolved["eta"]) is float and type(resolved["order"]) is int


@pytest.mark.parametrize("value", [0, 1, 0.5, 0.0, 1.0])
def test_both_ends_of_a_range_are_inside(value):
    assert check_resolved(eta=value)["eta"] == value


NUMBER = "option 'eta' is {}; allowed is a number from 0 to 1"
WHOLE = "option 'order' is {}; allowed is a whole number from 1 to 4"


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("eta", -0.1, NUMBER.format(-0.1)),
        ("eta", 1.0000001, NUMBER.format(1.0000001)),
        ("eta", math.nan, NUMBER.format("nan")),
        ("eta", math.inf, NUMBER.format("inf")),
        ("eta", -math.inf, NUMBER.format("-inf")),
        ("eta", "0.5", NUMBER.format("'0.5'")),
        ("eta", True, NUMBER.format(True)),
        ("eta", None, NUMBER.format(None)),
        ("eta", [0.5], NUMBER.format([0.5])),
        ("order", 2.5, WHOLE.format(2.5)),
        ("order", 0, WHOLE.format(0)),
        ("order", 5, WHOLE.format(5)),
        ("order", True, WHOLE.format(True)),
        ("order", math.nan, WHOLE.format("nan")),
        ("method", "Heun", "option 'method' is 'Heun'; allowed is one of 'heun', 'midpoint'"),
        ("method", None, "option 'method' is None; allowed is one of 'heun', 'midpoint'"),
        ("method", ["heun"], "option 'method' is ['heun']; allowed is one of 'heun', 'midpoint'"),
        ("exact", 1, "option 'exact' is 1; allowed is true or false"),
        ("exact", "true", "option 'exact' is 'true'; allowed is true or false"),
        ("label", 3, "option 'label' is 3; allowed is a text of at most 1000 characters"),
        ("label", "x" * 1001, "option 'label' has 1001 characters; allowed is a text of at most 1000 characters"),
    ],
)
def test_a_wrong_value_s_error_names_owner_option_value_and_what_is_allowed(name, value, message):
    with pytest.raises(ValueError) as error:
        check_resolved(**{name: value})
    assert str(error.value) == f"sampler X: {message}"


@pytest.mark.parametrize("name", ["eta", "order"])
@pytest.mark.parametrize("value", [10**400, -(10**400)], ids=["up", "down"])
def test_a_number_too_large_for_a_float_is_a_wrong_value_like_any_other(name, value):
    with pytest.raises(ValueError, match=f"option '{name}' is .*allowed is"):
        check_resolved(**{name: value})


def test_an_unknown_option_s_error_names_the_known_ones():
    with pytest.raises(ValueError) as error:
        check_resolved(etta=1)
    assert str(error.value) == "sampler X has no option 'etta'; it takes eta, order, method, exact, label, plain"
    with pytest.raises(ValueError) as error:
        resolve("sampler Y", (), dict(eta=1))
    assert str(error.value) == "sampler Y has no option 'eta'; it takes no options"


def test_what_was_given_is_not_changed():
    given = dict(eta=1)
    resolve("sampler X", OPTIONS, given)
    assert given == dict(eta=1) and type(given["eta"]) is int


def test_the_schema_is_json_without_fields_that_do_not_apply():
    schema = [option.schema() for option in OPTIONS]
    assert json.loads(json.dumps(schema)) == schema
    assert schema[0] == dict(
        name="eta", kind="float", default=0.0, help="share of fresh noise", low=0, high=1, step=0.05
    )
    assert schema[2] == dict(
        name="method", kind="choice", default="heun", help="which method", choices=["heun", "midpoint"]
    )
    assert schema[3] == dict(name="exact", kind="bool", default=False, help="slower")


def test_a_default_satisfies_its_own_schema():
    assert all(option.check(option.schema()["default"]) == option.default for option in OPTIONS)


# --- signatures that cannot be read


def positional(denoise, x, sigmas):
    yield


def too_many(denoise, x, sigmas, noise, eta=0.0):
    yield


def starred(denoise, x, sigmas, noise, *more):
    yield


def keywords(denoise, x, sigmas, noise, **more):
    yield


def bare(denoise, x, sigmas, noise, *, eta=0.5):
    yield


def required(denoise, x, sigmas, noise, *, eta: Annotated[float, Range(0, 1)]):
    yield


def unbounded(denoise, x, sigmas, noise, *, eta: float = 0.5):
    yield


def endless(denoise, x, sigmas, noise, *, eta: Annotated[float, Range(0, math.inf)] = 0.5):
    yield


def downwards(denoise, x, sigmas, noise, *, eta: Annotated[float, Range(1, 0)] = 0.5):
    yield


def not_a_number(denoise, x, sigmas, noise, *, eta: Annotated[float, Range(math.nan, 1)] = 0.5):
    yield


def chosen_number(denoise, x, sigmas, noise, *, order: Annotated[int, Choice("1", "2")] = 1):
    yield


def listed(denoise, x, sigmas, noise, *, levels: list = []):  # noqa: B006
    yield


def optional(denoise, x, sigmas, noise, *, eta: Annotated[float | None, Range(0, 1)] = None):
    yield


def far_default(denoise, x, sigmas, noise, *, eta: Annotated[float, Range(0, 1)] = 2.0):
    yield


def other_default(denoise, x, sigmas, noise, *, method: Annotated[str, Choice("a", "b")] = "c"):
    yield


def no_choice(denoise, x, sigmas, noise, *, method: Annotated[str, Choice()] = ""):
    yield


FORM = r"\(\) must take \(denoise, x, sigmas, noise\) and, after a \*, its options"
NEEDS = r"\(\): option '{}' needs a type \(float, int, bool or str\) and a default"
RANGE = r"\(\): option '{}' is a number and needs Annotated\[{}, Range\(low, high\)\]"


@pytest.mark.parametrize(
    "function, message",
    [
        (positional, FORM),
        (too_many, FORM),
        (starred, FORM),
        (keywords, FORM),
        (bare, NEEDS.format("eta")),
        (required, NEEDS.format("eta")),
        (listed, NEEDS.format("levels")),
        (optional, NEEDS.format("eta")),
        (unbounded, RANGE.format("eta", "float")),
        (endless, RANGE.format("eta", "float")),
        (downwards, RANGE.format("eta", "float")),
        (not_a_number, RANGE.format("eta", "float")),
        (chosen_number, RANGE.format("order", "int")),
        (far_default, r"\(\): the default of option 'eta' is 2.0; allowed is a number from 0 to 1"),
        (other_default, r"\(\): the default of option 'method' is 'c'; allowed is one of 'a', 'b'"),
        (no_choice, r"\(\): the default of option 'method' is ''; allowed is"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_signature_that_cannot_be_read_is_refused_with_its_function_and_argument(function, message):
    with pytest.raises(TypeError, match=f"^{function.__name__}{message}"):
        read_options(function, POSITIONAL)


def test_a_misspelt_annotation_is_an_error_that_names_it():
    def misspelt(denoise, x, sigmas, noise, *, eta: "Annotated[flot, Range(0, 1)]" = 0.5):  # noqa: F821
        yield

    with pytest.raises(Exception, match="flot"):
        read_options(misspelt, POSITIONAL)


def test_an_option_says_what_was_done_before_it():
    def newer(denoise, x, sigmas, noise, *, order: Annotated[int, Range(1, 4), Former("1", 3)] = 2):
        yield

    options = read_options(newer, POSITIONAL)
    assert with_former(options, "1", {}) == {"order": 3}
    assert with_former(options, "1", {"order": 4}) == {"order": 4}
    assert with_former(options, "2", {}) == {}

    def wrong(denoise, x, sigmas, noise, *, order: Annotated[int, Range(1, 4), Former("1", 5)] = 2):
        yield

    with pytest.raises(TypeError, match="option 'order' is 5; allowed is a whole number from 1 to 4"):
        read_options(wrong, POSITIONAL)
