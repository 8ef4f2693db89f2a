"""Where guidance acts on the Schedule tab: the marked calls are those that compute the unconditional half."""

import pytest
import torch
from conftest import ToyModel, toy
from oracles import builtin, schedule, sd
from oracles import guided as guided_denoiser

from samplers.guidance import Interval
from samplers.run import run
from samplers.schedule import flow
from webui.core.request import Request
from webui.engine.engine import Engine
from webui.engine.run_preview import dry_run_of, preview_run
from webui.settings import Settings
from webui.tabs.form.form_state import recall_options
from webui.tabs.schedule.curves import MEASURES, View, draw, guided_curve
from webui.tabs.schedule.recorded_run import RecordedRun
from webui.tabs.schedule.run_plot import network_calls, own_curves, redraw
from webui.tabs.schedule.run_summary import guidance_note

INTERVAL = dict(guidance_low=0.5, guidance_high=5.0)
ONE_PASS = (0.0, 0, 0.5, "steps", "", "")


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("guided")
    settings = Settings(root=folder, outputs=folder / "outputs", model="toy")
    return Engine(builtin(), settings, lambda found, device: ToyModel(found), lambda path: {"toy": toy()})


def marks(engine, **fields):
    """(the marked curves, the sentence, the plan) of a run."""
    made = preview_run(engine, dict(schedule="Karras", steps=20, strength=1.0) | fields)
    calls = network_calls(made, dry_run_of(made))
    own = own_curves(made, dry_run_of(made))[0]
    steps = len(made.run.sigmas) - 1
    note = guidance_note(made.request, calls and [sigma for _, sigma in calls], steps)
    return guided_curve(made.request, own.places, calls or ()), note, made


def guided_sigmas(made, request):
    """The sigmas of a real run's network calls that had an unconditional half, on a network that tells its calls."""
    asked_at, guided = [], []
    positive, negative = torch.ones(1, 1, 1), torch.zeros(1, 1, 1)

    def network(scaled, timestep, condition):
        if (condition == 0).any():
            guided.append(asked_at[-1])
        return 0.1 * scaled

    interval = Interval(request.guidance_low, request.guidance_high)
    inner = guided_denoiser(
        network, made.model_info.schedule, "epsilon", positive, negative, request.guidance, interval=interval
    )

    def denoise(x, sigma):
        asked_at.append(sigma)
        return inner(x, sigma)

    run(made.run, denoise, torch.zeros(1, 1, 2, 2), (0,))
    return guided


@pytest.mark.parametrize("sampler", ["DDIM", "Heun", "DPM2", "Euler", "Restart", "DPM++ 2M", "k-diffusion DPM fast"])
@pytest.mark.parametrize(
    "settings",
    [
        INTERVAL,
        dict(guidance_low=0.5),
        dict(guidance_high=5.0),
        {},
        dict(guidance=1.0),
        dict(guidance=0.0, **INTERVAL),
        dict(guidance_low=20.0),
        dict(strength=0.5, **INTERVAL),
        dict(strength=0.5, strength_as="noise", **INTERVAL),
    ],
)
def test_the_marks_are_the_guided_calls_of_a_real_run(engine, sampler, settings):
    options = {"churn": 4.0} if sampler == "Euler" else {}
    curves, note, made = marks(engine, sampler=sampler, options=options, **settings)
    wanted = guided_sigmas(made, made.request)
    assert [sigma for curve in curves for sigma in curve.sigmas] == wanted
    if wanted:
        assert str(len(wanted)) in note and "acts in" in note
        places = curves[0].places
        assert places[0] >= 0 and places[-1] < 20 and (sampler == "Restart" or list(places) == sorted(places))
    else:
        assert "no guidance" in note or "acts nowhere" in note


def test_the_emoji_model_is_asked_twice_where_the_marks_are(emoji):
    """The embedded model's own denoiser, from a request's fields, tells where it computes both halves."""
    request = Request(sampler="DDIM", steps=12, guidance=5.0, **INTERVAL)
    sigmas = schedule("Karras")(emoji.schedule, 12)
    gaps = []
    listen = lambda sigma, gap: gaps.append(sigma)  # noqa: E731
    denoise = emoji.denoiser("red apple", "", request.guidance, **request.conditioning, on_gap=listen)
    for sigma in sigmas[:-1]:
        denoise(torch.zeros(1, *emoji.latents_shape(64, 64)), sigma)
    (curve,) = guided_curve(request, range(13), list(enumerate(sigmas[:-1])))
    assert list(curve.sigmas) == gaps and 0 < len(gaps) < 12


