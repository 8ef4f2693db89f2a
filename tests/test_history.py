"""History is an index of files: it follows them, survives its own loss, and never reads all of them."""

import json
import os
import sqlite3
import time

import gradio as gr
import pytest
from conftest import ToyModel, toy, until, write_png
from PIL import Image
from test_metadata import make, png

from webui.core.request import Request
from webui.engine.engine import Engine
from webui.engine.events import Finished
from webui.page import build_page
from webui.settings import Settings
from webui.tabs.history import history_index, history_tab
from webui.tabs.history.history_index import END, FILE, Index, insert, statement
from webui.tabs.history.history_marks import Marks
from webui.tabs.history.history_store import History
from webui.tabs.history.history_tab import older_page, show_page
from webui.tabs.history.history_widgets import build_widgets

MANY = 20_000
SAMPLERS, MODELS = ("DDIM", "Euler", "Heun", "Flow"), ("toy", "other")


def put(registry, folder, second, day="2030-01-02", **fields):
    """A picture in its place, made at this second."""
    path = folder / day / f"{second:06d}-{fields.setdefault('seed', second)}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(Image.new("RGB", (8, 8)), path, make(registry, **fields)[1])
    os.utime(path, (1_900_000_000 + second,) * 2)
    return path


def prompts(history, *args, **more):
    return [shown.prompt for shown in history.find(*args, **more)]


def found(history, words):
    """The same while the index may be broken."""
    try:
        return prompts(history, words)
    except sqlite3.DatabaseError:
        return []


@pytest.fixture
def three(registry, tmp_path):
    for second, (prompt, sampler) in enumerate(
        [("a red apple", "DDIM"), ("Größe, a RED rocket 🚀", "Euler"), ("赤い林檎", "DDIM")]
    ):
        put(registry, tmp_path, second, prompt=prompt, sampler=sampler)
    made = Index(tmp_path)
    made.sync()
    return made


def test_newest_first_and_filtered(three, tmp_path):
    assert prompts(three) == ["赤い林檎", "Größe, a RED rocket 🚀", "a red apple"]
    assert prompts(three, "red") == ["Größe, a RED rocket 🚀", "a red apple"]
    assert prompts(three, "roc re") == ["Größe, a RED rocket 🚀"]
    assert prompts(three, "größe") == ["Größe, a RED rocket 🚀"]
    assert prompts(three, "🚀") == ["Größe, a RED rocket 🚀"] and prompts(three, "赤い") == ["赤い林檎"]
    assert prompts(three, sampler="DDIM") == ["赤い林檎", "a red apple"] and prompts(three, model="other") == []
    assert prompts(three, "red", "DDIM", "toy") == ["a red apple"]
    (one,) = three.find("apple")
    assert (one.seed, one.sampler, one.model, one.path) == (0, "DDIM", "toy", tmp_path / "2030-01-02" / "000000-0.png")
    assert three.names("sampler") == ["DDIM", "Euler"] and three.names("model") == ["toy"]


@pytest.mark.parametrize(
    "typed",
    ['"', "*", "AND", "NOT red", "prompt: red", "(", "red)", "a^b", "-", "' OR 1=1 --", "\0", "  ", "NEAR(a b)"],
)
def test_what_is_typed_is_words_and_never_a_query(three, typed):
    three.find(typed)
    assert len(prompts(three)) == 3


def test_pages(three):
    first = three.find(limit=2)
    assert [shown.prompt for shown in first] == ["赤い林檎", "Größe, a RED rocket 🚀"]
    assert prompts(three, before=first[-1].id, limit=2) == ["a red apple"]


def test_it_follows_the_files(three, registry, tmp_path):
    put(registry, tmp_path, 9, prompt="later")
    (tmp_path / "2030-01-02" / "000000-0.png").unlink()
    put(registry, tmp_path, 10, day="2030-01-03", prompt="next day")
    three.sync()
    assert prompts(three) == ["next day", "later", "赤い林檎", "Größe, a RED rocket 🚀"]
    assert prompts(three, "apple") == []
    for path in (tmp_path / "2030-01-03").iterdir():
        path.unlink()
    (tmp_path / "2030-01-03").rmdir()
    three.sync()
    assert prompts(three)[0] == "later"


