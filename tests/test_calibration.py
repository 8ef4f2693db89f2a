"""A calibrated sampler: its fit on a closed form, the files that keep coefficients, and pictures that carry them."""

import json
from itertools import pairwise
from types import SimpleNamespace
from typing import Annotated

import pytest
import torch
from conftest import ROOT, ToyModel
from labs import done, laboratory
from test_replay import make

from samplers import Range, Step
from samplers.closed_form import BimodalDenoiser
from samplers.fitting_denoiser import FittingDenoise
from samplers.noise import Noise
from samplers.registry import Entry, Registry
from samplers.run import Plan, run
from samplers.sampler import sampler
from samplers.schedule import stable_diffusion
from webui import calibrate_command, command_line
from webui.calibrate_command import calibrate_sampler
from webui.core.calibrations import FILE, Calibration, CalibrationFile, keep_calibrations, read_calibrations
from webui.core.picture_metadata import read_picture
from webui.core.request import Request, RequestError
from webui.core.sampler_advice import own_advice
from webui.engine.calibration import PLAIN, SCHEDULES, make_calibration
from webui.engine.engine import Engine
from webui.replay_command import replay_file
from webui.settings import settings_without_page
from webui.tabs.form.form_events import measured_text
from weights.diffusers_folder import read_folder
from weights.identity import file_digest

MODEL = stable_diffusion()
ROWS = {"steps": [[0.1, 0.0, 0.05, 0.0, 0.0], [0.0, 0.1, 0.0, 0.2, 0.0], [-0.1, 0.0, 0.1, 0.1, 0.05]]}


class Mixture:
    """A denoiser whose flow has a closed form, at Stable Diffusion's noise levels."""

    model = MODEL

    def __init__(self):
        self.closed = BimodalDenoiser(place=1.0, std=0.5)

    def __call__(self, x, sigma):
        return self.closed(x, sigma)

    def exact(self, x):
        return self.closed(self.closed.flow(x, MODEL.sigma_max, MODEL.sigma_min), MODEL.sigma_min)


def starts(seeds, sigma):
    return sigma * Noise(seeds, "initial")(torch.zeros(len(seeds), 1, 4, 4, dtype=torch.float64))


@pytest.mark.parametrize("steps", [4, 8])
def test_a_fit_halves_the_error_of_the_best_plain_sampler_on_other_starts(registry, steps):
    denoise, fitted = Mixture(), registry.samplers["Calibrated"].item
    held_out = range(100, 132)
    exact = denoise.exact(starts(held_out, MODEL.sigma_max))

    def error(item, schedule, coefficients=None):
        sigmas = registry.schedules[schedule].item(MODEL, steps)
        plan = Plan(item, item.resolve({}), sigmas, coefficients)
        end = run(plan, denoise, torch.zeros_like(exact), held_out).x
        return (end - exact).flatten(1).square().mean(1).sqrt().mean().item()

    sigmas = registry.schedules["Karras"].item(MODEL, steps)
    numbers = fitted.calibrate(FittingDenoise(lambda _: denoise, 32), starts(range(32), sigmas[0]), sigmas, None)
    assert numbers == json.loads(json.dumps(numbers)), "plain numbers, which a picture can carry"
    plain = min(error(registry.samplers[name].item, schedule) for name in PLAIN for schedule in SCHEDULES)
    assert error(fitted, "Karras", numbers) < plain / 2


@pytest.mark.parametrize("steps", [6, 10, 16])
def test_a_fit_to_many_steps_takes_no_more_calls(registry, steps):
    asked, mixture = [], Mixture()

    class Counting(Mixture):
        def __call__(self, x, sigma):
            asked.append(len(x))
            return mixture(x, sigma)

    denoise, sigmas = FittingDenoise(lambda pictures: Counting(), 16), registry.schedules["Karras"].item(MODEL, steps)
    x = starts(range(16), sigmas[0])
    denoise.ends(x, MODEL.sigma_max)
    solved = sum(asked)
    registry.samplers["Calibrated"].item.calibrate(denoise, x, sigmas, None)
    assert 100 < (sum(asked) - solved) / 16 < 400


@pytest.mark.parametrize("at_once", [1, 2, 5, 12])
def test_a_fit_asks_for_its_pictures_again_and_again(at_once):
    """Picture i of six has the estimate i * x, however many are asked for together."""
    asked = []

    def of(pictures):
        def denoise(x, sigma):
            asked.append(len(x))
            return x * torch.tensor([pictures[k % len(pictures)] for k in range(len(x))]).reshape(-1, 1)

        return denoise

    denoise, x = FittingDenoise(of, 6, at_once), torch.ones(18, 1)
    assert denoise(x, 1.0).flatten().tolist() == [0, 1, 2, 3, 4, 5] * 3 and max(asked) <= at_once
    assert denoise.first(2)(x, 1.0).flatten().tolist() == [0, 1] * 9