@pytest.mark.parametrize(
    "settings, says",
    [
        (INTERVAL, "Guidance 5 acts in 8 of 20 steps (sigma 0.5 to 5)."),
        (dict(guidance_low=0.5), "Guidance 5 acts in 13 of 20 steps (sigma above 0.5)."),
        (dict(guidance_high=5.0, guidance=7.5), "Guidance 7.5 acts in 15 of 20 steps (sigma up to 5)."),
        ({}, "Guidance 5 acts in all 20 steps."),
        (dict(steps=1), "Guidance 5 acts in the one step."),
        (dict(guidance=1), "Guidance scale 1 is no guidance: no step computes the estimate without the prompt."),
        (dict(guidance=0), "Guidance 0, which ignores the prompt, acts in all 20 steps."),
        (dict(guidance_low=20), "Guidance 5 acts nowhere: no step of this run is at sigma above 20."),
        (dict(sampler="Heun", **INTERVAL), "Guidance 5 acts in 16 of 39 network calls (sigma 0.5 to 5)."),
        (dict(sampler="Flow"), "Guidance 5 acts at every call of this sampler."),
        (dict(sampler="Flow", **INTERVAL), "Guidance 5 acts at every call of this sampler at sigma 0.5 to 5."),
    ],
)
def test_the_sentence_counts_them(engine, settings, says):
    assert marks(engine, **settings)[1] == says


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("against", ["step", "time"])
@pytest.mark.parametrize("model", [sd(), flow()], ids=["eps", "flow"])
def test_a_mark_lies_on_its_curve_in_every_measure(engine, measure, against, model):
    curves, _, made = marks(engine, **INTERVAL)
    drawing = draw(model, "toy", [*own_curves(made, None), *curves], View(measure, against, ()))
    _, own, halo = drawing.data
    assert halo.name == "Guidance 5" and halo.mode == "markers" and halo.zorder < own.zorder and len(halo.x) == 8
    assert set(zip(halo.x, halo.y)) <= set(zip(own.x, own.y))
    # Half transparent and of one colour, so that it stands out on light and dark alike.
    assert halo.opacity < 0.6 and halo.hoverinfo == "skip"


def test_a_loaded_run_has_its_own_mark(engine):
    sigmas = (10.0, 4.0, 1.0, 0.3, 0.0)
    loaded = RecordedRun(Request(steps=4, guidance=3.0, guidance_low=0.5), sigmas, 4, "toy")
    plot = redraw(
        engine,
        {"samplers": {}, "schedules": {}},
        [],
        loaded,
        [],
        "sigma",
        "step",
        [],
        "toy",
        "DDIM",
        "",
        20,
        1.0,
        "steps",
        1.0,
        0.0,
        0.0,
        *ONE_PASS,
    )[0]
    names = [trace.name for trace in plot.data]
    assert (
        names[-1] == f"Guidance 3, {loaded.name}"
        and list(plot.data[-1].y) == [10.0, 4.0, 1.0]
        and "Guidance 1" not in names
    )


def test_the_second_pass_follows_the_first(engine):
    second = (2.0, 10, 0.5, "steps", "Heun", "Exponential")
    given = ("toy", "DDIM", "Karras", 8, 1.0, "steps", 5.0, 0.0, 0.0)
    options = recall_options(None, engine.registry)
    plot, _, said, *_ = redraw(engine, options, [], None, [], "sigma", "step", [], *given, *second)
    curve = next(trace for trace in plot.data if trace.name.startswith("Second pass"))
    wanted = engine.resolve(
        Request(model="toy", schedule="Karras", steps=8, hires_scale=2.0, hires_steps=10).model_copy(
            update=dict(hires_sampler="Heun", hires_schedule="Exponential")
        )
    ).hires_plan
    assert curve.name == "Second pass: Heun, Exponential, 5 steps"
    assert list(curve.y) == list(wanted.sigmas) and list(curve.x) == [8, 9, 10, 11, 12, 13]
    assert f"The second pass enlarges the picture: {wanted.calls} network calls more" in said
    picture = redraw(engine, options, [], None, [], "sigma", "step", [], *given[:4], 0.5, *given[5:], *second)[0]
    assert not [trace for trace in picture.data if trace.name.startswith("Second pass")]


def test_the_second_pass_of_a_finished_run_is_drawn(engine):
    request = Request(steps=2, hires_scale=2.0, hires_sampler="Heun")
    loaded = RecordedRun(request, (10.0, 1.0, 0.0), 2, "toy", (4.0, 0.5, 0.0))
    first, second = loaded.curves(engine)[:2]
    assert (second.name, second.sigmas, second.places) == ("Its second pass: Heun, 2 steps", (4.0, 0.5, 0.0), (2, 3, 4))


def test_a_long_run_is_marked_where_its_steps_start(engine):
    made = preview_run(engine, dict(schedule="Karras", steps=400, strength=1.0, **INTERVAL))
    calls = network_calls(made, None)
    assert [sigma for _, sigma in calls] == list(made.run.sigmas[:-1])


def test_the_menu_of_schedules_tells_of_own_steps_only_while_a_sampler_makes_them(engine):
    def menu(sampler):
        given = ("toy", sampler, "", 5, 1.0, "steps", 1.0, 0.0, 0.0, *ONE_PASS)
        options = recall_options(None, engine.registry)
        return redraw(engine, options, [], None, [], "sigma", "step", [], *given)[-1]

    flow, ddim = menu("Flow"), menu("DDIM")
    assert not flow["interactive"] and flow["info"] == "This sampler makes its own steps."
    # An update that leaves the words out would leave them standing.
    assert ddim["interactive"] and ddim["info"] == ""
