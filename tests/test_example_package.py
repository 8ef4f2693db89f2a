"""`pip install .` gives a plugin author `samplers`, and the example package beside it is found and passes its test.

Both are installed without a network into a folder of their own, which a fresh Python then looks into.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "plugins" / "example_package"
LOOK = """
import json, sys, samplers, pytest
from pathlib import Path
from samplers.registry import discover
status = pytest.main(["-q", "-p", "no:cacheprovider", sys.argv[1]])
found = discover(Path("no-built-in-ones"))
entries = {name: [entry.id, entry.version, entry.check] for name, entry in found.samplers.items()}
broken = [b.reason for b in found.broken]
print("RESULT" + json.dumps(dict(status=int(status), where=samplers.__file__, entries=entries, broken=broken)))
"""


def install(target: Path, *sources: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    command += ["--disable-pip-version-check", "--no-compile", "--target", str(target), *map(str, sources)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def seen(tmp_path_factory) -> dict:
    """What a Python with both packages sees."""
    pytest.importorskip("setuptools", "77", reason="the build backend is not installed")
    folder = tmp_path_factory.mktemp("scratch")
    # Built from a copy, because a build leaves folders behind in its source.
    for source, name in ((ROOT, "sigmalab"), (EXAMPLE, "example")):
        copy = folder / name
        copy.mkdir()
        for part in ("pyproject.toml", "README.md", "LICENSE", "samplers", "tests", "sigmalab_ralston.py"):
            path = source / part
            if path.is_dir() and (name, part) != ("sigmalab", "tests"):
                shutil.copytree(path, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
            elif path.is_file():
                shutil.copy(path, copy / part)
    install(folder / "site", folder / "sigmalab", folder / "example")
    environment = os.environ | {"PYTHONPATH": str(folder / "site"), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-c", LOOK, str(folder / "example" / "tests")]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert "RESULT" in done.stdout, done.stdout + done.stderr
    return json.loads(done.stdout.split("RESULT")[1]) | {"site": str(folder / "site"), "output": done.stdout}


def test_samplers_come_from_the_installed_distribution(seen):
    assert seen["where"].startswith(seen["site"])


def test_the_package_is_found_by_its_entry_point_with_its_version_and_passes_the_quick_check(seen):
    identity, version, check = seen["entries"]["Ralston"]
    assert (identity, version) == ("sigmalab-ralston/ralston/Ralston", "0.1.0")
    assert "passed" in check
    assert not seen["broken"]


def test_its_own_test_passes(seen):
    assert seen["status"] == 0, seen["output"]


def test_the_example_is_complete():
    files = {path.relative_to(EXAMPLE).as_posix() for path in EXAMPLE.rglob("*") if path.suffix in (".py", ".toml")}
    assert files == {"pyproject.toml", "sigmalab_ralston.py", "tests/test_ralston.py"}