def test_a_restart_reads_nothing_again(three, registry, tmp_path, monkeypatch):
    past = time.time() - 100
    os.utime(tmp_path / "2030-01-02", (past, past))
    three.sync()
    read = []
    monkeypatch.setattr(history_index, "facts", lambda path: read.append(path) or ("x", "", "", 1))
    again = Index(tmp_path)
    again.sync()
    assert read == [] and len(prompts(again)) == 3
    new = put(registry, tmp_path, 7)
    again.sync()
    assert read == [new]


@pytest.mark.parametrize("damage", ["gone", "garbage", "empty", "old"])
def test_a_lost_index_is_made_again(three, tmp_path, damage):
    file = tmp_path / FILE
    if damage == "old":
        with sqlite3.connect(file) as db:
            db.execute("PRAGMA user_version = 99")
    else:
        for path in tmp_path.glob(f"{FILE}*"):
            path.unlink()
        if damage != "gone":
            file.write_bytes(b"not a database, whatever its name says " * 100 if damage == "garbage" else b"")
    fresh = History(tmp_path)
    assert fresh.refresh(30) is True
    assert len(prompts(fresh)) == 3


def test_what_cannot_be_read_is_shown_without_words(three, registry, tmp_path):
    (tmp_path / "2030-01-02" / "000100-1.png").write_bytes(b"not a picture")
    png(
        tmp_path / "2030-01-02" / "000101-1.png", ("parameters", "a foreign cat\nSteps: 20, Sampler: Euler a, Model: x")
    )
    (tmp_path / "2030-01-02" / ".000102-1.png.part").touch()
    (tmp_path / "inputs").mkdir()
    png(tmp_path / "inputs" / "0123456789abcdef.png")
    three.sync()
    assert len(prompts(three)) == 5 and "" in prompts(three) and prompts(three, "foreign") == ["a foreign cat"]


def test_an_odd_file_costs_its_own_words_and_no_others(registry, tmp_path, monkeypatch):
    put(registry, tmp_path, 1, prompt="good")
    odd = tmp_path / "2030-01-02" / "000002-2.png"
    record = make(registry)[1]
    record["request"]["prompt"], record["image"]["seed"] = "half a \ud83d rocket", 2**70
    write_png(Image.new("RGB", (8, 8)), odd, record)
    failing = put(registry, tmp_path, 3, prompt="failing")
    real = history_index.read_picture
    monkeypatch.setattr(history_index, "read_picture", lambda path: 1 / 0 if path == failing else real(path))
    history = History(tmp_path)
    assert history.refresh(30)
    assert set(prompts(history)) == {"good", "half a ? rocket", ""}
    assert history.find("rocket")[0].seed is None


def test_hearts_cells_and_deleted_pictures(registry, tmp_path):
    """A heart, the Lab's cells and a deletion are kept beside the index, which may be lost."""
    for second in range(3):
        put(registry, tmp_path, second)
    three = History(tmp_path)
    three.refresh(30)
    newest, middle, oldest = three.find()
    marks = three.marks
    assert marks.hearts() == [] and marks.turn_heart(oldest.path)
    Index(tmp_path).remove()
    three.refresh(30)
    hearts = Marks(tmp_path).hearts()
    assert [one.path for one in three.find(only=hearts)] == [oldest.path] and three.count(only=hearts) == 1
    assert not marks.turn_heart(oldest.path) and three.find(only=marks.hearts()) == []
    (tmp_path / "lab").mkdir()
    lines = [json.dumps({"file": marks.name_of(middle.path)}), "no JSON", json.dumps({"key": "without a file"})]
    (tmp_path / "lab" / "cells.jsonl").write_text("\n".join(lines))
    cells = marks.cells()
    assert [one.path for one in three.find(without=cells)] == [newest.path, oldest.path]
    assert three.count(without=cells) == 2 and three.count() == 3 and three.count("nothing like it") == 0
    bytes_before = newest.path.read_bytes()
    gone = marks.delete(newest.path)
    assert three.refresh(30) and not newest.path.exists() and three.count() == 2
    assert marks.bring_back(gone) == newest.path and newest.path.read_bytes() == bytes_before
    assert three.refresh(30) and three.count() == 3


