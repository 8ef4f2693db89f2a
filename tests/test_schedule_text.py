"""The words of the Schedule tab, lists that are pasted, and finished runs that are loaded from their pictures."""

import json
import re

import pytest
from conftest import ToyModel, toy
from oracles import builtin
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from webui.api.script_api import Api
from webui.core.links import to_query
from webui.core.picture_metadata import read_picture
from webui.core.record import KEYWORD, MetadataError, read_record
from webui.core.request import RequestError
from webui.engine.engine import Engine
from webui.engine.run_preview import dry_run_of, preview_run
from webui.settings import Settings
from webui.tabs.form.form_state import recall_options
from webui.tabs.schedule.recorded_run import load, loaded_note, read_run
from webui.tabs.schedule.run_plot import label, plan_by
from webui.tabs.schedule.run_summary import calls_note, custom_settings, facts, list_text


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("notes")
    settings = Settings(root=folder, outputs=folder / "outputs", model="toy")
    engine = Engine(builtin(), settings, lambda found, device: ToyModel(found), lambda path: {"toy": toy()})
    engine.start()
    yield engine
    engine.close()


def told(engine, **fields):
    made = preview_run(engine, dict(strength=1.0) | fields)
    dry_run = dry_run_of(made)
    by_meaning = {meaning: plan_by(made, meaning) for meaning in ("steps", "noise")}
    return re.sub(r"<[^>]+>", " ", facts(made, dry_run, by_meaning)), calls_note(made.run, dry_run)


def picture(engine, **settings):
    *_, last = Api(engine).txt2img("a", width=16, height=16, **settings)
    return last.files[0], last.info


# --- words


def test_a_picture_from_words_tells_cost_and_start(engine):
    words, where = told(engine, schedule="Karras", steps=20)
    assert "20 network calls" in words and "20 steps" in words and "99.5 % noise (sigma 14.6)" in words
    assert "once a step" in where and "Strength" not in words


def test_both_meanings_of_strength_are_told(engine):
    words, _ = told(engine, schedule="Karras", steps=20, strength=0.6)
    rows = re.findall(r"As a (share of the steps|level of noise) +(\d+) +(\d+) % +([\d.]+)", words)
    assert rows == [("share of the steps", "12", "80", "1.99"), ("level of noise", "11", "60", "1.22")]


@pytest.mark.parametrize(
    "fields, says",
    [
        (dict(sampler="Heun"), "The rings are its 39 network calls"),
        (dict(sampler="Euler", options={"churn": 5.0}), "Noise is added before 20 of the 20 steps"),
        (dict(sampler="Restart"), "The rings are its 57 network calls"),
        (dict(sampler="Flow"), "adaptive"),
        (dict(sampler="k-diffusion DPM fast"), "makes its own steps"),
    ],
)
def test_where_a_sampler_asks(engine, fields, says):
    assert says in told(engine, schedule="Karras", **fields)[1]


def test_a_label_has_the_numbers_of_a_schedule(engine):
    made = preview_run(engine, dict(schedule="Karras", schedule_options={"rho": 5}, steps=10, strength=0.5))
    assert label(made) == "Karras, rho 5, 10 steps, strength 0.5"


# --- lists


@pytest.mark.parametrize("steps", [1, 2, 20, 100, 1000])
@pytest.mark.parametrize("name", ["Karras", "Exponential"])
def test_a_copied_list_pasted_is_the_same_run(engine, steps, name):
    sigmas = preview_run(engine, dict(schedule=name, steps=steps)).run.sigmas
    numbers, count = custom_settings(list_text(sigmas))
    assert count == steps
    again = preview_run(engine, dict(schedule="Custom", steps=count, schedule_options={"numbers": numbers})).run.sigmas
    assert again == sigmas


def test_a_thousand_sigmas_of_all_digits_are_in_a_picture_and_out_of_it_again(engine):
    """Sigmas of 17 digits and an exponent, the longest that there are, on their way through all that keeps settings."""
    sigmas = [14.123456789012345 * 10 ** (-i / 100) * (1 + 2**-52) for i in range(1000)]
    numbers, count = custom_settings(list_text([*sigmas, 0.0]))
    file, info = picture(engine, schedule="Custom", steps=count, schedule_options={"numbers": numbers})
    assert count == 1000 and info["sigmas"] == [*sigmas, 0.0]
    record = read_picture(file).record.data
    assert (
        read_record(record).single_request().schedule_options["numbers"] == numbers
        and list(load(file).sigmas) == info["sigmas"]
    )
    assert "The same settings run the same list here" in loaded_note(engine, load(file))
    kept = recall_options({"options": {"schedules": {"Custom": {"numbers": numbers}}}}, engine.registry)
    assert kept["schedules"]["Custom"]["numbers"] == numbers
    with pytest.raises(RequestError, match=rf"too long for a link.*{len(numbers)} of them are in numbers"):
        to_query(read_record(record).single_request())


