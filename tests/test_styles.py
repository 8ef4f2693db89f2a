"""Prompt styles and presets: kept by name, written into the prompts, recorded, and imported from other programs."""

import json
from dataclasses import replace
from types import SimpleNamespace

import gradio as gr
import pytest
from labs import laboratory

from webui.api.script_api import Api
from webui.core import settings_folder
from webui.core.links import from_query, to_query
from webui.core.picture_metadata import read_picture
from webui.core.request import Request, RequestError, read
from webui.core.settings_folder import PRESETS, STYLES, SettingsFolder, file_name
from webui.core.styles import Style, keep_styles, kept_styles, read_styles, styled
from webui.replay_command import replay_file
from webui.tabs.form.form_state import recall
from webui.tabs.form.page_context import Page
from webui.tabs.form.presets import check_may_keep, preset_of
from webui.tabs.lab.axes import read_axis
from webui.tabs.lab.grid import make_grid

NOIR = Style("Noir", "a film still of {prompt}, black and white", "colour")
SOFT = Style("soft light", "soft light")


@pytest.fixture
def engine(registry, tmp_path):
    with laboratory(registry, tmp_path) as running:
        keep_styles(running.outputs, [NOIR, SOFT])
        yield running


@pytest.mark.parametrize(
    "prompt, words, expected",
    [
        ("cat", ["{prompt}, oil"], "cat, oil"),
        ("cat", ["oil"], "cat, oil"),
        ("", ["oil"], "oil"),
        ("cat", ["", "  "], "cat"),
        ("cat", ["big {prompt} and {prompt}"], "big cat and cat"),
        ("cat", ["oil", "photo of {prompt}"], "photo of cat, oil"),
        ("{prompt}", ["oil of {prompt}"], "oil of {prompt}"),
    ],
)
def test_words_go_in_place_of_the_prompt_or_behind_it(prompt, words, expected):
    assert styled(prompt, words) == expected


def test_a_picture_has_what_came_of_it_and_the_names_and_replays_without_the_styles(engine):
    *_, result = Api(engine).txt2img("red apple", negative_prompt="blue", styles=["Noir", "soft light"], steps=2)
    whole = "a film still of red apple, black and white, soft light"
    assert (result.info["prompt"], result.info["negative_prompt"]) == (whole, "blue, colour")
    assert result.info["styles"] == ["Noir", "soft light"]
    metadata = read_picture(result.files[0])
    record = metadata.record
    assert (record.request["prompt"], record.request["styles"]) == (whole, [])
    assert (record.styles, dict(record.written)) == (
        ("Noir", "soft light"),
        {"prompt": "red apple", "negative_prompt": "blue"},
    )
    assert 'Styles: "Noir, soft light"' in metadata.parameters and metadata.parameters.startswith(whole)
    for name in ("Noir", "soft light"):
        SettingsFolder(engine.outputs, STYLES).delete(name)
    assert str(replay_file(engine, result.files[0])) == "bit-equal"


def test_without_styles_a_picture_says_nothing_of_them(engine):
    *_, result = Api(engine).txt2img("red apple", steps=1)
    metadata = read_picture(result.files[0])
    assert "styles" not in metadata.record.data and "Styles" not in metadata.parameters


def test_random_choices_of_a_style_are_made_and_its_prompt_has_the_limits_of_any(engine):
    keep_styles(engine.outputs, [Style("two", "{red|blue} {prompt}"), Style("long", "a" * 9_990)])
    *_, result = Api(engine).txt2img("apple", styles=["two"], steps=1)
    assert read_picture(result.files[0]).record.request["prompt"] in ("red apple", "blue apple")
    with pytest.raises(RequestError, match="Prompt has 10013 characters; allowed are 10000"):
        engine.resolve(Request(prompt="b" * 21, styles=("long",)))


def test_an_unknown_style_is_named_with_those_that_are_kept(engine):
    with pytest.raises(RequestError, match="Unknown style 'x'; known are Noir, soft light."):
        engine.resolve(Request(styles=("x",)))


@pytest.mark.parametrize("given", [["a", "b"], ("a", "b"), "a, b", '["a", "b"]'])
def test_names_are_read_from_lists_and_texts(given):
    assert read({"styles": given}).styles == ("a", "b")


def test_wrong_names_are_refused_in_words():
    for given in ([1], 5, ["a"] * 17, None):
        with pytest.raises(RequestError, match="Styles must be at most 16 names of styles"):
            read({"styles": given})


def test_a_link_and_a_browser_hold_them(registry, engine):
    query = to_query(Request(styles=("a, b", "c")))
    assert read(from_query(query)[0]).styles == ("a, b", "c")
    saved = {"model": "toy", "styles": ["Noir"]}
    assert recall(saved, registry, engine.models(), engine.limits, styles=engine.styles())["styles"] == ["Noir"]
    assert recall(saved, registry, engine.models(), engine.limits)["styles"] == ()


