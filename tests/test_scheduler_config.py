"""What a folder's scheduler configuration says about the default schedule, and what every default has to hold."""

import inspect
import json
import shutil

import diffusers
import pytest
from conftest import ROOT

from samplers.schedule import (
    BETAS,
    MAX_SIGMA,
    betas,
    flow,
    from_alphas,
    from_betas,
    shift_flow_time,
    stable_diffusion,
    zero_terminal_snr,
)
from weights.diffusers_folder import read_folder
from weights.model_info import ModelError
from weights.scheduler_config import default_schedule

STEPS = (1, 2, 3, 5, 10, 20, 50, 333, 499, 500, 501, 502, 750, 999, 1000)


def spacings():
    """diffusers' schedulers with their own default of timestep_spacing."""
    for name in dir(diffusers):
        if name.endswith("Scheduler"):
            parameter = inspect.signature(getattr(diffusers, name).__init__).parameters.get("timestep_spacing")
            if parameter is not None:
                yield name, parameter.default


def test_a_missing_spacing_is_the_schedulers_own():
    read = {name: default_schedule({"_class_name": name}, flow=False).name for name, _ in spacings()}
    assert len(read) > 10
    assert read.pop("LCMScheduler") == "LCM", "timesteps of its own"
    for name, default in spacings():
        if name in read:
            assert read[name] == ("Uniform linspace" if default == "linspace" else "Uniform trailing"), name


@pytest.mark.parametrize(
    "config, wanted",
    [
        ({"use_karras_sigmas": True}, "Karras"),
        ({"use_exponential_sigmas": True}, "Exponential"),
        ({"timestep_spacing": "trailing"}, "Uniform trailing"),
        ({"timestep_spacing": "leading"}, "Uniform trailing"),
        ({"timestep_spacing": "linspace"}, "Uniform linspace"),
    ],
)
def test_a_stated_schedule_is_taken(config, wanted):
    assert default_schedule({"_class_name": "EulerDiscreteScheduler"} | config, flow=False).name == wanted


@pytest.mark.parametrize(
    "config", [{"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}, {"_class_name": "X", "flow_shift": 3}]
)
def test_a_flow_models_shift_is_taken(registry, config):
    default = default_schedule(config, flow=True)
    assert default.name == "SNR shift" and "by 3" in default.notes[0]
    sigmas = registry.schedule(default.name).item(flow(), 10, **dict(default.options))
    times = [sigma / (1 + sigma) for sigma in sigmas[:-1]]
    # diffusers' first level, 0.9997, lies above what the network was trained on.
    expected = [0.999, 0.9639, 0.9227, 0.8746, 0.8178, 0.7496, 0.6663, 0.5621, 0.4283, 0.2498]
    assert [round(t, 4) for t in times] == expected
    assert times[1:] == pytest.approx([shift_flow_time(0.999 * (10 - i) / 10, 3.0) for i in range(1, 10)])


def test_diffusers_shifted_solver_has_these_levels(registry):
    theirs = diffusers.DPMSolverMultistepScheduler(use_flow_sigmas=True, flow_shift=2.5)
    theirs.set_timesteps(7)
    ours = registry.schedule("SNR shift").item(flow(), 7, shift=2.5, from_top=True)[1:-1]
    assert [s / (1 + s) for s in ours] == pytest.approx(theirs.sigmas[1:-1].tolist(), abs=1e-6)


@pytest.mark.parametrize("shift", [0.5, 100, "3", True, float("nan")])
def test_a_shift_that_is_none_is_named(tmp_path, shift):
    folder = tmp_path / "copy"
    shutil.copytree(ROOT / "weights" / "emoji-flow", folder)
    shutil.copytree(ROOT / "weights" / "emoji", tmp_path / "emoji")
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"flow_shift": shift}))
    with pytest.raises(ModelError, match="shift is .*; it must be a number from 1 to 20"):
        read_folder(folder)


@pytest.mark.parametrize("name", ["Uniform trailing", "Uniform linspace", "Karras", "Exponential", "LCM"])
def test_a_default_schedule_starts_near_the_top_for_every_number_of_steps(registry, name):
    model = stable_diffusion()
    for steps in STEPS:
        assert registry.schedule(name).item(model, steps)[0] >= 0.9 * model.sigma_max, steps


def test_embedded_models_start_near_the_top_for_every_number_of_steps(registry):
    for folder in ("emoji", "emoji-flow"):
        info = read_folder(ROOT / "weights" / folder)
        for steps in STEPS:
            sigmas = registry.schedule(info.defaults.schedule).item(info.schedule, steps)
            assert sigmas[0] >= 0.9 * info.schedule.sigma_max, steps


@pytest.mark.parametrize("kind", BETAS)
@pytest.mark.parametrize("ends", [(0.00085, 0.012), (0.0001, 0.02)])
def test_only_the_last_level_of_zero_terminal_snr_is_capped(registry, kind, ends):
    alphas, product = [], 1.0
    for beta in betas(kind, *ends):
        product *= 1 - beta
        alphas.append(product)
    model = from_alphas(zero_terminal_snr(alphas))
    assert all(low < high for low, high in zip(model.sigmas, model.sigmas[1:]))
    assert MAX_SIGMA <= model.sigma_max < float("inf")
    for name in ("Beta", "Uniform trailing", "Uniform linspace"):
        for steps in (1, 7, 333, 1000):
            assert len(registry.schedule(name).item(model, steps)) == steps + 1
    assert from_betas(betas(kind, *ends)).sigmas[0] == pytest.approx(((1 - alphas[0]) / alphas[0]) ** 0.5)
