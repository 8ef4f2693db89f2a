"""What the Lab shows: words, tables and plots, with everything that is not ours escaped."""

import json
from pathlib import Path

import pytest
from labs import laboratory

from samplers.registry import Entry, Registry
from samplers.sampler import Sampler
from webui.core.request import Request, RequestError
from webui.engine.convergence import Point, make_convergence
from webui.engine.events import Failed, Finished, Progress, Snapshot, StoppedEarly
from webui.engine.reference_problem import Excluded
from webui.tabs.lab.axes import read_axis
from webui.tabs.lab.cell_cache import CellPicture
from webui.tabs.lab.compare import CellFailed, CellMade, Cost
from webui.tabs.lab.compare_presets import GUIDANCE, SAMPLERS, WORD, every_sampler, preset_axes, replacement
from webui.tabs.lab.convergence_view import results_table
from webui.tabs.lab.figures import change_figure, convergence_figure, gap_figure, noise_figure, plane_figure
from webui.tabs.lab.grid import make_grid
from webui.tabs.lab.grid_table import grid_html
from webui.tabs.lab.lab_text import ahead_text, compared, cost_text, percent_done, status
from webui.tabs.lab.plane import DENSITIES, PlanePath, exact_path
from webui.tabs.lab.trajectory import Frame
from weights.card import Card

EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture
def engine(registry, tmp_path):
    with laboratory(registry, tmp_path) as running:
        yield running


def grid(engine, *axes):
    return make_grid(
        engine, Request(prompt="red apple", seed=1, steps=3), [read_axis(*axis, engine.registry) for axis in axes]
    )


def test_a_table_shows_each_cell_in_its_state(engine):
    plan = grid(engine, ("sampler", ["DDIM", "Euler"]), ("option:eta", "0, 1"), ("seed", "5, 6"))
    done = {
        0: CellMade(0, CellPicture(Path("a.png"), 1.5, 3.0)),
        2: CellMade(2, CellPicture(Path("b.png"), 0.25, 3.0), reused=True),
    }
    html = grid_html(plan, done, {0: "cache dir/a.png", 2: "b.png"}, at_work=True)
    assert html.count("<table") == 2 and "Seed: 5" in html and "Seed: 6" in html
    assert "gradio_api/file=cache%20dir/a.png" in html and "3 calls" in html and html.count("made before") == 1
    assert html.count('class="none"') == 4 and "Sampler Euler has no option &#39;eta&#39;" in html
    assert html.count('class="making"') == 1 and html.count('class="coming"') == 1
    assert html.index('class="making"') > html.index("b.png")
    ended = grid_html(plan, done, {}, at_work=False)
    assert 'class="making"' not in ended
    # Times are medians, told on request, once nothing is at work.
    assert "Times" in ended and "DDIM 0.9 s" in ended and "Times" not in html


def test_labels_and_reasons_are_text(engine):
    plan = grid(engine, ("prompt", f"red -> {EVIL}, blue"))
    html = grid_html(plan, {0: CellFailed(0, EVIL)}, {}, at_work=False)
    assert EVIL not in html and html.count("&lt;img src=x") == 2


def test_ready_comparisons_are_axes(engine):
    registry = engine.registry
    for name, expected in ((SAMPLERS, 4 * len(every_sampler(registry))), (GUIDANCE, 6), (WORD, 6)):
        described = preset_axes(name, "a red apple, glossy", registry, None, 400)
        axes = [read_axis(one.kind, one.picked or one.typed, registry) for one in described if one.kind]
        plan = make_grid(engine, Request(prompt="a red apple, glossy", seed=1), axes)
        assert len(plan.cells) == expected
    assert "Euler" in every_sampler(registry) and not any(
        name.startswith("diffusers") for name in every_sampler(registry)
    )
    assert len(preset_axes(SAMPLERS, "", registry, None, 36)[1].picked) == 9
    card = Card(draws="things", familiar=("apple", "cat face", "red, white"))
    assert replacement("a Red Apple, glossy", card) == "Apple -> Apple, cat face"
    assert replacement("glossy!", card).startswith("glossy -> glossy, apple, cat face")
    with pytest.raises(RequestError, match="Write a prompt first"):
        replacement(" , ", card)


def test_what_a_grid_will_cost():
    assert cost_text(Cost(3, 0, 34, 0, 12.2), 0) == "To make: 3 pictures, 34 network calls, about 13 s."
    assert cost_text(Cost(1, 1, 1, 0, None), 2) == (
        "To make: 1 picture, 1 network call. 1 cell made before is taken. 2 cells cannot be made and will say why."
    )
    assert "4 network calls and as many as they need for 2 adaptive cells" in cost_text(Cost(3, 0, 4, 2, None), 0)
    assert ahead_text("One picture", [39]) == "One picture: 39 network calls."
    assert ahead_text("One picture", [None]) == "One picture: as many as it needs for 1 adaptive run."
    assert (
        ahead_text("All runs", [3, None, None], "call")
        == "All runs: 3 calls and as many as they need for 2 adaptive runs."
    )
    assert cost_text(Cost(0, 5, 0, 0, 0), 0).startswith("All 5 cells are there already")
    assert (
        compared(dict(made=1, reused=2, seconds=3.0, calls=20, seed=7))
        == "1 picture made in 3.0 s · 2 made before · 20 network calls · seed 7 stays in the settings"
    )


