"""Convergence: the reference is exact, the slopes are the declared orders, and everybody starts from the same noise."""

import math

import pytest
import torch
from labs import WAIT, done, laboratory

from samplers import Step, sampler
from samplers.closed_form import BimodalDenoiser
from samplers.reference import observed_order, solve_flow
from samplers.registry import Entry, Registry
from webui.core.request import Request, RequestError
from webui.engine.convergence import (
    REFERENCE_STEPS,
    Point,
    Reference,
    group,
    levels_of,
    make_convergence,
    orders,
)
from webui.engine.events import StoppedEarly
from webui.engine.reference_problem import MIXTURE, Excluded, exact_end, mixture_problem, relative_error, solved_end
from webui.tabs.lab.convergence_view import results_table

NATIVE = ("DDIM", "Euler", "Heun", "DPM2", "DPM++ 2M", "DPM++ 2S", "DPM++ 3M", "DEIS", "LMS", "UniPC", "iPNDM")


@pytest.fixture
def engine(registry, tmp_path):
    with laboratory(registry, tmp_path) as running:
        yield running


def parts_of(engine, *names, **more):
    info, parts = done(engine, make_convergence(engine, names, more.pop("schedule", "Exponential"), **more))
    kinds = {kind: [part for part in parts if isinstance(part, kind)] for kind in (Reference, Point, Excluded)}
    return info, *kinds.values()


def test_the_closed_form_solves_the_mixtures_ode():
    """dx/dsigma = (x - D) / sigma along the exact flow, by central differences."""
    x = torch.linspace(-12, 12, 33, dtype=torch.float64)
    for sigma in (0.05, 0.3, 1.0, 4.0):
        at = MIXTURE.flow(x, 6.0, sigma)
        h = 1e-4 * sigma
        slope = (MIXTURE.flow(x, 6.0, sigma + h) - MIXTURE.flow(x, 6.0, sigma - h)) / (2 * h)
        assert torch.allclose(slope, (at - MIXTURE(at, sigma)) / sigma, atol=1e-5)


def test_runge_kutta_is_of_fourth_order():
    x = torch.linspace(-18.0, 20.0, 16, dtype=torch.float64)
    exact = BimodalDenoiser().flow(x, 10.0, 0.1)
    steps = (20, 40, 80, 160)
    errors = [(solve_flow(BimodalDenoiser(), x, 10.0, 0.1, n) - exact).abs().max().item() for n in steps]
    assert observed_order(steps, errors) == pytest.approx(4, abs=0.2) and errors[-1] < 1e-6