def test_turning_goes_on_behind_files_that_are_gone(three, tmp_path, monkeypatch):
    monkeypatch.setattr(history_tab, "PAGE", 1)
    for path in (tmp_path / "2030-01-02").glob("*2.png"):
        path.unlink()
    history, anything, cursors, seen = History(tmp_path), ("", "", "", False, False), (END,), []
    with gr.Blocks():
        view = build_widgets()
    for _ in range(4):
        found = three.find(*anything[:3], cursors[-1], 2)
        updates = show_page(view, found, cursors, True, False, 3)
        seen.append((len(updates[view.gallery]["value"]), updates[view.older]["visible"]))
        cursors = older_page(history, anything, cursors)
    assert seen == [(0, True), (1, True), (1, False), (0, False)]
    assert len(cursors) == 4


def test_an_empty_folder_is_an_empty_history(tmp_path):
    history = History(tmp_path / "none")
    assert history.refresh(30) and history.find() == [] and history.names("sampler") == []
    assert not (tmp_path / "none").exists()


@pytest.fixture
def drawn(registry, tmp_path):
    """drawn(prompt): a picture made by an engine that tells the history of the folder, and the name of its file."""
    history = History(tmp_path)
    settings = Settings(root=tmp_path, outputs=tmp_path, model="toy")
    engine = Engine(
        registry, settings, lambda found, device: ToyModel(found), lambda path: {"toy": toy()}, on_saved=history.add
    )
    engine.start()

    def draw(prompt):
        job = engine.submit(Request(prompt=prompt, steps=1, seed=7))
        assert isinstance(job.wait(60), Finished), job.outcome
        return job.pictures[0].path

    yield draw
    engine.close()


def test_a_picture_is_in_the_index_as_soon_as_it_is_saved(drawn, three, tmp_path):
    path = drawn("a fresh whale")
    until(lambda: prompts(three, "whale"))
    (one,) = three.find("whale")
    assert (one.path, one.sampler, one.model, one.seed) == (path, "DDIM", "toy", 7)
    three.sync()
    assert len(three.find()) == 4 and three.find("whale") == [one]


