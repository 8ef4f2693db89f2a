"""A schedule that is fitted to a model: its fit on a closed form, what is kept of it, and pictures that carry it."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from labs import done, laboratory
from test_calibration import MODEL, Mixture, starts
from test_replay import make

from samplers import schedule
from samplers.fitting_denoiser import FittingDenoise
from samplers.run import Plan, run
from samplers.schedule import cut
from samplers.testing import CheckFailed, check_schedule
from webui.core.calibrations import (
    FILE,
    Calibration,
    CalibrationFile,
    MeasuredErrors,
    Plain,
    ScheduleCalibration,
    keep_calibrations,
    read_calibrations,
)
from webui.core.picture_metadata import read_picture
from webui.core.request import Request
from webui.engine.calibrated_runs import with_coefficients
from webui.engine.calibration import Calibrated, make_calibration
from webui.engine.run_preview import preview_run
from webui.replay_command import replay_file
from webui.tabs.form.form_events import fitted_plan
from webui.tabs.lab.calibrate_view import exported, take_file

SIGMAS = [10.0, 2.0, 0.3]


@pytest.mark.parametrize("steps, share", [(3, 1.01), (6, 0.95)])
def test_euler_ends_nearer_on_the_fitted_sigmas_than_on_any_other(registry, steps, share):
    denoise, item = Mixture(), registry.schedules["Calibrated"].item
    found = item.calibrate(FittingDenoise(lambda _: denoise, 16), starts(range(16), MODEL.sigma_max), steps, None)
    assert found == json.loads(json.dumps(found)) and len(found["sigmas"]) == steps
    euler, held_out = registry.samplers["Euler"].item, range(100, 132)
    exact = denoise.exact(starts(held_out, MODEL.sigma_max))

    def error(sigmas):
        end = run(Plan(euler, euler.resolve({}), sigmas), denoise, torch.zeros_like(exact), held_out).x
        return (end - exact).flatten(1).square().mean(1).sqrt().mean().item()

    plain = ("Karras", "Exponential", "Uniform trailing", "Align Your Steps", "GITS")
    least = min(error(registry.schedules[name].item(MODEL, steps)) for name in plain)
    assert error(item(MODEL, steps, coefficients=found)) < share * least


def test_without_coefficients_it_is_that_of_karras(registry):
    for steps in (1, 7):
        made, karras = (registry.schedules[name].item(MODEL, steps) for name in ("Calibrated", "Karras"))
        assert made == pytest.approx(karras)


@pytest.mark.parametrize(
    "found, said",
    [
        ({"sigmas": torch.ones(2)}, "a dict of JSON data"),
        ({"sigmas": [1.0, 2.0]}, "did not give"),
        ({"sigmas": [100.0, 1.0]}, "sigmas that the model was trained on"),
    ],
)
def test_a_fit_that_breaks_the_contract_is_named(found, said):
    @schedule("Broken", calibrate=lambda *given: found)
    def broken(model, steps, *, coefficients=None):
        karras = [
            model.sigma_max * (model.sigma_min / model.sigma_max) ** (i / max(1, steps - 1)) for i in range(steps)
        ]
        return coefficients["sigmas"] if coefficients else karras

    with pytest.raises(CheckFailed, match=said):
        check_schedule(broken)


def test_a_schedule_that_is_calibrated_takes_coefficients():
    with pytest.raises(TypeError, match="must take the keyword argument coefficients=None"):
        schedule("A", calibrate=lambda *given: {})(lambda model, steps: [])


def fitted(registry, weights, **changes):
    """A calibration of the schedule that ships."""
    given = dict(weights=weights, schedule=registry.schedules["Calibrated"].id, version="1", guidance=4.0)
    given |= dict(width=64, height=64, sampler="Euler", sigmas=[*SIGMAS, 0.0], coefficients={"sigmas": SIGMAS})
    return ScheduleCalibration(**given | dict(error=0.02, best=Plain(name="Euler, Karras", error=0.04)) | changes)


def test_a_picture_carries_what_was_fitted_and_replays_without_the_file(real, registry, emoji):
    kept = CalibrationFile(schedules=(fitted(registry, emoji.identity.weights),))
    file = keep_calibrations(real.settings.outputs, kept)
    asked = dict(prompt="rocket", sampler="Euler", schedule="Calibrated", steps=3, seed=8, width=64, height=64)
    try:
        [picture] = make(real, **asked, guidance=4.0)
        job = real.submit(Request(**asked, guidance=4.5), previews=False)
        job.wait(300)
    finally:
        file.unlink()
    record = read_picture(picture).record
    assert record.sigmas == (*SIGMAS, 0.0) and record.schedule_coefficients == {"sigmas": SIGMAS}
    assert replay_file(real, picture).equal
    [note] = job.snapshot().info["notes"]
    assert note == (
        "Schedule Calibrated has no coefficients on emoji for 3 steps at guidance 4.5, so it runs without. "
        "It has for 3 steps at guidance 4."
    )
    plain = read_picture(job.pictures[0].path).record
    assert plain.schedule_coefficients == {} and replay_file(real, job.pictures[0].path).equal


def test_each_pass_walks_its_own_part(registry, tmp_path):
    larger = [8.0, 3.0, 1.0, 0.1]
    with laboratory(registry, tmp_path) as engine:
        request = Request(
            prompt="a", sampler="Euler", schedule="Calibrated", steps=3, guidance=4.0, hires_scale=2, hires_steps=4
        )
        resolved = engine.resolve(request.model_copy(update=dict(hires_strength=0.5)))
        known = [fitted(registry, "w"), fitted(registry, "w", width=128, height=128, sigmas=[*larger, 0.0])]
        known[1] = known[1].model_copy(update=dict(coefficients={"sigmas": larger}))
        keep_calibrations(engine.settings.outputs, CalibrationFile(schedules=tuple(known)))
        found, notes = with_coefficients(resolved, registry, "w", engine.settings.outputs)
    assert [plan.sigmas for plan in found.plans] == [(*SIGMAS, 0.0), cut((*larger, 0.0), 0.5)] and not notes


def test_the_task_fits_the_schedule_and_then_the_sampler_on_it(registry, tmp_path):
    with laboratory(registry, tmp_path) as engine:
        ask = lambda: done(  # noqa: E731
            engine, make_calibration(engine, Request(model="toy"), schedules=["Calibrated"], pictures=4, budgets=(3,))
        )
        info, [found] = ask()
        kept = read_calibrations(engine.settings.outputs / FILE)
        assert found.kept and kept.schedules == found.schedules and kept.calibrations == (found.calibration,)
        assert found.calibration.sigmas == kept.schedules[0].sigmas
        [picture] = make(engine, model="toy", prompt="a", sampler="Calibrated", schedule="Calibrated", steps=3)
        preview = preview_run(engine, dict(model="toy", sampler="Euler", schedule="Calibrated", steps=3))
        own = dict(model="toy", sampler="Calibrated", schedule="Calibrated", steps=3)
        noted, told = fitted_plan(engine, dict(guidance=5.0), own)
        _, missing = fitted_plan(engine, dict(guidance=4.5), own)
        _, closed = fitted_plan(engine, dict(guidance=5.0), own | dict(model="other"))
        assert ask()[0]["calls"] == 0, "what is kept is not made again"
    record = read_picture(picture).record
    assert record.coefficients == found.calibration.coefficients
    assert record.schedule_coefficients == kept.schedules[0].coefficients
    assert record.sigmas == preview.run.sigmas == noted.sigmas == found.calibration.sigmas
    assert not told and "Schedule Calibrated has no coefficients on toy for 3 steps at guidance 4.5" in missing
    assert "is known once it is open" in closed


def test_a_plain_sampler_is_tested_on_the_fitted_schedule(registry, tmp_path):
    with laboratory(registry, tmp_path) as engine:
        task = make_calibration(engine, Request(model="toy"), "Euler", ["Calibrated"], (3,), pictures=4)
        [found] = done(engine, task)[1]
        karras = found.measured.errors["Euler, Karras"]
        assert found.calibration.name == "Euler" and not found.calibration.coefficients
        assert math.isfinite(found.calibration.error) and found.calibration.error < karras
        kept = read_calibrations(engine.settings.outputs / FILE)
        assert not kept.calibrations and kept.schedules == (found.schedules if found.kept else ())


def test_a_file_that_is_saved_in_the_lab_is_taken_back_whole(registry, tmp_path):
    one = fitted(registry, "w")
    facts = one.model_dump(exclude={"schedule", "sampler", "coefficients"})
    made = Calibration(**facts, sampler="here/Own", schedule="Calibrated", coefficients={"gain": 2.0})
    measured = MeasuredErrors(weights="w", guidance=4.0, width=64, height=64, calls=3, errors={"Euler, Karras": 0.04})
    (tmp_path / "saved.json").write_bytes(exported([Calibrated(made, True, measured, (one,))]))
    page = SimpleNamespace(engine=SimpleNamespace(settings=SimpleNamespace(public=False), outputs=tmp_path))
    assert take_file(page, tmp_path / "saved.json") == "Taken: 3 steps of Calibrated at guidance 4."
    kept = CalibrationFile(calibrations=(made,), schedules=(one,), measured=(measured,))
    assert read_calibrations(tmp_path / FILE) == kept