def test_the_reference_of_a_model_is_right_where_the_answer_is_known():
    problem = mixture_problem(3)
    exact = exact_end(problem)
    error = relative_error(solved_end(problem, REFERENCE_STEPS), exact)
    assert error < 1e-6
    # And the doubt that is told, from half the steps, is about that error.
    doubt = relative_error(solved_end(problem, REFERENCE_STEPS // 2), solved_end(problem, REFERENCE_STEPS)) / 15
    assert error / 3 < doubt < error * 3


@pytest.mark.parametrize("request_", [None, Request(prompt="a")], ids=["mixture", "model"])
def test_the_cost_told_before_is_the_one_paid(engine, request_):
    task = make_convergence(engine, ["DDIM", "Heun"], "Exponential", request_, budgets=(5, 10))
    counts = task.counts(levels_of(engine, task))
    assert len(counts) == 4 + bool(request_) and sum(counts) == done(engine, task)[0]["calls"]
    assert None in make_convergence(engine, ["Flow"], "Exponential").counts(levels_of(engine, task))


def test_observed_order():
    calls = [5, 10, 20, 40]
    assert observed_order(calls, [n**-3.0 for n in calls]) == pytest.approx(3)
    # The finer half counts, and only what is above the floor.
    assert observed_order(calls, [9, 9, 20**-2.0, 40**-2.0]) == pytest.approx(2)
    assert observed_order([*calls, 80], [*(n**-2.0 for n in calls), 1e-9], floor=1e-8) == pytest.approx(2)
    assert observed_order(calls, [1e-9] * 4, floor=1e-8) is None and observed_order([], []) is None
    assert observed_order([5, 5], [0.1, 0.2]) is None
    assert observed_order(calls, [math.nan, math.inf, 0.1, 0.05]) == pytest.approx(1)


def test_slopes_on_the_mixture_are_the_declared_orders(engine):
    info, (reference,), points, excluded = parts_of(engine, *NATIVE)
    found = orders(points, reference.doubt)
    for name in NATIVE:
        declared = engine.registry.sampler(name).item.order_of()
        assert found[name] == pytest.approx(declared, abs=0.25), name
    assert not excluded and not info["stopped"]
    for _, own in group(points):
        assert [point.calls for point in own] == sorted(point.calls for point in own)
        # Nobody takes more calls than the budget.
        assert own[-1].calls <= 160


def test_an_adaptive_sampler_is_drawn_over_the_calls_it_took(engine):
    _, _, points, _ = parts_of(engine, "Flow")
    assert [point.setting for point in points] == [f"tolerance {t:g}" for t in (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)]
    assert all(a.calls < b.calls and a.error > b.error for a, b in zip(points, points[1:]))
    # A sweep of tolerances has a slope, which is no order of convergence.
    assert orders(points, 0.0) == {}
    assert "over tolerances" in results_table(make_convergence(engine, ["Flow"], "Exponential"), points, {}, [])


def test_noise_is_switched_off_or_the_sampler_left_out_with_the_reason(engine):
    _, _, points, excluded = parts_of(engine, "DDPM", "DPM++ 2M SDE", "DPM++ 2M")
    assert {point.label for point in points} == {"DPM++ 2M SDE (eta 0)", "DPM++ 2M"}
    assert [one.label for one in excluded] == ["DDPM"] and "fresh noise" in excluded[0].reason
    (_, sde), (_, ode) = group(points)
    assert [point.error for point in sde] == pytest.approx([point.error for point in ode])


def test_on_a_model_errors_fall_to_the_reference(engine):
    request = Request(prompt="x" * 30, seed=3)
    info, (reference,), points, _ = parts_of(engine, "Euler", "Heun", request=request, budgets=(10, 20, 40, 80))
    found = orders(points, reference.doubt)
    assert found["Euler"] == pytest.approx(1, abs=0.2) and found["Heun"] == pytest.approx(2, abs=0.3)
    assert reference.doubt <= 1e-5 and f"{4 * REFERENCE_STEPS + 1} network calls" in reference.text
    assert info["calls"] == make_convergence(
        engine, ["Euler", "Heun"], "Exponential", request, budgets=(10, 20, 40, 80)
    ).calls(engine.models()["toy"].schedule)


def test_every_run_starts_from_the_noise_of_the_seed(engine):
    """With one step to 0, Euler's end is the estimate at the start: the same for whoever asks."""
    _, _, points, _ = parts_of(engine, "Euler", "DDIM", budgets=(1,))
    assert points[0].error == points[1].error and points[0].calls == 1


def test_a_sampler_that_fails_is_left_out_and_the_others_go_on(registry, tmp_path):
    @sampler("Broken", calls=1)
    def broken(denoise, x, sigmas, noise):
        yield Step(x * math.nan, 0.0, x)

    known = Registry({**registry.samplers, "Broken": Entry(broken, "test", "1")}, registry.schedules, registry.broken)
    with laboratory(known, tmp_path) as engine:
        _, _, points, excluded = parts_of(engine, "Broken", "Euler", budgets=(5, 10))
    assert {point.label for point in points} == {"Euler"}
    assert len(excluded) == 2 and "not finite" in excluded[0].reason


def test_stop_within_a_network_call(registry, tmp_path, gate):
    with laboratory(registry, tmp_path, gate) as engine:
        job = engine.submit_task(make_convergence(engine, ["Euler"], "Exponential", Request(prompt="x")))
        gate.let(5)
        gate.arrived(6)
        engine.stop(job)
        gate.let(1)
        outcome = job.wait(WAIT)
        assert isinstance(outcome, StoppedEarly) and len(engine.opened[0].calls) == 6


def test_the_mixture_needs_no_model(engine):
    done(engine, make_convergence(engine, ["Euler"], "Karras", budgets=(5,)))
    assert not engine.opened


@pytest.mark.parametrize(
    "names, more, problem",
    [
        ([], {}, "at least one sampler"),
        (["Oiler"], {}, "Unknown sampler 'Oiler'"),
        (["Euler"], {"schedule": "Karas"}, "Unknown schedule 'Karas'"),
        (["DDIM"], {"options": {"DDIM": {"eta": 3}}}, "allowed is a number from 0 to 1"),
        (["Euler"], {"schedule_options": {"nothing": 1}}, "has no option"),
        (["Euler"], {"request": Request(model="nowhere")}, "Unknown model"),
        (["Euler"] * 13, {}, "takes 12"),
    ],
)
def test_a_measurement_that_cannot_be_is_refused(engine, names, more, problem):
    more = dict(more)
    with pytest.raises(RequestError, match=problem):
        make_convergence(engine, names, more.pop("schedule", "Exponential"), **more)


def test_a_public_page_allows_less(registry, tmp_path):
    with laboratory(registry, tmp_path, public=True) as engine:
        with pytest.raises(RequestError, match="allowed here are 4000"):
            make_convergence(engine, NATIVE, "Exponential", Request(), budgets=(5, 10, 20, 40, 80, 160, 320))