def test_a_fit_asks_for_fewer_together_where_memory_ends():
    def denoise(x, sigma):
        if len(x) > 2:
            raise torch.OutOfMemoryError
        return 2 * x

    fitting = FittingDenoise(lambda pictures: denoise, 8)
    assert torch.equal(fitting(torch.ones(16, 1), 1.0), torch.full((16, 1), 2.0))


def test_the_end_of_the_flow_is_solved_for_once_for_all_numbers_of_steps():
    calls, mixture = [], Mixture()

    class Counting(Mixture):
        def __call__(self, x, sigma):
            calls.append(sigma)
            return mixture(x, sigma)

    fitting, x = FittingDenoise(lambda pictures: Counting(), 4), starts(range(4), MODEL.sigma_max)
    first = fitting.ends(x, MODEL.sigma_max)
    count = len(calls)
    torch.testing.assert_close(first, mixture.exact(x), rtol=1e-3, atol=1e-3)
    assert fitting.ends(x, MODEL.sigma_max) is first and len(calls) == count
    assert fitting.ends(x / 2, MODEL.sigma_max / 2) is not first


def test_without_coefficients_it_is_euler(registry):
    sigmas, x = (14.0, 5.0, 1.0, 0.1, 0.0), starts([1, 2], 14.0)
    ends = [
        [step.x for step in registry.samplers[name].item(Mixture(), x, sigmas, None)][-1]
        for name in ("Calibrated", "Euler")
    ]
    torch.testing.assert_close(*ends)


def test_a_sampler_that_is_calibrated_takes_coefficients():
    def walk(denoise, x, sigmas, noise):
        yield

    with pytest.raises(TypeError, match="must take the keyword argument coefficients=None"):
        sampler("A", calibrate=lambda *given: {})(walk)


def calibration(**changes) -> dict:
    """A calibration as its file has it."""
    given = dict(weights="0123456789", sampler="built-in/calibrated/Calibrated", version="1", guidance=5.0)
    given |= dict(width=64, height=64, schedule="Karras", sigmas=[3.0, 1.0, 0.0], coefficients={"steps": [[0.5]]})
    return given | dict(error=0.02, best=dict(name="Euler, Karras", error=0.04)) | changes


def test_a_file_keeps_the_last_calibration_for_each_run(tmp_path):
    first, again, other = (
        Calibration(**calibration(**changes)) for changes in ({}, dict(error=0.01), dict(sigmas=[3.0, 2.0, 1.0, 0.0]))
    )
    for made in (first, other, again):
        keep_calibrations(tmp_path, CalibrationFile(calibrations=(made,)))
    assert sorted(read_calibrations(tmp_path / FILE).calibrations, key=lambda each: each.steps) == [again, other]
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