def test_a_list_that_is_too_long_is_refused_with_its_length(engine):
    settings = dict(schedule="Custom", steps=2, schedule_options={"numbers": "1, " * 10_001})
    with pytest.raises(RequestError, match="option 'numbers' has 30003 characters; allowed is a text of at most 30000"):
        preview_run(engine, settings)
    with pytest.raises(RequestError, match="'numbers' must be a number, a text of at most 100000 characters"):
        preview_run(engine, settings | dict(schedule_options={"numbers": "1" * 100_001}))


@pytest.mark.parametrize(
    "text, numbers, count", [("[3; 2 1]", "3, 2, 1", 3), ("max, 1, 0", "max, 1", 2), ("5", "5", 1), ("a b", "a, b", 2)]
)
def test_lists_come_in_many_spellings(text, numbers, count):
    assert custom_settings(text) == (numbers, count)


@pytest.mark.parametrize("text", ["", "  ,; ", None])
def test_no_list_is_an_error_that_shows_one(text):
    with pytest.raises(RequestError, match="There is no list; paste sigmas, highest first"):
        custom_settings(text)


# --- finished runs


@pytest.mark.parametrize("sampler", ["DDIM", "Heun", "Flow"])
def test_a_picture_gives_back_the_sigmas_that_ran(engine, sampler):
    file, info = picture(engine, sampler=sampler, schedule="Karras", steps=6)
    run = load(file)
    assert list(run.sigmas) == info["sigmas"] == list(run.curves(engine)[0].sigmas) and run.nfe == info["nfe"]
    note = loaded_note(engine, run)
    assert (
        "Its sampler made these steps itself" if sampler == "Flow" else "The same settings run the same list here"
    ) in note
    assert f"{info['nfe']} network calls" in note


def test_a_run_of_img2img_stands_behind_what_it_left_out(engine):
    record = read_picture(picture(engine, schedule="Karras", steps=10)[0]).record.data
    record["request"] |= dict(mode="img2img", strength=0.4, strength_as="steps")
    run = read_run(read_record(record | {"sigmas": record["sigmas"][6:]}))
    own, guided = run.curves(engine)
    assert own.places == (6.0, 7.0, 8.0, 9.0, 10.0) and guided.places == own.places[:-1]
    # Of what would run otherwise now, nothing is known but the list.
    assert read_run(read_record(record | {"sigmas": record["sigmas"][5:]})).curves(engine)[0].places[0] == 0.0
    record["request"]["model"] = "gone"
    assert read_run(read_record(record | {"sigmas": record["sigmas"][6:]})).curves(engine)[0].places[0] == 0.0


def test_a_list_that_would_differ_now_is_told(engine):
    record = read_picture(picture(engine, schedule="Karras", steps=4)[0]).record.data
    record["sigmas"][1] *= 1.01
    assert "differ by up to 0.99 %" in loaded_note(engine, read_run(read_record(record)))
    assert "would now run 4 steps, not 3" in loaded_note(
        engine, read_run(read_record(record | {"sigmas": record["sigmas"][1:]}))
    )
    record["request"]["sampler"] = "Gone <b>"
    note = loaded_note(engine, read_run(read_record(record)))
    assert "cannot be run again here: Unknown sampler" in note and "<b>" not in note


@pytest.mark.parametrize(
    "sigmas", [None, [], [1.0], ["3", 0], [1.0, -1], [float("inf"), 0], [True, 0], [1e9, 0], [1.0] * 20_001]
)
def test_damaged_lists_are_refused(engine, sigmas):
    record = read_picture(picture(engine, steps=2)[0]).record.data
    with pytest.raises(MetadataError, match="they have no list of sigmas"):
        read_run(read_record(record | {"sigmas": sigmas}))


def test_pictures_of_others_are_refused(tmp_path):
    chunks = PngInfo()
    chunks.add_text("parameters", "a\nSteps: 20, Sampler: Euler a, CFG scale: 7")
    Image.new("RGB", (8, 8)).save(tmp_path / "theirs.png", pnginfo=chunks)
    with pytest.raises(MetadataError, match="made by another program"):
        load(tmp_path / "theirs.png")
    chunks = PngInfo()
    chunks.add_text(KEYWORD, json.dumps({"schema": 1}))
    Image.new("RGB", (8, 8)).save(tmp_path / "empty.png", pnginfo=chunks)
    with pytest.raises(MetadataError, match="no list of sigmas"):
        load(tmp_path / "empty.png")


@pytest.mark.parametrize("sigmas", [[10**400, 0], [float("nan"), 0], [-1, 0], [True, 0]])
def test_a_list_of_what_is_no_level_is_refused(sigmas):
    with pytest.raises(MetadataError, match="no list of sigmas"):
        read_run(read_record({"sigmas": sigmas}))
