"""Makes sure that the packages of requirements.txt are there, in this interpreter or in `.venv` beside launch.py.

Standard library only: this runs before anything is installed.
"""

from __future__ import annotations

import importlib.util
import operator
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

STARTED = "SIGMALAB_STARTED_IN"  # tells the program that went on in .venv that it should now be there
UNFINISHED = "sigmalab-unfinished"  # a file in .venv while packages are being installed
OPERATORS = {"==": operator.eq, "!=": operator.ne, ">=": operator.ge, "<=": operator.le, "<": operator.lt}
STAGES = {"dev": 0, "a": 1, "b": 2, "rc": 3, None: 4, "post": 5}
VERSION = re.compile(r"v?(\d+(?:\.\d+)*)(?:[-_.]?(dev|a|b|rc|post)[-_.]?(\d*))?")
NO_NETWORK = re.compile(r"onnection|name resolution|getaddrinfo|timed out|Timeout|ProxyError|SSLError")
DISK_FULL = re.compile(r"No space left|Errno 28|not enough space on the disk|Disk quota exceeded")
# -I: without PYTHONPATH and the user's own packages. A .venv whose Python was upgraded has no site-packages for it.
PROBE = "import sys; sys.exit(sys.version_info < (3, 11) or not any('site-packages' in p for p in sys.path))"


class StartError(Exception):
    """Something that the user has to put right before Sigmalab can start; the text says what and how."""


def requirements(root: Path, tests: bool = False) -> list[str]:
    """The lines of requirements.txt without comments, and the group `test` of pyproject.toml if wanted."""
    lines = (root / "requirements.txt").read_text("utf-8").splitlines()
    wanted = [wish for line in lines if (wish := line.partition("#")[0].strip())]
    if tests:
        import tomllib  # not at the top: it would cost every start of the page some milliseconds

        project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
        wanted += project["optional-dependencies"]["test"]
    return wanted


def missing(wanted: Sequence[str]) -> list[str]:
    """Those of the requirements that the running interpreter does not satisfy."""

    def satisfied(line: str) -> bool:
        try:
            version = metadata.version(_name(line))
        except metadata.PackageNotFoundError:
            return False
        return bool(version) and allows(line.removeprefix(_name(line)), version)

    return [line for line in wanted if not satisfied(line)]


def allows(specifiers: str, version: str) -> bool:
    """Whether a version fits specifiers such as ">=2.10,<3". ValueError on an operator that is not in OPERATORS."""
    for specifier in filter(None, (part.strip() for part in specifiers.split(","))):
        sign, limit = re.fullmatch(r"([=!<>~]+)\s*(\S+)", specifier).groups()
        if sign not in OPERATORS:
            raise ValueError(f"{specifier!r}: write the range with {' '.join(OPERATORS)}")
        # 3.0rc1 comes before 3.0, yet "<3" means that nothing of 3 is wanted: compare the numbers alone.
        parts = slice(0, 1) if sign == "<" else slice(None)
        if not OPERATORS[sign](_key(version)[parts], _key(limit)[parts]):
            return False
    return True


def prepare(root: Path, *, setup: bool = True, tests: bool = False, torch_index: str | None = None) -> Path | None:
    """Return None when the running interpreter has all that is needed, else the one to start launch.py with again.

    A first start makes `.venv`; the second, run by its interpreter, installs the packages; the third finds all of it.
    With `setup` False nothing is ever installed. Raises StartError.
    """
    wanted, folder = requirements(root, tests), root / ".venv"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    lacking = missing(wanted)
    inside = folder.is_dir() and os.path.samefile(sys.prefix, folder)
    if not lacking and not (inside and (folder / UNFINISHED).exists()):
        if torch_index:
            print(f"Nothing to install: --torch-index is not used. To change torch, delete {folder} and start again.")
        os.environ.pop(STARTED, None)
        return None
    if not setup:
        raise StartError(
            f"{sys.executable} lacks {', '.join(lacking) or 'a finished installation'}.\n"
            "Install that (python -m pip install -r requirements.txt), or start without --no-setup."
        )
    if not inside and os.environ.get(STARTED) == str(folder):
        raise StartError(f"{folder} does not work. Unset PYTHONHOME if it is set, delete the folder and start again.")
    try:
        if inside:
            _install(folder, wanted, lacking, torch_index)
        elif not _usable(python):
            _check_space(folder, lacking, torch_index)
            _make(folder, lacking)
    except OSError as error:
        raise StartError(
            f"cannot write to {folder}: {error.strerror or error}.\nMove Sigmalab to a folder with room that you may "
            "write to, or install requirements.txt into a Python of your own and start with --no-setup."
        ) from None
    os.environ[STARTED] = str(folder)
    return python