def test_a_grid_compares_them(engine):
    grid = make_grid(engine, Request(prompt="cat", steps=2), [read_axis("styles", "noir, Noir", engine.registry)])
    bad, good = grid.cells
    assert bad.reason.startswith("Unknown style 'noir'") and good.request.prompt.startswith("a film still of cat")


def test_settings_are_kept_one_file_each_and_replaced_by_name(tmp_path):
    folder = SettingsFolder(tmp_path, PRESETS)
    folder.save("Fast", {"steps": 4})
    folder.save("fast", {"steps": 5})
    folder.save("../Ä: <b>", {"steps": 6})
    files = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    assert len(files) == 2 and files[1] == "fast.json" and files[0].startswith("b-")
    assert {name: data["steps"] for name, data in folder.all().items()} == {"../Ä: <b>": 6, "fast": 5}
    folder.delete("FAST")
    assert list(folder.all()) == ["../Ä: <b>"]
    with pytest.raises(RequestError, match="There is no preset 'fast'"):
        folder.delete("fast")


def test_of_many_all_are_kept_or_none(tmp_path, monkeypatch):
    monkeypatch.setattr(settings_folder, "MAX_FILES", 2)
    folder = SettingsFolder(tmp_path, STYLES)
    for given, said in ((["a", "b\n"], "A name has"), (["a", "b", "c"], "There would be more than 2 styles")):
        with pytest.raises(RequestError, match=said):
            folder.save_all(dict.fromkeys(given, {}))
        assert not folder.all()
    folder.save_all(dict.fromkeys(["a", "b"], {"prompt": "x"}))
    folder.save_all({"A": {"prompt": "y"}})
    assert {name: data["prompt"] for name, data in folder.all().items()} == {"A": "y", "b": "x"}


@pytest.mark.parametrize("name", ["con", "a.", "b ", "Fast", "a/b", "ü"])
def test_file_names_are_good_everywhere(name):
    assert file_name(name).removesuffix(".json").replace("-", "").isalnum() and file_name(name) != "con.json"


@pytest.mark.parametrize("name", ["", " a", "a\nb", "a" * 300])
def test_odd_names_are_refused(tmp_path, name):
    with pytest.raises(RequestError, match="A name has 1 to 200 characters"):
        SettingsFolder(tmp_path, STYLES).save(name, {})


def test_what_lies_there_and_is_no_settings_is_left_out(tmp_path):
    folder = tmp_path / "settings" / "styles"
    folder.mkdir(parents=True)
    for name, text in {"a": "{", "b": "[1]", "c": '{"name": 5}', "d": '{"prompt": 1}', "e": "[" * 9999}.items():
        (folder / f"{name}.json").write_text(text)
    (folder / "by hand.json").write_text('{"prompt": "oil"}')
    assert kept_styles(tmp_path) == {"by hand": Style("by hand", "oil")}


FILES = {
    "styles.csv": '\ufeffname,prompt,negative_prompt\n--- films ---,,\nNoir,"a film, {prompt}",colour\n\nold,x\n',
    "oldest.csv": 'name,text\nNoir,"a film, {prompt}"\nold,x\n',
    "fooocus.json": json.dumps([{"name": "Noir", "prompt": "a film, {prompt}"}, {"name": "old", "prompt": "x"}, 5]),
}


@pytest.mark.parametrize("name", FILES)
def test_styles_of_other_programs(tmp_path, name):
    (tmp_path / "file").write_text(FILES[name], "utf-8")
    first, second = read_styles(tmp_path / "file", name)
    assert (first.name, first.prompt, second) == ("Noir", "a film, {prompt}", Style("old", "x"))


@pytest.mark.parametrize("data", [b"", b"a,b\n1,2\n", b"\xff\xfe\x00", b"[", b'{"a": 1}', b"name,prompt\n,\n"])
def test_a_file_without_styles_is_refused(tmp_path, data):
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(RequestError, match=r"x.csv (has no styles|is no text in UTF-8)"):
        read_styles(tmp_path / "file", "x.csv")


def test_a_preset_has_all_settings_but_what_is_drawn():
    made = preset_of(Request(prompt="cat", seed=5, steps=7, styles=("Noir",), hires_scale=2.0))
    assert (made["steps"], made["styles"], made["hires_scale"]) == (7, ["Noir"], 2.0)
    assert not {"prompt", "negative_prompt", "seed", "count", "image", "mask", "mode"} & set(made)


def test_a_shared_page_without_accounts_keeps_nothing_of_its_visitors(engine, tmp_path):
    def page(**changes):
        shared = replace(engine.settings, host="0.0.0.0", **changes)
        return Page(SimpleNamespace(settings=shared), gr.State(""), {}, None, None)

    with pytest.raises(RequestError, match="shared page without accounts"):
        check_may_keep(page())
    check_may_keep(page(auth_file=tmp_path / "accounts.toml"))
