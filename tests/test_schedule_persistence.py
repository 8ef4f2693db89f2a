"""What a browser keeps of the Schedule tab: taken where it fits here and now, else the start of that value alone."""

import math

import pytest
from conftest import toy
from oracles import builtin

from webui.core.limits import LOCAL, PUBLIC
from webui.tabs.schedule.curves import View
from webui.tabs.schedule.run_plot import FIELDS
from webui.tabs.schedule.schedule_state import MORE, recall_more, recall_run
from webui.tabs.schedule.training_curves import training_curves

MODELS = {name: toy(name) for name in ("toy", "other")}
RUN = dict(
    model="other",
    sampler="Heun",
    schedule="Karras",
    steps=12,
    strength=0.5,
    strength_as="noise",
    guidance=3.0,
    guidance_low=0.5,
    guidance_high=5.0,
    hires_scale=2.0,
    hires_steps=5,
    hires_strength=0.4,
    hires_strength_as="noise",
    hires_sampler="Euler",
    hires_schedule="Karras",
)
LOOK = dict(
    compare=["Exponential"],
    measure="log-SNR",
    against="time",
    logs=[],
    at=0.8,
    process="flow",
    kinds=["linear"],
    start=0.001,
    end=0.02,
    zero=True,
    shift=3.0,
    shown="sigma",
)


def run(saved, limits=LOCAL):
    return recall_run(saved, builtin(), MODELS, limits)


def test_what_was_kept_comes_back():
    assert run({**RUN, **LOOK}) == RUN and recall_more({**RUN, **LOOK}, builtin()) == LOOK
    assert tuple(RUN) == FIELDS and tuple(LOOK) == tuple(MORE)


@pytest.mark.parametrize("saved", [None, 5, "x", [], {}, {"steps": None}])
def test_nothing_or_nonsense_is_the_start(saved):
    start = run(saved)
    assert (start["model"], start["sampler"], start["steps"], start["strength"], start["guidance"]) == (
        "toy",
        "DDIM",
        20,
        1.0,
        5.0,
    )
    assert recall_more(saved, builtin()) == MORE
    View(MORE["measure"], MORE["against"], tuple(MORE["logs"]))
    assert training_curves(MORE["kinds"], MORE["start"], MORE["end"], MORE["zero"], MORE["shift"])


@pytest.mark.parametrize(
    "name, value",
    [
        ("model", "gone"),
        ("sampler", "Eular"),
        ("schedule", ["Karras"]),
        ("steps", 1001),
        ("steps", True),
        ("strength", 0),
        ("strength", "1"),
        ("strength_as", "x"),
        ("guidance", 31),
        ("guidance_low", -1),
        ("guidance_high", math.inf),
    ],
)
def test_a_setting_that_does_not_fit_falls_back_alone(name, value):
    assert run({**RUN, name: value}) == {**RUN, name: run(None)[name]}


@pytest.mark.parametrize(
    "name, value",
    [
        ("compare", ["Karas"]),
        ("compare", "Karras"),
        ("compare", [["Karras"]]),
        ("measure", "entropy"),
        ("measure", ["sigma"]),
        ("against", 1),
        ("logs", ["depth"]),
        ("at", 2),
        ("at", math.nan),
        ("at", True),
        ("process", "reverse"),
        ("kinds", ["x"]),
        ("start", 0),
        ("end", 1),
        ("zero", 1),
        ("shift", 0.5),
        ("shown", "timestep"),
    ],
)
def test_a_look_that_does_not_fit_falls_back_alone(name, value):
    assert recall_more({**LOOK, name: value}, builtin()) == {**LOOK, name: MORE[name]}


def test_a_shared_page_has_its_own_limits():
    assert run({**RUN, "steps": 1000})["steps"] == 1000 and run({**RUN, "steps": 1000}, PUBLIC)["steps"] == 20
