"""Paths in the plane: the picture's density, arrows and lines are those of the mathematics."""

import math
from dataclasses import replace

import pytest
import torch
from labs import WAIT, done, laboratory

from samplers.reference import solve_flow
from samplers.registry import Entry, Registry
from samplers.sampler import schedule
from samplers.schedule import stable_diffusion
from webui.core.request import RequestError
from webui.engine.events import StoppedEarly
from webui.tabs.lab.figures import plane_figure
from webui.tabs.lab.plane import (
    DENSITIES,
    REACH,
    PathFailed,
    PlanePath,
    direction,
    exact_path,
    lattice,
    make_paths,
    probability,
)


@pytest.fixture
def engine(registry, tmp_path):
    with laboratory(registry, tmp_path) as running:
        yield running


def paths(engine, *names, density="Three blobs", schedule="Karras", steps=10, points=2, **more):
    _, parts = done(engine, make_paths(engine, density, names, schedule, steps, points, **more))
    found = {}
    for part in parts:
        found.setdefault(part.label, []).append(part)
    return found


@pytest.mark.parametrize("name", DENSITIES)
@pytest.mark.parametrize("sigma", [0.0, 0.4, 3.0])
def test_a_density_sums_to_one(name, sigma):
    places = lattice(251, 5.0)
    total = probability(DENSITIES[name](), places, sigma).sum().item() * (10.0 / 250) ** 2
    assert total == pytest.approx(1, abs=1e-3)


def test_the_lattice_goes_row_by_row():
    assert lattice(2, 1.0).tolist() == [[-1, -1], [1, -1], [-1, 1], [1, 1]]


@pytest.mark.parametrize("name", DENSITIES)
def test_the_denoiser_is_the_score_of_the_density(name):
    """Tweedie: D = x + sigma^2 grad log p(x), by automatic differentiation of the drawn density."""
    density, sigma = DENSITIES[name](), 0.7
    s = math.sqrt(1 + sigma**2)
    z = lattice(5, 2.0).requires_grad_()
    (score,) = torch.autograd.grad(probability(density, z, sigma).log().sum(), z)
    x = s * z.detach()
    denoised = density(x.reshape(-1, 1, 1, 2), sigma).reshape(-1, 2)
    assert torch.allclose(denoised, x + sigma**2 * score / s, atol=1e-9)


def test_arrows_point_along_the_flow():
    density, sigma, h = DENSITIES["Three blobs"](), 1.3, 1e-4
    z = lattice(4, 2.0)
    x = (math.sqrt(1 + sigma**2) * z).reshape(-1, 1, 1, 2)
    lower = sigma * math.exp(-h)
    after = solve_flow(density, x, sigma, lower, 1).reshape(-1, 2) / math.sqrt(1 + lower**2)
    assert torch.allclose((after - z) / h, direction(density, z, sigma), atol=1e-3)


def test_the_cost_told_before_is_the_one_paid(engine):
    task = make_paths(engine, "Ring", ["DDIM", "Heun", "Restart"], "Karras", 6, 2)
    assert len(task.counts) == 8 and sum(task.counts) == done(engine, task)[0]["calls"]
    assert make_paths(engine, "Ring", ["Flow"], "Karras", 6, 1).counts[1:] == [None]


def test_all_start_at_the_same_places_and_end_in_the_data(engine):
    found = paths(engine, "DDPM", "DDIM", "Euler", "Heun", "Flow", steps=40)
    assert list(found) == ["Exact flow", "DDPM", "DDIM", "Euler", "Heun", "Flow"]
    for point in range(2):
        starts = {(own[point].xs[0], own[point].ys[0]) for own in found.values()}
        assert len({(round(x, 4), round(y, 4)) for x, y in starts}) == 1
    means = DENSITIES["Three blobs"]().means.reshape(-1, 2)
    for own in found.values():
        for path in own:
            end = torch.tensor([path.xs[-1], path.ys[-1]])
            assert (means - end).norm(dim=1).min() < 1.0
            assert path.sigmas[0] == pytest.approx(stable_diffusion().sigma_max) and len(path.xs) == len(
                path.ys
            ) == len(path.sigmas)


def test_a_path_that_leads_far_out_stays_in_the_picture():
    density = DENSITIES["Ring"]()

    def reach(*xs):
        path = PlanePath("DDPM", 0, (1.0,) * len(xs), xs, (0.0,) * len(xs), 2)
        return plane_figure(density, 1.0, [path]).layout.xaxis.range[1]

    assert reach(0.0, 2.5) == REACH and reach(0.0, -4.0) == pytest.approx(4.2)
    assert reach(0.0, 1e9) == reach(0.0, -7.0) == 2 * REACH and reach(0.0, math.nan, 1.0) == REACH