def test_where_a_tool_is_and_how_it_ended():
    def said(**more):
        return status(
            Snapshot(**dict(state="", position=None, progress=None, pictures=(), outcome=None) | more),
            "idle",
            lambda info: "done",
        )

    assert "idle" in status(None, "idle", str)
    assert "Waiting: 2 jobs ahead" in said(position=2)
    running = said(progress=Progress(calls=5, total_calls=20, seconds=2.0, remaining=6.0, preview=b"x", text=EVIL))
    assert "network call 5 of 20 · about 6.0 s left" in running
    assert 'aria-valuenow="25"' in running
    assert EVIL not in running
    assert "data:image/jpeg;base64,eA==" in running
    assert said(outcome=Failed(EVIL), parts=(1,)).count("&lt;img") == 1 and "is kept" in said(
        outcome=Failed("x"), parts=(1,)
    )
    assert "nothing was finished before it" in said(outcome=StoppedEarly({"stopped": True}))
    assert "Stopped; what was finished is kept. done" in said(
        outcome=StoppedEarly({"stopped": True, "made": 1}), parts=(1,)
    )
    assert "done" in said(outcome=Finished({"stopped": False}))


def test_the_bar_goes_by_calls_or_time_or_steps():
    assert percent_done(Progress(calls=1, total_calls=2)) == 50
    assert percent_done(Progress(calls=1, seconds=3.0, remaining=1.0)) == 75
    assert percent_done(Progress(step=1, steps=5)) == 20
    assert percent_done(Progress(calls=3, step=1, steps=5)) is None
    waiting = status(Snapshot("", 0, None, (), None), "idle", str)
    assert 'class="unknown"' in waiting and "aria-valuenow" not in waiting


def test_convergence_is_drawn_on_logarithmic_axes_with_slopes(engine):
    points = [Point("Euler", n, 1 / n, f"{n} steps") for n in (5, 10, 20)] + [
        Point(EVIL, 5, 0.5, "x"),
        Point("Zero", 5, 0.0, "y"),
    ]
    drawing = convergence_figure(points, {"Euler": 1.0}, 1e-2)
    assert drawing.layout.xaxis.type == drawing.layout.yaxis.type == "log"
    names = [trace.name for trace in drawing.data]
    assert "Euler, slope 1.0" in names and "error of the reference" in names
    assert EVIL not in json.dumps(drawing.to_plotly_json(), default=str)
    assert drawing.data[names.index("Zero")].y == (None,)
    # Nothing is drawn for points that cannot be on such axes, and nothing fails.
    convergence_figure([], {}, 0.0)
    convergence_figure([Point("Zero", 5, 0.0, "y"), Point("Nan", 9, float("nan"), "y")], {}, 1e-12)
    task = make_convergence(engine, ["Euler"], "Karras")
    table = results_table(task, points, {"Euler": 1.0}, [Excluded(EVIL, EVIL)])
    assert EVIL not in table and '<td data-label="declared order">1</td><td data-label="measured">1.00</td>' in table


def test_a_plugin_that_cannot_tell_its_order_is_still_in_the_table(registry, tmp_path):
    good = registry.sampler("Euler").item
    odd = Sampler("Odd", good.function, (), order=lambda: 1 / 0, calls=1)
    known = Registry({"Odd": Entry(odd, "test", "1")}, registry.schedules, ())
    with laboratory(known, tmp_path) as engine:
        task = make_convergence(engine, ["Odd"], "Karras")
    assert "Odd" in results_table(task, [Point("Odd", 5, 0.1, "x")], {}, [])


def test_trajectories_are_drawn_with_what_there_is():
    frames = [
        Frame(0, 10.0, b""),
        Frame(1, 1.0, b"", 10.0, b"", 0.9, None, 0.3),
        Frame(2, 0.0, b"", 1.0, b"", 0.0, 0.2, 0.1),
    ]
    assert noise_figure(frames).data[0].y == (10.0, 1.0, None)
    assert change_figure(frames).data[0].y == (None, 0.9, None) and change_figure(frames).data[1].y == (None, None, 0.2)
    assert gap_figure(frames).data[0].y == (None, 0.3, 0.1) and not gap_figure(frames).layout.annotations
    assert "No gap" in gap_figure(frames[:1]).layout.annotations[0].text


def test_paths_are_drawn_and_marked_where_they_are_at_the_noise_level():
    density = DENSITIES["Ring"]()
    path = PlanePath(EVIL, 0, (14.0, 2.0, 0.5, 0.0), (0.0, 1.0, 2.0, 2.5), (0.0, 0.1, 0.2, 0.3), 3)
    drawing = plane_figure(density, 1.0, [exact_path(density, 0, 1), path])
    text = json.dumps(drawing.to_plotly_json(), default=str)
    assert EVIL not in text and "&lt;img" in text
    mark = drawing.data[-1]
    # The last state that is not yet below the level.
    assert (mark.x, mark.y) == ((1.0,), (0.1,))
