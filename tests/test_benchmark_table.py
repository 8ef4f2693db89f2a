"""The tables of docs/samplers.md are those that the benchmark makes."""

from __future__ import annotations

import pytest
from conftest import ROOT

from benchmarks import calibrations
from benchmarks.fewer_calls import FITTED, PLAIN, Point, fewer_steps_at, table
from benchmarks.samplers import BUDGETS, SAME, deterministic_options, error, first_of, guided_table, native
from webui.core.sampler_advice import advice, first_choice, measured

TWICE = ("DPM2", "DPM++ 2S", "Heun", "RES 2S", "Euler SMEA Dy")  # whose steps are not one call each

TABLES = (ROOT / "docs" / "samplers.md").read_text("utf-8").split("<!-- samplers -->")[1].split("<!-- /samplers -->")[0]
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in TABLES.splitlines() if line.startswith("|")]


def rows_of(name: str) -> list[list[str]]:
    """The row of a native deterministic sampler and those of its namesakes below it."""
    start = next(i for i, row in enumerate(ROWS) if row[0].startswith(f"**{name}**"))
    return ROWS[start : start + 1 + len(SAME.get(name, []))]


def test_every_native_sampler_is_in_a_table(registry):
    for name, sampler in native(registry).items():
        kind = f"**{name}**" if not sampler.stochastic_with(**deterministic_options(name)) else name
        assert any(row[0].startswith(kind) for row in ROWS), (
            f"{name} is missing; run python -m benchmarks.samplers --write"
        )


@pytest.mark.parametrize("name", ["DDIM", "Heun", "DPM++ 3M", "UniPC", "Flow"])
def test_the_native_numbers_are_what_is_measured_today(registry, name):
    options = deterministic_options(name)
    sampler = registry.samplers[name].item
    row = rows_of(name)[0]
    assert row[1].split()[0] == str(sampler.order_of(**options))
    for budget, cell in list(zip(BUDGETS, row[3:]))[:3]:
        assert error(sampler, budget, **options) == pytest.approx(float(cell), rel=0.06)


@pytest.mark.parametrize("name", ["DDIM", "Euler", "Heun", "DPM2", "DPM++ 2M"])
def test_where_the_others_are_right_we_are_equal(name):
    ours, *others = rows_of(name)
    assert others
    for other in others:
        assert other[3:] == ours[3:]


def test_the_page_says_what_the_table_under_guidance_says():
    found = measured()
    text = (ROOT / "docs" / "samplers.md").read_text("utf-8").split("<!-- guided -->\n")[1].split("\n<!--")[0]
    assert text == "\n".join(guided_table(found))
    assert found.first == first_of(found.errors, [name for name in found.errors["Karras"] if name not in TWICE])


def test_advice_names_the_errors_of_the_schedule_and_the_smallest():
    karras, trailing = measured().errors["Karras"], measured().errors["Uniform trailing"]
    best = min(karras, key=lambda name: karras[name][0])
    for schedule, rows in (("Karras", karras), ("Uniform trailing", trailing), ("Laplace", karras)):
        said = advice("Euler", schedule)
        assert f": {', '.join(f'{error:g}' for error in rows['Euler'])}. The smallest: " in said
    assert f"The smallest: {best} {karras[best][0]:g}," in advice("DPM2", "Karras")
    assert advice("DDPM", "Karras") == advice("My own", "") == ""


def test_the_first_choice_is_near_after_the_fewest_calls():
    errors = {"Karras": {"A": (0.5, 0.02, 0.001), "B": (0.4, 0.008, 0.005), "C": (0.3, 0.009, 0.004)}}
    assert first_of(errors, ["A", "B", "C"]).model_dump() == dict(sampler="B", schedule="Karras", steps=12)
    assert first_of(errors, ["A"]).model_dump() == dict(sampler="A", schedule="Karras", steps=20)
    far = {"Karras": {"A": (0.5, 0.2, 0.1), "B": (0.4, 0.3, 0.2)}}
    assert first_of(far, ["A", "B"]).model_dump() == dict(sampler="A", schedule="Karras", steps=20)
    assert first_choice("another model") == {}


def test_ways_to_save_are_compared_with_fewer_steps_at_the_same_cost():
    # Errors that fall as the square of the cost are a line on log axes.
    points = [Point(PLAIN, "Euler", n, 2.0 * n, 1 / n**2) for n in (4, 8, 16)]
    assert fewer_steps_at(points, "Euler", "Karras", 10.0) == pytest.approx(1 / 25)
    assert [fewer_steps_at(points, "Euler", "Karras", cost) for cost in (2.0, 99.0)] == [1 / 16, 1 / 256]
    points += [Point(PLAIN, "Euler", n, 2.0 * n, 0.5 / n**2, "Uniform leading") for n in (4, 8, 16)]
    points += [Point("saving", "Euler", 8, 10.0, 0.02), Point("saving", "Euler", 16, 10.0, 0.08)]
    points += [Point(FITTED, "Calibrated", 5, 10.0, 0.04)]
    told = table(points, Point("default", "DDIM", 50, 100.0, 0.01), "emoji")
    assert "| Euler, Karras, saving | 8 | 10 | 0.02 | 0.04 | 0.50 |" in told and "saving 1.00" in told
    assert "| Calibrated, Karras, fitted to the model | 5 | 10 | 0.04 | 0.02 | 2.00 |" in told, "the best of all others"
    assert "| fewer steps | Euler, Uniform leading | 8 | 16 | 0.0078 |" in told, "the fewest evaluations for 0.02"
    assert "| fitted to the model | none of those measured | | | 0.04 |" in told


def test_a_table_of_calibrations_tells_where_none_won():
    rows = [calibrations.Row(5.0, 4, "Euler, Karras", 0.1, 0.04), calibrations.Row(1.0, 8, "UniPC, Karras", 0.01, None)]
    *_, won, lost = calibrations.table(rows, "emoji").splitlines()
    assert won == "| `emoji`, 5 | 4 | Euler, Karras | 0.100 | 0.040 | 0.40 |"
    assert lost == "| `emoji`, 1 | 8 | UniPC, Karras | 0.010 | none: it did not win | |"
