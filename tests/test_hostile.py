"""Plugins that do everything wrong: each is listed with its reason, all others work, and starting stays quick."""

import re
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from samplers.registry import discover
from samplers.timeouts import Escaped, ImportGuard, Limit, TookTooLong, _queued, bounded

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
    "loops": ("Loops", r"did not end within .* it was at line \d+ of loops.py"),
    "loops_at_import": ("loops_at_import.py", r"did not end within .* it was at line \d of loops_at_import.py"),
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
    "sleeps": ("Sleeps", "did not end within .* it was at line 10 of sleeps.py"),
    "stops_early": ("Stops early", "expected the last step at sigma 0; got 0.6"),
    "wrong_shape": ("Wrong shape", r"expected Step.x to be like x, .* got \(2, 2, 2\)"),
    "wrong_type": ("function", "register_samplers returned function; it has to return a list of Sampler"),
    "yields_nan": ("Yields NaN", "expected finite numbers in Step.x; got NaN or infinity at sigma 0"),
    "yields_tensors": ("Yields tensors", r"expected Step\(x, sigma, denoised\) to be yielded; got a Tensor"),
}


@pytest.fixture(scope="module")
def without():
    return discover(ROOT / "plugins", packages=False)


@pytest.fixture(scope="module")
def seconds():
    return {}


@pytest.fixture(scope="module")
def among(without, seconds):
    """Everything with the hostile folder, and the seconds that it took more than without."""
    state = torch.get_rng_state()
    began = time.monotonic(), time.process_time()
    found = discover(ROOT / "plugins", [HOSTILE], packages=False)
    seconds |= dict(clock=time.monotonic() - began[0], processor=time.process_time() - began[1])
    assert torch.equal(torch.get_rng_state(), state) and torch.get_default_dtype() is torch.float32
    return found


def test_every_file_is_expected_here():
    assert {path.stem for path in HOSTILE.glob("*.py")} == set(REASONS)


@pytest.mark.parametrize("file", REASONS)
def test_each_is_listed_with_its_source_and_reason(among, file):
    name, reason = REASONS[file]
    (broken,) = [b for b in among.broken if b.source == f"{HOSTILE}/{file}.py" and b.name == name]
    assert re.search(reason, broken.reason), broken.reason


def test_what_shares_a_file_with_a_loop_is_not_waited_for(among):
    (beside,) = [b for b in among.broken if b.name == "Beside the loop"]
    assert beside.reason == "not checked, because 'Loops' of the same plugin took too long"


def test_everything_good_still_loads(without, among):
    assert list(among.samplers) == list(without.samplers) and list(among.schedules) == list(without.schedules)
    assert all(entry.source.startswith("built-in/") for entry in among.samplers.values())
    assert len(among.broken) == len(without.broken) + len(REASONS) + 1


def test_the_time_that_they_waste_is_bounded(among, seconds):
    # The processor's time, because the clock also counts what else the machine does; the clock for the one that sleeps.
    assert seconds["processor"] < 5, "endless loops have to be given up after some quarters of a second"
    assert seconds["clock"] < 25, "a sampler that sleeps for 30 s must not be waited for"


def test_loops_are_ended_and_only_what_sleeps_stays_behind(among):
    end = time.monotonic() + 10
    while len(left := [t for t in threading.enumerate() if t.name == "plugin"]) > 1 and time.monotonic() < end:
        time.sleep(0.01)
    assert len(left) <= 1 and all(thread.daemon for thread in left)


def test_a_name_is_free_again_after_its_first_owner_was_refused(tmp_path):
    late = (HOSTILE / "stops_early.py").read_text("utf-8").replace("sigmas[:-1]", "sigmas")
    (tmp_path / "stops_early.py").write_text(late, "utf-8")
    found = discover(HOSTILE.parent / "no folder", [HOSTILE / "nowhere", tmp_path], packages=False)
    assert list(found.samplers) == ["Stops early"] and not found.broken


def test_a_check_that_would_import_a_package_is_put_off(tmp_path):
    package = tmp_path / "path" / "a_heavy_package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise AssertionError('it was imported')", "utf-8")
    source = (HOSTILE / "stops_early.py").read_text("utf-8")
    lazy = source.replace(
        "(denoise, x, sigmas, noise):", "(denoise, x, sigmas, noise):\n    import a_heavy_package.part"
    )
    (tmp_path / "lazy.py").write_text(lazy, "utf-8")
    found = discover(tmp_path, packages=False)
    assert found.sampler("Stops early").check == "put off: it imports a_heavy_package when it runs"


def test_other_threads_import_as_ever():
    with ImportGuard() as guard:
        assert guard.run(lambda: "done") == "done"
        assert guard.find_spec("a_package_that_nobody_has") is None
        with pytest.raises(ModuleNotFoundError):
            __import__("a_package_that_nobody_has")


def forever():
    while True:
        pass


def test_bounded_returns_raises_and_gives_up():
    limit = Limit(busy=0.05, all=5.0)
    assert bounded(lambda: 3, limit) == 3
    with pytest.raises(KeyError):
        bounded(lambda: {}[1], limit)
    with pytest.raises(Escaped, match="SystemExit: 4"):
        bounded(lambda: exit(4), limit)
    with pytest.raises(TookTooLong, match="test_hostile.py"):
        bounded(forever, limit, __file__)


def test_waiting_for_a_processor_is_not_held_against_a_plugin(monkeypatch):
    limit = Limit(busy=5, all=0.1)
    with pytest.raises(TookTooLong):
        bounded(lambda: time.sleep(1), limit)
    begun = time.monotonic()
    monkeypatch.setattr("samplers.timeouts._queued", lambda thread: time.monotonic() - begun)
    assert bounded(lambda: time.sleep(0.5) or 3, limit) == 3


@pytest.mark.skipif(
    not Path("/proc/self/schedstat").exists(), reason="this system does not tell how long a thread waited"
)
def test_waiting_for_a_processor_is_read_from_the_system():
    done = threading.Event()
    thread = threading.Thread(target=done.wait, daemon=True)
    thread.start()
    assert 0 <= _queued(thread) < 60
    done.set()
    thread.join()
    # The system may keep the entry of an ended thread for a moment; no thread has ever had a negative number.
    assert _queued(SimpleNamespace(native_id=-1)) == 0.0


def test_a_long_import_is_not_taken_for_a_loop(tmp_path, monkeypatch):
    (tmp_path / "slow_to_import.py").write_text("import time\ntime.sleep(0.4)\nvalue = 5", "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    assert bounded(lambda: __import__("slow_to_import").value, Limit(busy=0.05, all=0.2), __file__) == 5
    monkeypatch.delitem(sys.modules, "slow_to_import")
    with pytest.raises(TookTooLong, match="importing"):
        bounded(lambda: __import__("slow_to_import").value, Limit(busy=5, all=5, imports=0.1), "another.py")