def test_deterministic_paths_end_where_the_flow_does_and_noise_leads_elsewhere(engine):
    found = paths(engine, "DDPM", "DDIM", "Euler", "Heun", "Flow", steps=100)
    for point in range(2):
        exact, ddpm, ddim, euler, heun, flow = ((own[point].xs[-1], own[point].ys[-1]) for own in found.values())
        assert ddim == pytest.approx(euler, abs=1e-9)
        assert math.dist(heun, exact) < 0.01 and math.dist(flow, exact) < 0.02
        assert math.dist(euler, exact) < 0.2 and math.dist(ddpm, exact) > 0.02
    # A second-order method is nearer to the flow than one of first order.
    few = paths(engine, "Euler", "Heun", steps=20)
    off = {
        name: math.dist(
            (few[name][0].xs[-1], few[name][0].ys[-1]), (few["Exact flow"][0].xs[-1], few["Exact flow"][0].ys[-1])
        )
        for name in few
    }
    assert off["Heun"] < off["Euler"]


def test_an_adaptive_path_shows_the_steps_that_were_taken(engine):
    own = paths(engine, "Flow", points=3)["Flow"]
    assert (
        all(len(path.xs) > 3 for path in own) and len({len(path.xs) for path in own} | {path.calls for path in own}) > 1
    )


def test_the_exact_path_is_converged():
    density = DENSITIES["Two moons"]()
    path, levels = exact_path(density, 0, 5), stable_diffusion()
    x = torch.tensor([path.xs[0], path.ys[0]], dtype=torch.float64) * math.sqrt(1 + levels.sigma_max**2)
    fine = solve_flow(density, x.reshape(1, 1, 1, 2), levels.sigma_max, levels.sigma_min, 2000)
    end = torch.tensor([path.xs[-1], path.ys[-1]], dtype=torch.float64)
    assert (density(fine, levels.sigma_min).flatten() - end).norm() < 1e-3


def test_options_count_and_failures_are_told(engine):
    found = paths(engine, "DDIM", "Flow", options={"DDIM": {"eta": 1.0}, "Flow": {"max_calls": 10}})
    assert all(isinstance(part, PathFailed) and "max_calls" in part.reason for part in found["Flow"])
    assert all(isinstance(part, PlanePath) for part in found["DDIM"])
    plain = paths(engine, "DDIM")
    assert plain["DDIM"][0].xs != found["DDIM"][0].xs


def test_no_model_is_opened_and_progress_is_told(engine):
    job = engine.submit_task(make_paths(engine, "Ring", ["Euler"], "Karras", 5, 3))
    assert job.wait(WAIT) and not engine.opened
    progress = job.snapshot().progress
    assert (progress.step, progress.steps) == (6, 6)


def test_stop(registry, tmp_path):
    with laboratory(registry, tmp_path) as engine:
        task = make_paths(engine, "Ring", ["Euler"], "Karras", 5, 3)
        told = []

        class Impatient(type(task)):
            def run(self, context):
                return super().run(
                    replace(context, should_stop=lambda: len(told) >= 4, tell=lambda event: told.append(event))
                )

        job = engine.submit_task(Impatient(task.name, task.plans, task.seeds))
        assert isinstance(job.wait(WAIT), StoppedEarly) and len(told) == 4


@pytest.mark.parametrize(
    "arguments, problem",
    [
        (("Square", ["Euler"], "Karras", 5, 3), "Unknown density 'Square'; known are Three blobs"),
        (("Ring", [], "Karras", 5, 3), "Choose 1 to 10 samplers"),
        (("Ring", ["Oiler"], "Karras", 5, 3), "Unknown sampler 'Oiler'"),
        (("Ring", ["Euler"], "Karas", 5, 3), "Unknown schedule"),
        (("Ring", ["Euler"], "Karras", 0, 3), "Steps must be a whole number from 1 to 100"),
        (("Ring", ["Euler"], "Karras", 5, 99), "Points must be a whole number from 1 to 24"),
        (("Ring", ["Euler"], "Karras", 5, 3, -2), "Seed must be"),
    ],
)
def test_what_cannot_be_is_refused(engine, arguments, problem):
    with pytest.raises(RequestError, match=problem):
        make_paths(engine, *arguments)


def test_a_schedule_that_fails_is_named(engine):
    def mine(model, steps):
        return [model.sigmas[-1] * (1 - i / (steps - 1)) for i in range(steps)] + [0.0]

    item = schedule("Mine")(mine)
    engine.registry = Registry(engine.registry.samplers, {**engine.registry.schedules, "Mine": Entry(item, "a/b", "1")})
    with pytest.raises(RequestError, match="Schedule Mine or a sampler cannot plan this: ZeroDivisionError"):
        make_paths(engine, "Ring", ["DDIM"], "Mine", 1, 1)
