"""The plots of the Schedule tab as data: right numbers at the right places, nothing that a plugin could inject."""

import pytest
from oracles import sampler, schedule, sd

from samplers.levels import dry_run
from samplers.run import plan
from samplers.schedule import flow
from webui.core.request import RequestError
from webui.tabs.schedule.curves import MEASURES, View, curve, draw, ends_curve, places_of, run_curves


def made(name="DDIM", steps=10, strength=1.0, strength_as="steps", **options):
    return plan(sd(), sampler(name), schedule("Karras"), steps, options, {}, strength, strength_as)


def shown(name="DDIM", strength=1.0, strength_as="steps", **options):
    run = made(name, strength=strength, strength_as=strength_as, **options)
    return run_curves(name, made(name).sigmas, run.sigmas, dry_run(run))


def traces(drawing):
    return {trace.name: trace for trace in drawing.data}


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("against", ["step", "time"])
@pytest.mark.parametrize("model", [sd(), flow()], ids=["eps", "flow"])
def test_every_measure_has_the_training_behind_and_the_run_in_front(measure, against, model):
    drawing = draw(model, "toy", [curve("Karras", schedule("Karras")(model, 10), "run")], View(measure, against, ()))
    assert list(traces(drawing)) == ["Training of toy", "Karras"]
    training, run = drawing.data
    assert len(run.x) == len(run.y) == len(run.text) == 11 and training.mode == "lines"
    assert drawing.layout.xaxis.autorange == ("reversed" if against == "time" else None)
    if against == "time" and measure == "timestep":
        assert list(run.x) == list(run.y)
    if measure == "log-SNR":
        assert run.y[-1] is None and all(isinstance(value, float) for value in run.y[:-1])


def test_on_log_axes_the_zero_is_left_out():
    drawing = draw(
        sd(), "toy", [curve("Karras", made().sigmas, "run")], View("sigma", "step", ("vertical", "horizontal"))
    )
    run = traces(drawing)["Karras"]
    assert run.y[-1] is None and run.x[0] is None and drawing.layout.yaxis.type == drawing.layout.xaxis.type == "log"
    assert draw(sd(), "toy", [], View("log-SNR", "step")).layout.yaxis.type == "linear"


def test_a_run_that_asks_once_a_step_has_no_rings():
    assert [each.look for each in shown()] == ["run"]


def test_inner_calls_are_rings_at_their_own_sigmas():
    run, calls = shown("Heun")
    assert calls.look == "calls" and calls.name == "Network calls (19)" and calls.places[:3] == (0, 0.5, 1)
    assert calls.sigmas[1] == run.sigmas[1]


def test_churn_is_drawn_above_the_list():
    run, calls = shown("Euler", churn=4.0)
    assert all(asked > level for asked, level in zip(calls.sigmas, run.sigmas, strict=False))
    drawing = draw(sd(), "toy", [run, calls], View())
    assert list(traces(drawing)["Network calls (10)"].y) == list(calls.sigmas)


def test_of_an_adaptive_run_only_its_ends_are_drawn():
    ends = ends_curve("Flow <i>", made("Flow").sigmas)
    assert ends.sigmas == (made().sigmas[0], made().sigmas[-2]) and ends.look == "skipped"
    assert [each.name for each in draw(sd(), "toy", [ends], View()).data][1].startswith("Flow &lt;i&gt;")
    one = made("Flow", steps=1).sigmas
    assert ends_curve("Flow", one).sigmas == (one[0], one[0])


def test_each_view_says_what_one_sees():
    said = {View(measure, against).sentence for measure in MEASURES for against in ("step", "time")}
    assert len(said) == 8 and all(1 <= sentence.count(".") <= 3 for sentence in said)


def test_the_cut_by_steps_starts_at_a_step():
    run, skipped = shown(strength=0.6)
    assert run.places == (4, 5, 6, 7, 8, 9, 10) and run.sigmas == made().sigmas[4:]
    assert skipped.places == (0, 1, 2, 3, 4) and skipped.sigmas == made().sigmas[:5] and skipped.look == "skipped"
    drawing = draw(sd(), "toy", [run, skipped], View(), "76 % noise")
    assert drawing.layout.shapes[0].x0 == 4 and drawing.layout.annotations[0].text == "76 % noise"


def test_the_cut_by_noise_starts_between_two_steps():
    run, skipped = shown(strength=0.6, strength_as="noise")
    whole = made().sigmas
    place = run.places[0]
    assert whole[int(place)] > run.sigmas[0] > whole[int(place) + 1] and run.places[1] == int(place) + 1
    assert skipped.places[-1] == place and skipped.sigmas[-1] == run.sigmas[0]


@pytest.mark.parametrize("strength", [0.01, 0.1, 0.25, 0.5, 0.58, 0.75, 0.99, 1.0])
@pytest.mark.parametrize("meaning", ["steps", "noise"])
@pytest.mark.parametrize("steps", [1, 2, 5, 50])
def test_places_rise_and_end_with_the_schedule(strength, meaning, steps):
    whole, run = made(steps=steps).sigmas, made(steps=steps, strength=strength, strength_as=meaning).sigmas
    places = places_of(whole, run)
    assert len(places) == len(run) and list(places) == sorted(set(places)) and places[0] >= 0 and places[-1] == steps


def test_several_schedules_lie_over_one_another_each_in_its_colour():
    lists = {name: schedule(name)(sd(), 10) for name in ("Karras", "Exponential", "Beta")}
    drawing = draw(
        sd(),
        "toy",
        [curve(name, sigmas, "run" if name == "Karras" else "other") for name, sigmas in lists.items()],
        View(),
    )
    assert (
        list(traces(drawing)) == ["Training of toy", *lists] and len({trace.line.color for trace in drawing.data}) == 4
    )


def test_a_name_from_a_plugin_is_text_and_not_markup():
    drawing = draw(sd(), "<b>toy", [curve("<a href='javascript:1'>x", made().sigmas, "run")], View())
    assert not any("<a" in text or "<b>toy" in text for trace in drawing.data for text in (trace.name, *trace.text))


def test_what_cannot_be_drawn_is_refused_with_what_can():
    with pytest.raises(RequestError, match="sigma, log-SNR, alpha-bar, timestep against step or time"):
        View("entropy")