def _make(folder: Path, lacking: Sequence[str]) -> None:
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        raise StartError(
            f"{sys.executable} cannot make virtual environments: its module venv or ensurepip is missing.\n"
            f"On Debian and Ubuntu: sudo apt install python3.{sys.version_info[1]}-venv; elsewhere: use a complete Python."
        )
    import venv

    print(f"{sys.executable} lacks {len(lacking)} packages that Sigmalab needs.\nMaking {folder}")
    # pip is added by the next step, which an interruption can only make run again.
    venv.EnvBuilder(clear=True, symlinks=os.name != "nt").create(folder)


def _install(folder: Path, wanted: Sequence[str], lacking: Sequence[str], torch_index: str | None) -> None:
    """Install into the running interpreter, which is `.venv`'s."""
    _check_space(folder, lacking, torch_index)
    marker = folder / UNFINISHED
    if marker.exists():
        print("The last installation did not finish; going on with it.")
        _mend()
    marker.write_text("An installation is running or was interrupted; the next start finishes it.\n")
    if missing(["pip"]):
        _run("Adding pip", ["-m", "ensurepip"])
    pip = ["-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    if torch_index:
        first = [line for line in wanted if _name(line) in ("torch", "torchvision")]
        _run(f"Installing torch from {torch_index}", [*pip, "--index-url", torch_index, *first])
    _run(f"Installing {', '.join(map(_name, lacking)) or 'what is missing'}", [*pip, *wanted])
    if still := missing(wanted):
        raise StartError(f"pip finished, yet these are missing: {', '.join(still)}. Delete {folder} and start again.")
    marker.unlink()
    print("The environment is ready.")


def _run(phase: str, arguments: Sequence[str]) -> None:
    """Run one phase in this interpreter with its output shown; StartError explains a failure."""
    print(phase)
    # A PIP_USER in the user's settings would send the packages past the environment.
    environment = {**os.environ, "PIP_USER": "0"}
    text, command = "", [sys.executable, *arguments]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, errors="replace") as child:
        for line in child.stderr:
            sys.stderr.write(line)
            text += line
    if child.returncode == 0:
        return
    if DISK_FULL.search(text):
        raise StartError("the disk is full. Free some space (the temporary folder counts, too) and start again.")
    if NO_NETWORK.search(text):
        raise StartError(
            "the package registry cannot be reached. Check the network (behind a proxy: set HTTPS_PROXY; "
            "a mirror: PIP_INDEX_URL) and start again; it goes on where it stopped."
        )
    raise StartError("an installation step failed; the reason is above. Start again; if it stays, delete .venv first.")


def _check_space(folder: Path, lacking: Sequence[str], torch_index: str | None) -> None:
    need, hint = (3 if "torch" in map(_name, lacking) else 0.5), ""
    if need == 3 and sys.platform == "linux" and not torch_index:
        need, hint = 7, "\nPyPI's torch brings CUDA; --torch-index with an index of CPU builds needs 3 GB."
    free = shutil.disk_usage(folder.parent).free / 1e9
    if free < need:
        raise StartError(
            f"not enough disk space in {folder.parent}: {free:.1f} GB are free, about {need} GB are needed.{hint}\n"
            "Free some space and start again."
        )


def _mend() -> None:
    # pip writes RECORD last; a package without it pip neither replaces nor repairs, so let it be installed anew.
    for info in Path(sysconfig.get_path("purelib")).glob("*.dist-info"):
        if not any(record.stat().st_size for record in info.glob("RECORD")):
            shutil.rmtree(info)


def _usable(python: Path) -> bool:
    """Whether this interpreter starts, is new enough and belongs to its environment."""
    return python.exists() and subprocess.run([python, "-I", "-c", PROBE], stderr=subprocess.DEVNULL).returncode == 0


def _name(line: str) -> str:
    return re.match(r"[\w.-]+", line)[0]


def _key(version: str) -> tuple:
    # The order of PEP 440, as far as our ranges need it: the local part, as in 2.13.0+cpu, does not count.
    found = VERSION.match(version.lower())
    if not found:
        return ((),)
    numbers = tuple(map(int, re.sub(r"(\.0+)+$", "", found[1]).split(".")))
    return (numbers, STAGES[found[2]], int(found[3] or 0))
