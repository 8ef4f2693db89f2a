"""The tables of docs/samplers.md are those that the benchmark makes."""

from __future__ import annotations

import pytest
from conftest import ROOT

from benchmarks.samplers import BUDGETS, SAME, deterministic_options, error, native

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


@pytest.mark.parametrize("name", ["DDIM", "Euler", "Heun", "DPM2", "DPM++ 2M", "DPM++ 3M", "UniPC", "DEIS", "Flow"])
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
