"""Plugins that do everything wrong: each is listed with its reason, and all others work."""

import re
from pathlib import Path

import pytest
import torch

from samplers import registry
from samplers.registry import discover

ROOT = Path(__file__).parents[1]
HOSTILE = Path(__file__).parent / "hostile"

# The file, what is listed as broken, and what its reason has to tell.
REASONS = {
    "changes_default": ("changes_default.py", "torch's default dtype"),
    "changes_input": ("Changes its input", r"expected x to be left as it was given.*line \d+ of changes_input.py"),
    "declarations_fail": ("Declarations fail", "TypeError.*line 6 of declarations_fail.py"),
    "duplicate_name": ("Euler", "the name 'Euler' is taken by built-in/euler"),
    "exits": ("exits.py", "SystemExit: no such luck"),
    "global_random": ("Global random", "torch's generator.*global_random.py"),
    "hook_raises": ("register_samplers", "KeyError: 'Euler'"),
    "import_error": ("import_error.py", "No module named 'a_package_that_nobody_has'"),
    "interrupts": ("interrupts.py", "KeyboardInterrupt"),
    "lies_about_calls": ("Lies about calls", "expected 2 network calls, as declared; got 4"),
    "misspelt_hook": ("misspelt_hook.py", "unknown hook 'register_sampler'"),
    "never_falls": ("Never falls", "expected sigma to fall at every step, down to 0; got 0.6 after 0.6"),
    "never_yields": ("Never yields", "expected Step.* to be yielded; got no step at all"),
    "newer_api": ("newer_api.py", "plugin API 2, and this program has 1; update this program"),
    "no_hook": ("no_hook.py", "it needs @hookimpl on register_samplers"),
    "not_a_generator": ("not_a_generator.py", r"returns\(\) must be a generator"),
    "not_a_list": ("register_samplers", "register_samplers returned NoneType; it has to return a list"),
    "option_without_range": ("option_without_range.py", "option 'eta' is a number and needs"),
    "raises": ("Raises", "ZeroDivisionError.*line 12 of raises.py"),
    "rising_schedule": ("Rising", "expected 3 falling sigmas on a model of 1000 timesteps"),
    "stops_early": ("Stops early", "expected the last step at sigma 0; got 0.6"),
    "wrong_shape": ("Wrong shape", r"expected Step.x to be like x, .* got \(2, 2, 2\)"),
    "wrong_type": ("function", "register_samplers returned the function plain; it has to return a list of Sampler"),
    "yields_nan": ("Yields NaN", "expected finite numbers in Step.x; got NaN or infinity at sigma 0"),
    "yields_tensors": ("Yields tensors", r"expected Step\(x, sigma, denoised\) to be yielded; got a Tensor"),
}


@pytest.fixture(scope="module")
def without():
    return discover(ROOT / "plugins", packages=False)


@pytest.fixture(scope="module")
def among(without):
    """Everything with the hostile folder."""
    state = torch.get_rng_state()
    found = discover(ROOT / "plugins", [HOSTILE], packages=False)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_default_dtype() is torch.float32
    return found


def test_every_file_is_expected_here():
    assert {path.stem for path in HOSTILE.glob("*.py")} == set(REASONS)


@pytest.mark.parametrize("file", REASONS)
def test_each_is_listed_with_its_source_and_reason(among, file):
    name, reason = REASONS[file]
    (broken,) = [b for b in among.broken if b.source == f"hostile/{file}.py" and b.name == name]
    assert re.search(reason, broken.reason), broken.reason


def test_everything_good_still_loads(without, among):
    assert list(among.samplers) == list(without.samplers) and list(among.schedules) == list(without.schedules)
    assert all(entry.source.startswith("built-in/") for entry in among.samplers.values())
    assert len(among.broken) == len(without.broken) + len(REASONS)


def test_a_name_is_free_again_after_its_first_owner_was_refused(tmp_path):
    late = (HOSTILE / "stops_early.py").read_text("utf-8").replace("sigmas[:-1]", "sigmas")
    (tmp_path / "stops_early.py").write_text(late, "utf-8")
    found = discover(HOSTILE.parent / "no folder", [HOSTILE / "nowhere", tmp_path], packages=False)
    assert list(found.samplers) == ["Stops early"] and not found.broken


def written(folder, name, **changes):
    """A copy of a hostile plugin with some of its text replaced, in a folder of its own."""
    text = (HOSTILE / f"{name}.py").read_text("utf-8")
    for old, new in changes.values():
        assert old in text
        text = text.replace(old, new)
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.py").write_text(text, "utf-8")
    return folder


GOOD = ("sigmas[:-1]", "sigmas")


def test_a_sampler_that_asks_the_network_for_ever_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr("samplers.check.MOST", 1000)
    forever = ("    for sigma", "    while True:\n        denoise(x, sigmas[0])\n    for sigma")
    (broken,) = discover(written(tmp_path, "stops_early", GOOD=GOOD, forever=forever), packages=False).broken
    assert "expected at most 1000 network calls; got more" in broken.reason


def test_a_plugin_that_takes_long_is_named_while_one_waits(tmp_path, capsys):
    slow = ("from itertools", "import time\ntime.sleep(0.5)\nfrom itertools")
    folder = written(tmp_path / "mine", "stops_early", GOOD=GOOD, slow=slow)
    found = discover(tmp_path / "nowhere", [folder], packages=False, patience=0.05)
    assert list(found.samplers) == ["Stops early"]
    said = capsys.readouterr().err
    assert said == (
        "sigmalab: the plugin mine/stops_early.py is still being loaded after 0.05 s; Ctrl+C gives it up and goes on\n"
    )


@pytest.mark.parametrize("forever", ["time.sleep(600)", "while True: pass", "except_all()"])
def test_a_plugin_that_loads_for_ever_is_given_up_and_named(tmp_path, monkeypatch, forever):
    monkeypatch.setattr(registry, "LIMIT", 0.2)
    wait = "        try:\n            time.sleep(600)\n        except Exception:\n            pass\n"
    hangs = f"import time\ndef except_all():\n    while True:\n{wait}{forever}\n"
    hangs = ("from itertools", hangs + "from itertools")
    folder = written(tmp_path / "mine", "stops_early", GOOD=GOOD, hangs=hangs)
    (folder / "works.py").write_text((HOSTILE / "stops_early.py").read_text("utf-8").replace(*GOOD), "utf-8")
    found = discover(tmp_path / "nowhere", [folder], packages=False)
    assert list(found.samplers) == ["Stops early"]
    (broken,) = found.broken
    assert broken.source == "mine/stops_early.py" and "given up" in broken.reason


def test_quick_plugins_are_not_named(without, capsys):
    discover(ROOT / "plugins", [HOSTILE], packages=False)
    assert "still being loaded" not in capsys.readouterr().err


@pytest.mark.parametrize("deep", [False, True])
def test_the_check_of_a_sampler_that_imports_a_large_package_is_put_off(tmp_path, deep):
    requires = ('@sampler("Stops early")', '@sampler("Stops early", requires="a_heavy_package")')
    lazy = ("    for sigma", "    import a_heavy_package\n\n    for sigma")
    found = discover(written(tmp_path, "stops_early", GOOD=GOOD, a=requires, b=lazy), packages=False, deep=deep)
    if deep:
        assert "No module named 'a_heavy_package'" in found.broken[0].reason
    else:
        assert found.sampler("Stops early").check == "put off: it imports a_heavy_package when it runs"
