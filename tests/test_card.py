"""Cards: what of a prompt a model knows, files that cannot be used, and what the page makes of them."""

import json
import shutil

import pytest
from conftest import ROOT, toy
from PIL import Image

from training import card as card_step
from webui.tabs.form.card_view import chips, read_prompt, result_hint, wall, words_note
from weights.card import Addition, Card, CardError, Example, read_card
from weights.catalog import Catalog
from weights.diffusers_folder import read_folder

GROUNDS = Addition(label="Ground", phrase=" on a {} background", choices=("blue", "white"))
STYLES = Addition(label="Style", phrase=", {} style", choices=("flat",))
CARD = Card(
    draws="things",
    familiar=("cat", "cat face", "bicycle", "red apple"),
    known=("cactus",),
    seldom=("woman walking",),
    words={"kitten": ("cat",), "riding": ("bicycle",)},
    pair="{} and {}",
    additions=(STYLES, GROUNDS),
    examples=(Example(prompt="cat", picture="card/cat.webp"),),
)


@pytest.mark.parametrize(
    "prompt, known, unknown",
    [
        ("", (), ()),
        ("a cat face", ("cat face",), ()),
        ("Two Red Apples, please", ("red apple",), ("two", "please")),
        ("flat style cat on a blue background", ("cat",), ()),
        ("cat, flat style, white background", ("cat",), ()),
        ("blue cat", ("cat",), ("blue",)),
        ("Hündchen", (), ("hundchen",)),
        ("a woman walking in Paris", ("woman walking",), ("paris",)),
    ],
)
def test_a_prompt_is_read_by_its_longest_names(prompt, known, unknown):
    reading = CARD.read(f"{prompt} ")
    assert (reading.known, reading.unknown) == (known, unknown)


def test_what_is_unknown_has_names_near_it():
    assert CARD.read("kittens ").near == ("cat",)
    assert CARD.read("bicicle ").near == ("bicycle",)  # misspelt
    assert CARD.read("quark ").near == ()
    assert CARD.read("faces kittens ").near == ("cat face", "cat")
    many = CARD.model_copy(update=dict(words={"three": ("three o'clock", "keycap 3"), "pie": ("apple pie",)}))
    assert many.read("three pies ").near == ("three o'clock", "apple pie", "keycap 3")  # each word before a second name
    assert CARD.read("a cat riding a bicycle ").instead == "cat and bicycle"
    assert CARD.read("woman walking ").seldom == ("woman walking",)
    assert CARD.read("mytoken cat ", also=("MyToken",)).unknown == ()


def test_a_name_that_is_being_typed_is_completed_and_not_unknown():
    reading = CARD.read("blue bicycle, cat fa")
    assert (reading.typed, reading.completions, reading.unknown) == (2, ("cat face",), ("blue",))
    assert CARD.read("cact").completions == ("cactus",)
    assert CARD.read("cact ").unknown == ("cact",)
    assert CARD.read("cactus").completions == ()


def test_weights_and_loras_in_a_prompt_are_no_words():
    assert read_prompt(CARD, "(cat:1.3) [bicycle] <lora:fluffy:0.5> ").unknown == ()


@pytest.mark.parametrize(
    "text, says",
    [
        ("{", "Invalid JSON"),
        ("[]", "card.json"),
        ('{"draws": ""}', "draws"),
        ('{"draws": "a", "colour": 1}', "colour"),
        ('{"draws": "a", "examples": [{"prompt": "a", "picture": "../a.png"}]}', "beside the card"),
        ('{"draws": "a", "examples": [{"prompt": "a", "picture": "a.svg"}]}', "beside the card"),
        ('{"draws": "a", "additions": [{"label": "a", "phrase": "a", "choices": []}]}', "one {}"),
        ('{"draws": "a", "sizes": [0]}', "sizes.0"),
    ],
)
def test_a_card_that_cannot_be_used_says_why(tmp_path, text, says):
    (tmp_path / "card.json").write_text(text)
    with pytest.raises(CardError) as error:
        read_card(tmp_path / "card.json")
    assert says in str(error.value) and str(tmp_path.parent) not in str(error.value)


