"""plugins/README.md: its examples run and pass the checks, and every public name and hook is in it."""

import inspect
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import samplers
import samplers.testing
from samplers.fitting_denoiser import FittingDenoise
from samplers.noise import Noise
from samplers.plugin_loading import Hooks
from samplers.registry import HOOKS, discover
from samplers.sampler import guidance, sampler, schedule
from samplers.sources import API_VERSION, DECLARED
from samplers.testing import check_guidance, check_sampler, check_schedule, checks
from webui.engine.reference_problem import exact_end, mixture_problem, relative_error

README = (Path(__file__).parents[1] / "plugins" / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
FIRST, OPTIONS, PARTS, CALIBRATION, SCHEDULE, FITTED_SCHEDULE, GUIDANCE, TESTS = BLOCKS


@dataclass(frozen=True)
class Leveled:
    """A closed form with the noise levels of a network."""

    denoise: Any
    model: Any

    def __call__(self, x, sigma):
        return self.denoise(x, sigma)


def load(folder: Path, text: str):
    (folder / "my_euler.py").write_text(text, "utf-8")
    found = discover(Path(__file__).parents[1] / "plugins", [folder], packages=False)
    assert not [broken for broken in found.broken if broken.source.startswith(f"{folder.name}/")]
    return found


def test_the_first_sampler_is_a_plugin_that_keeps_the_contract(tmp_path):
    entry = load(tmp_path, FIRST).sampler("My Euler")
    assert "passed" in entry.check
    check_sampler(entry.item)


def test_the_first_sampler_has_fifteen_lines():
    code = [line for line in FIRST.splitlines() if line.strip()]
    assert len(code) <= 15


def test_the_sampler_with_options_keeps_the_contract(tmp_path):
    item = load(tmp_path, OPTIONS).sampler("My DDIM").item
    check_sampler(item)
    check_sampler(item, {"eta": 1.0})


def test_the_sampler_that_asks_for_parts_keeps_the_contract(tmp_path):
    check_sampler(load(tmp_path, PARTS).sampler("My Euler CFG++").item)


def test_the_sampler_that_is_calibrated_keeps_the_contract_and_gains(tmp_path):
    item = load(tmp_path, CALIBRATION).sampler("My fitted Euler").item
    check_sampler(item)
    problem, sigmas = mixture_problem(), (14.6146, 4.0, 1.0, 0.3, 0.0)
    x = sigmas[0] * Noise(problem.seeds, "initial")(problem.zeros)
    denoise = Leveled(problem.denoise, problem.levels)
    fitted = item.calibrate(FittingDenoise(lambda pictures: denoise, len(x)), x, sigmas, None)

    def error(coefficients):
        *_, last = item(denoise, x, sigmas, None, coefficients=coefficients)
        return relative_error(last.x, exact_end(problem))

    assert error(fitted) < error(None)


def test_the_schedule_is_one(tmp_path):
    check_schedule(load(tmp_path, SCHEDULE).schedule("My powers").item)


def test_the_schedule_that_is_calibrated_keeps_the_contract_and_chooses(tmp_path):
    item = load(tmp_path, FITTED_SCHEDULE).schedule("My fitted powers").item
    check_schedule(item)
    problem = mixture_problem()
    x = problem.levels.sigma_max * Noise(problem.seeds, "initial")(problem.zeros)
    denoise = Leveled(problem.denoise, problem.levels)
    found = item.calibrate(FittingDenoise(lambda pictures: denoise, len(x)), x, 4, None)
    assert found["rho"] != 7.0 and item(problem.levels, 4, coefficients=found) != item(problem.levels, 4)


def test_the_guidance_is_one(tmp_path):
    check_guidance(load(tmp_path, GUIDANCE).guidance("My adaptive").item)


def test_the_tests_shown_run(tmp_path, monkeypatch):
    (tmp_path / "my_euler.py").write_text(FIRST, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_euler", raising=False)
    shown = {}
    exec(compile(TESTS, "plugins/README.md", "exec"), shown)
    shown["test_contract"]()
    shown["test_order"]()
    (mark,) = shown["test_contract_in_parts"].pytestmark
    assert mark.args[0] == "check" and [str(check) for check in mark.args[1]] == [
        str(check) for check in checks(shown["my_euler"])
    ]
    monkeypatch.delitem(sys.modules, "my_euler")


@pytest.mark.parametrize("name", [*samplers.__all__, *samplers.testing.__all__])
def test_every_public_name_is_explained(name):
    assert re.search(rf"`{name}[`(]|import .*\b{name}\b", README), f"plugins/README.md does not mention {name}"


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_is_there_with_its_signature(name):
    hook = getattr(Hooks, name)
    parameters = ", ".join(p for p in inspect.signature(hook).parameters if p != "self")
    shown = f"`{name}({parameters}) -> {inspect.signature(hook).return_annotation}`"
    assert shown in README


@pytest.mark.parametrize("decorator", [sampler, schedule, guidance])
def test_the_decorators_are_there_with_their_signature(decorator):
    shown = str(inspect.signature(decorator)).replace("name: 'str'", "name").replace("'", '"')
    assert f"`@{decorator.__name__}{shown}`" in README


def test_every_check_is_in_the_table():
    shown = re.findall(r"^\| `(\w+)` \|", README.split("## Test it")[1].split("## Where")[0], re.MULTILINE)
    assert shown == [
        str(check)
        for check in checks(discover(Path(__file__).parents[1] / "plugins", packages=False).sampler("DDPM").item)
    ]


def test_the_api_version_is_the_present_one():
    assert f"`{DECLARED} = {API_VERSION}`" in README