@pytest.mark.parametrize(
    "changes",
    [
        dict(coefficients={"steps": float("nan")}),
        dict(coefficients={"steps": [float("inf")]}),
        dict(sigmas=[1.0]),
        dict(weights="x" * 1000),
        dict(more=1),
        dict(error="low"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path, changes):
    (tmp_path / FILE).write_text(json.dumps(dict(calibrations=[calibration(**changes)])))
    with pytest.raises(ValueError, match=FILE):
        read_calibrations(tmp_path / FILE)


@pytest.fixture(scope="module")
def drawn(real, registry, emoji):
    """A picture with coefficients from the file beside the pictures, and one without any; the file is gone again."""
    sigmas = registry.schedules["Karras"].item(emoji.schedule, 3)
    kept = Calibration(
        **calibration(
            sampler=registry.samplers["Calibrated"].id,
            weights=emoji.identity.weights,
            guidance=4.0,
            sigmas=list(sigmas),
            coefficients=ROWS,
        )
    )
    file = keep_calibrations(real.settings.outputs, CalibrationFile(calibrations=(kept,)))
    asked = dict(prompt="rocket", sampler="Calibrated", schedule="Karras", steps=3, seed=8, width=64, height=64)
    try:
        return [make(real, **asked, guidance=guidance)[0] for guidance in (4.0, 4.5)]
    finally:
        file.unlink()


def test_a_picture_carries_its_coefficients_and_replays_without_the_file(real, drawn):
    fitted, plain = (read_picture(path).record for path in drawn)
    assert fitted.coefficients == ROWS and plain.coefficients == {} and "coefficients" not in plain.data
    assert [replay_file(real, path).equal for path in drawn] == [True, True]


def test_a_replay_of_a_picture_without_coefficients_takes_none(real, drawn, registry, emoji):
    plain = read_picture(drawn[1]).record
    later = Calibration(
        **calibration(
            sampler=registry.samplers["Calibrated"].id,
            weights=emoji.identity.weights,
            guidance=4.5,
            sigmas=list(plain.sigmas),
            coefficients=ROWS,
        )
    )
    file = keep_calibrations(real.settings.outputs, CalibrationFile(calibrations=(later,)))
    try:
        assert replay_file(real, drawn[1]).equal
    finally:
        file.unlink()


def test_a_run_without_coefficients_says_so(real):
    request = Request(prompt="rocket", sampler="Calibrated", schedule="Karras", steps=3, guidance=4.5)
    job = real.submit(request, previews=False)
    job.wait(300)
    [note] = job.snapshot().info["notes"]
    assert note.startswith(
        "Calibrated has no coefficients on emoji for 3 steps of Karras at guidance 4.5, so it runs wi"
    )


@pytest.fixture
def engine(registry, tmp_path):
    with laboratory(registry, tmp_path) as running:
        yield running


def test_what_was_measured_of_the_others_is_kept_too(engine):
    _, [found] = calibrated(engine)
    [measured] = read_calibrations(engine.settings.outputs / FILE).measured
    assert measured == found.measured and measured.best == found.calibration.best
    assert len(measured.errors) == len(PLAIN) * len(SCHEDULES) and measured.calls == 4


ERRORS = {"Euler, Karras": 0.08, "DPM++ 2M, Karras": 0.5}


@pytest.mark.parametrize(
    "sampler, schedule, calls, said",
    [
        ("DPM++ 2M", "Karras", 2, "this 0.5, best 0.08 (Euler, Karras). Calibrated with 2 steps of Karras: 0.02."),
        ("Calibrated", "Karras", 2, "this 0.02, best 0.08 (Euler, Karras). Calibrated with 2 steps of Karras: 0.02."),
        ("Heun", "Karras", 3, "model: best 0.08 (Euler, Karras). Calibrated"),
        (
            "Euler",
            "Karras",
            90,
            "Error of pixels at 8 calls, guidance 5, on this model: this 0.03, best 0.03 (Euler, Ka",
        ),
    ],
)
def test_the_advice_is_what_was_measured_nearest(sampler, schedule, calls, said):
    where = dict(weights="0123456789", guidance=5.0, width=64, height=64)
    measured = [dict(where, calls=2, errors=ERRORS), dict(where, calls=8, errors={"Euler, Karras": 0.03})]
    found = CalibrationFile(calibrations=[calibration()], measured=measured)
    assert said in own_advice(found, ("0123456789", 5.0, 64, 64), sampler, schedule, calls)
    for other in (("x", 5.0, 64, 64), ("0123456789", 4.0, 64, 64), ("0123456789", 5.0, 128, 64)):
        assert own_advice(found, other, sampler, schedule, calls) == ""


@pytest.mark.parametrize("name", [file.parent.name for file in sorted((ROOT / "weights").glob(f"*/{FILE}"))])
def test_what_ships_is_for_the_weights_that_ship_and_better_than_the_others(name, registry):
    folder = ROOT / "weights" / name
    found, info = read_calibrations(folder / FILE), read_folder(folder)
    digest = file_digest([folder / "unet" / "diffusion_pytorch_model.safetensors"])
    size = info.defaults.size, info.defaults.size
    assert found.calibrations
    for each in found.calibrations:
        assert (each.weights, each.width, each.height) == (digest, *size) and each.error < each.best.error
        assert each.sampler == registry.samplers["Calibrated"].id
        assert each.walks(registry.schedules[each.schedule].item(info.schedule, each.steps))
    measured = {(each.condition, each.calls): each.best for each in found.measured}
    assert {(weights, *sides) for (weights, _, *sides), _ in measured} == {(digest, *size)}
    for each in found.calibrations:
        assert measured[(digest, each.guidance, *size), each.steps] == each.best


def test_the_form_tells_what_was_measured_on_the_open_model(emoji, tmp_path):
    page = SimpleNamespace(engine=SimpleNamespace(identity_of=lambda request: emoji.identity, outputs=tmp_path))
    size = emoji.info.defaults.size

    def said(**values):
        form = dict(guidance=5, width=size, height=size) | values
        return measured_text(page, emoji.info, "DPM++ 2M", "Karras", 6, form)

    [shipped] = [
        each
        for each in read_calibrations(ROOT / "weights" / "emoji" / FILE).measured
        if (each.guidance, each.calls) == (5, 6)
    ]
    assert (
        f"this {shipped.errors['DPM++ 2M, Karras']:.2g}, best {shipped.best.error:.2g} ({shipped.best.name})" in said()
    )
    assert "Calibrated with 6 steps of Karras" in said()
    assert said(guidance=4.5) == said(width=2 * size) == ""


def test_calibrated_draws_with_what_ships(real):
    [made] = [
        each
        for each in read_calibrations(ROOT / "weights" / "emoji" / FILE).calibrations
        if (each.guidance, each.steps) == (5, 6)
    ]
    asked = dict(model="emoji", prompt="rocket", sampler="Calibrated", schedule=made.schedule, steps=6, guidance=5.0)
    [picture] = make(real, **asked)
    assert read_picture(picture).record.coefficients == made.coefficients


def calibrated(engine, **more):
    return done(engine, make_calibration(engine, Request(model="toy"), pictures=4, budgets=(4,), **more))


def test_the_task_keeps_what_wins_and_a_picture_takes_it(engine):
    info, [found] = calibrated(engine)
    made = found.calibration
    assert found.kept and made.error < made.best.error and info["calls"] > 300
    assert read_calibrations(engine.settings.outputs / FILE).calibrations == (made,)
    [picture] = make(engine, model="toy", prompt="a", sampler="Calibrated", schedule="Karras", steps=4)
    assert read_picture(picture).record.coefficients == made.coefficients


def test_what_has_been_kept_is_not_made_again(engine):
    first, again, anew = (calibrated(engine, again=again) for again in (False, False, True))
    assert first[1] == again[1] and again[0]["calls"] == 0 and anew[0]["calls"] == first[0]["calls"]


def test_what_loses_is_not_kept(registry, tmp_path):
    @sampler("Wild", calls=1, calibrate=lambda *given: {"by": 3.0})
    def wild(denoise, x, sigmas, noise, *, coefficients=None):
        for sigma, lower in pairwise(sigmas):
            denoised = denoise(x, sigma)
            x = coefficients["by"] * denoised + lower * (x - denoised) / sigma
            yield Step(x, lower, denoised)

    more = Registry({**registry.samplers, "Wild": Entry(wild, "here", "1")}, registry.schedules)
    with laboratory(more, tmp_path) as engine:
        [found] = calibrated(engine, sampler="Wild")[1]
        assert not found.kept and not read_calibrations(engine.settings.outputs / FILE).calibrations


@pytest.mark.parametrize(
    "more, said",
    [
        (
            dict(sampler="Euler"),
            "Sampler Euler cannot be calibrated; those that can are Calibrated. Nor can schedule Karras",
        ),
        (dict(schedules=["None"]), "unknown schedule|Unknown schedule"),
        (dict(prompts=["one"]), "two prompts or more"),
        (dict(pictures=1), "2 to 128"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(engine, more, said):
    with pytest.raises(RequestError, match=said):
        make_calibration(engine, Request(model="toy"), **more)


def test_pictures_of_several_prompts_at_once_equal_single_ones(emoji):
    prompts, x = ("rocket", "red apple"), starts([1, 2], 3.0).float().reshape(2, 1, 4, 4)
    x = x.repeat(1, emoji.info.channels, 4, 4)
    together = emoji.denoiser_of_each(prompts, 5.0)(torch.cat([x, x]), 3.0)
    single = [emoji.denoiser(prompt, guidance=5.0)(x[i : i + 1], 3.0) for i, prompt in enumerate(prompts)]
    torch.testing.assert_close(together, torch.cat([*single, *single]), rtol=1e-4, atol=1e-4)


def test_the_command_prints_what_it_kept(registry, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        calibrate_command, "Engine", lambda *given: Engine(*given, lambda found, device: ToyModel(found))
    )
    flags = ["calibrate", "--calls", "3", "--pictures", "2", "--no-plugins", "--json", "--outputs", str(tmp_path)]
    parsed, _ = command_line.parse(flags)
    assert calibrate_sampler(settings_without_page(parsed, ROOT), parsed) == 0
    [found] = json.loads(capsys.readouterr().out)
    assert found["kept"] and found["error"] < found["best"]["error"] and len(found["sigmas"]) == 4
    parsed, _ = command_line.parse([*flags, "--sampler", "Euler"])
    assert calibrate_sampler(settings_without_page(parsed, ROOT), parsed) == 2


def test_another_sampler_may_have_an_option_of_that_name():
    @sampler("Own", calls=1)
    def own(denoise, x, sigmas, noise, *, coefficients: Annotated[float, Range(0, 1)] = 0.0):
        yield Step(x + coefficients, 0.0, x)

    ends = [
        list(own(Mixture(), torch.zeros(1, 1, 4, 4), (1.0, 0.0), None, **given))[-1].x.max().item()
        for given in ({}, {"coefficients": 0.5})
    ]
    assert ends == [0.0, 0.5]