@pytest.fixture
def emoji_copy(tmp_path):
    """The configurations of the embedded model, without weights and card."""
    for file in (ROOT / "weights" / "emoji").rglob("*config.json"):
        (tmp_path / "mine" / file.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(file, tmp_path / "mine" / file.parent.name)
    shutil.copy(ROOT / "weights" / "emoji" / "model_index.json", tmp_path / "mine")
    return tmp_path


def test_a_broken_card_costs_the_model_nothing_but_a_note_and_is_read_anew(emoji_copy):
    catalog, file = Catalog(), emoji_copy / "mine" / "card.json"
    assert catalog.find_models(emoji_copy)["mine"].card is None
    file.write_text("{")
    assert "mine/card.json cannot be used" in catalog.find_models(emoji_copy)["mine"].notes[-1]
    file.write_text('{"draws": "a thing"}')
    assert catalog.find_models(emoji_copy)["mine"].card.draws == "a thing"


def test_the_embedded_models_share_one_card_that_keeps_its_word():
    one, other = (read_folder(ROOT / "weights" / name) for name in ("emoji", "emoji-flow"))
    assert one.card == other.card and one.card.sizes == (one.defaults.size,) and one.notes == ()
    assert len(one.card.names) == 1940 == len(set(one.card.names))
    assert tuple(example.prompt for example in one.card.examples) == card_step.EXAMPLES
    for example in one.card.examples:
        assert (reading := one.card.read(f"{example.prompt} ")).known and not reading.unknown, example.prompt
        with Image.open(one.card_file.parent / example.picture) as picture:
            assert max(picture.size) <= card_step.SIDE
    names = (ROOT / "training" / "familiar_names.txt").read_text("utf-8").split()
    assert len(one.card.familiar) == 254 and one.card.read(f"{names[0]} ").known


def test_a_newcomers_words_lead_to_a_picture():
    info = read_folder(ROOT / "weights" / "emoji")
    for prompt in ("a photo of a woman walking in Paris", "Hund", "a cat riding a bicycle", "", "8k masterpiece"):
        hint = result_hint("txt2img", info, prompt)
        assert hint.count("data-draw") >= 1, prompt
        offered = [part.split('"')[1] for part in hint.split("data-prompt=")[1:]]
        assert all(info.card.read(f"{each} ").known for each in offered)
    for prompt in ("octopus", "red apple on a blue background", "noto style penguin", "two hearts", "guitar"):
        assert result_hint("txt2img", info, prompt) == ""
    assert result_hint("txt2img", toy(), "anything") == ""


def test_the_step_sorts_names_by_how_often_they_were_shown():
    def entry(name, weight, *keywords):
        return {"name": name, "weight": weight, "keywords": keywords}

    made = card_step.describe(
        [entry("cat", 1.0, "kitten", "pet"), entry("dog", 0.3, "pet"), entry("flag", 0.005), entry("dog", 0.3, "pet")],
        64,
    )
    card = Card.model_validate_json(json.dumps(made))
    assert (card.familiar, card.known, card.seldom) == (("cat",), ("dog",), ("flag",))
    assert card.words == {"kitten": ("cat",), "pet": ("cat", "dog")}


def test_words_of_a_card_are_only_words(tmp_path):
    evil = "<img src=x onerror=alert(1)>"
    card = Card(
        draws=evil,
        familiar=("cat", evil),
        additions=(Addition(label=evil, phrase=evil + "{}", choices=(evil,)),),
        examples=(Example(prompt=evil, picture="a.png"),),
    )
    (tmp_path / "a.png").write_bytes(b"x")
    info = toy().__class__(**vars(toy()) | {"card": card, "card_file": tmp_path / "card.json"})
    shown = (
        chips("a", info),
        wall("a", info),
        words_note("a", info, card.read(evil + " b ")),
        result_hint("a", info, ""),
    )
    assert all("<img src=x" not in html for html in shown)
    assert "data:image/webp" in shown[1]