@pytest.mark.parametrize("trouble", ["locked", "missing", "garbage", "read-only", "a folder"])
def test_trouble_with_the_index_costs_no_picture(drawn, three, tmp_path, trouble, monkeypatch, caplog):
    """The job ends well and soon whatever the state of the index; the next look at the latest finds the picture."""
    file, looked = tmp_path / FILE, History(tmp_path)
    if trouble == "locked":
        other = sqlite3.connect(file, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
    elif trouble == "read-only":
        real = sqlite3.connect
        monkeypatch.setattr(sqlite3, "connect", lambda path, **more: real(f"file:{path}?mode=ro", uri=True, **more))
    else:
        for path in tmp_path.glob(f"{FILE}*"):
            path.unlink()
        if trouble == "garbage":
            file.write_bytes(b"not a database, whatever its name says " * 100)
        elif trouble == "a folder":
            file.mkdir()
    drawn("a fresh whale")
    if trouble == "locked":
        assert prompts(three, "whale") == []
        other.execute("ROLLBACK")
        other.close()
    elif trouble in ("read-only", "a folder"):
        until(lambda: "could not be brought up to date" in caplog.text)
        monkeypatch.undo()
        if trouble == "a folder":
            file.rmdir()
        assert looked.refresh(30)
    until(lambda: found(three, "whale"))
    assert looked.refresh(30) and len(prompts(three)) == 4


def test_a_picture_elsewhere_is_no_part_of_the_history(three, registry, tmp_path):
    replayed = put(registry, tmp_path / "replayed", 5, prompt="whale")
    (tmp_path / "inputs").mkdir()
    three.put([replayed, png(tmp_path / "inputs" / "abc.png"), tmp_path / "2030-01-02" / "gone.png"])
    assert len(prompts(three)) == 3


def test_a_new_picture_does_not_wait_for_the_old_ones_to_be_read(registry, tmp_path, monkeypatch):
    for second in range(3):
        put(registry, tmp_path, second, day=f"2029-01-0{second + 1}", prompt="old")
    monkeypatch.setattr(history_index, "STEP", 1)
    history, seen = History(tmp_path), []

    def pause(seconds):
        if not seen:
            history.add(put(registry, tmp_path, 9, prompt="new"))
        seen.append(prompts(history))

    monkeypatch.setattr(history_index.time, "sleep", pause)
    history.refresh(30)
    assert seen[0] == ["old"] and seen[1] == ["new", "old", "old"]


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """An index of many pictures that are not there, and a connection to it."""
    folder = tmp_path_factory.mktemp("many")
    (folder / "2030-01-01").mkdir()
    history = Index(folder)
    history.sync()
    db = sqlite3.connect(folder / FILE)
    words = ("red", "blue", "green", "apple", "rocket", "whale", "cake")
    rows = (
        (
            i * 1_000,
            f"d{i // 1000}",
            f"{i}.png",
            f"{words[i % 7]} {words[i % 5]} number{i}",
            SAMPLERS[i % 4],
            MODELS[i % 2],
            i,
        )
        for i in range(MANY)
    )
    insert(db, rows)
    yield history, db
    db.close()


FILTERS = [
    ("", "", ""),
    ("", "Euler", ""),
    ("", "", "toy"),
    ("", "Euler", "other"),
    ("red", "", ""),
    ("number19", "", ""),
    ("red", "Heun", "toy"),
    ("nothing", "", ""),
]


@pytest.mark.parametrize("filters", FILTERS)
@pytest.mark.parametrize("before", [END, MANY * 500, 5_000])
def test_a_page_is_found_through_an_index_and_costs_the_same_anywhere(many, filters, before):
    _, db = many
    sql, values = statement(*filters, before, 24)
    plan = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {sql}", values)]
    assert not any("TEMP B-TREE" in step for step in plan), plan
    assert all("VIRTUAL TABLE INDEX" in step for step in plan if step.startswith("SCAN")), plan
    steps = []
    db.set_progress_handler(lambda: steps.append(1), 100)
    db.execute(sql, values).fetchall()
    db.set_progress_handler(None, 0)
    assert len(steps) * 100 < 5_000  # instructions of SQLite's machine; walking over all rows takes over 100 000


def test_the_names_of_many_are_found_through_an_index(many):
    history, db = many
    assert history.names("sampler") == sorted(SAMPLERS) and history.names("model") == sorted(MODELS)
    assert len(history.find("red", "Euler")) == 24


def test_many_pictures_are_read_in_small_steps(registry, tmp_path, monkeypatch):
    """While the index is being filled, what is in it can be found, and a break loses nothing."""
    day = tmp_path / "2030-01-01"
    day.mkdir()
    for i in range(250):
        (day / f"{i:06d}-{i}.png").touch()
    history, counted = Index(tmp_path), []

    def pause(seconds):
        counted.append(len(history.find(limit=1000)))
        if len(counted) == 2:
            raise OSError("the machine was switched off")

    monkeypatch.setattr(history_index.time, "sleep", pause)
    with pytest.raises(OSError):
        history.sync()
    assert counted == [100, 200]
    read = []
    monkeypatch.setattr(history_index, "facts", lambda path: read.append(path) or ("", "", "", None))
    Index(tmp_path).sync()
    assert len(read) == 50 and len(history.find(limit=1000)) == 250


def test_a_shared_page_has_no_history(registry, tmp_path):
    def tabs(**more):
        settings = Settings(root=tmp_path, outputs=tmp_path / "outputs", model="toy", **more)
        blocks = build_page(Engine(registry, settings, lambda f, d: None, lambda path: {"toy": toy()}))
        return {block.label for block in blocks.blocks.values() if type(block).__name__ == "Tab"}

    assert "History" in tabs() and "History" not in tabs(share=True)


def test_an_index_that_cannot_be_written_is_told_instead_of_nothing(registry, tmp_path, monkeypatch):
    def read_only(self, between):
        raise sqlite3.OperationalError("attempt to write a readonly database")

    put(registry, tmp_path, 1)
    monkeypatch.setattr(Index, "sync", read_only)
    settings = Settings(root=tmp_path, outputs=tmp_path, model="toy")
    blocks = build_page(Engine(registry, settings, lambda f, d: None, lambda path: {"toy": toy()}))
    named = {getattr(each.fn, "__qualname__", ""): each.fn for each in blocks.fns.values()}
    updates = named["build_history.<locals>.refresh"]("", "", "", False, False, None)
    note = next(update for block, update in updates.items() if block.elem_id == "history-note")
    assert "readonly database" in str(note) and FILE in str(note) and "Nothing made" not in str(note)


def test_a_pipe_among_the_pictures_is_passed_over(registry, tmp_path):
    put(registry, tmp_path, 1, prompt="good")
    os.mkfifo(tmp_path / "2030-01-02" / "x.png")
    history = History(tmp_path)
    assert history.refresh(30) and sorted(prompts(history)) == ["", "good"]
