"""Install requirements.txt into `.venv` beside launch.py, unless the running interpreter has all of it.

`.venv` holds a file with the requirements that pip has installed into it; a start compares it with requirements.txt and
needs no more. Standard library only: this runs before anything is installed.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

STARTED = "SIGMALAB_STARTED_IN"  # tells the program that went on in .venv that it should now be there
INSTALLED = "sigmalab-installed.txt"  # in .venv: the requirements that a finished installation has satisfied
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
    parse = _requirement_parser()
    return [line for line in wanted if parse is None or not _satisfied(parse(line))]


def prepare(root: Path, *, setup: bool = True, tests: bool = False, torch_index: str | None = None) -> Path | None:
    """Return None when the running interpreter has all that is needed, else the one to start launch.py with again.

    A first start makes `.venv`; the second, run by its interpreter, installs the packages; the third finds all of it.
    With `setup` False nothing is ever installed. Raises StartError.
    """
    wanted, folder = requirements(root, tests), root / ".venv"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    inside = folder.is_dir() and os.path.samefile(sys.prefix, folder)
    finished = inside and set(wanted) <= _installed(folder)
    lacking = [] if finished else missing(wanted)
    if finished or not (lacking or (inside and setup)):
        if torch_index:
            print(f"Nothing to install: --torch-index is not used. To change torch, delete {folder} and start again.")
        os.environ.pop(STARTED, None)
        return None
    if not setup:
        raise StartError(
            f"{sys.executable} lacks {', '.join(lacking)}.\n"
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
        package = f"python3.{sys.version_info[1]}-venv"
        raise StartError(
            f"{sys.executable} cannot make virtual environments: its module venv or ensurepip is missing.\n"
            f"On Debian and Ubuntu: sudo apt install {package}; elsewhere: use a complete Python."
        )
    import venv

    print(f"{sys.executable} lacks {len(lacking)} packages that Sigmalab needs.\nMaking {folder}")
    # pip is added by the next step, which an interruption can only make run again.
    venv.EnvBuilder(clear=True, symlinks=os.name != "nt").create(folder)


def _install(folder: Path, wanted: Sequence[str], lacking: Sequence[str], torch_index: str | None) -> None:
    """Install into the running interpreter, which is `.venv`'s."""
    _check_space(folder, lacking, torch_index)
    # Without this file an interrupted installation is finished by the next start.
    (folder / INSTALLED).unlink(missing_ok=True)
    _remove_partial_packages()
    if importlib.util.find_spec("pip") is None:
        _run("Adding pip", ["-m", "ensurepip"])
    pip = ["-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    if torch_index:
        first = [line for line in wanted if _name(line) in ("torch", "torchvision")]
        _run(f"Installing torch from {torch_index}", [*pip, "--index-url", torch_index, *first])
    _run(f"Installing {', '.join(map(_name, lacking)) or 'what is missing'}", [*pip, *wanted])
    importlib.invalidate_caches()
    if still := missing(wanted):
        raise StartError(f"pip finished, yet these are missing: {', '.join(still)}. Delete {folder} and start again.")
    (folder / INSTALLED).write_text("\n".join(wanted), "utf-8")
    print("The environment is ready.")


def _run(phase: str, arguments: Sequence[str]) -> None:
    """Run one phase in this interpreter with its output shown; StartError explains a failure."""
    print(phase)
    # A PIP_USER in the user's settings would send the packages past the environment.
    environment = {**os.environ, "PIP_USER": "0"}
    text, command = "", [sys.executable, *arguments]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, errors="replace") as child:
        for line in child.stderr or ():
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


def _remove_partial_packages() -> None:
    # pip writes RECORD last; a package without it pip neither replaces nor repairs, so let it be installed anew.
    for info in Path(sysconfig.get_path("purelib")).glob("*.dist-info"):
        if not any(record.stat().st_size for record in info.glob("RECORD")):
            shutil.rmtree(info)


def _usable(python: Path) -> bool:
    """Whether this interpreter starts, is new enough and belongs to its environment."""
    return python.exists() and subprocess.run([python, "-I", "-c", PROBE], stderr=subprocess.DEVNULL).returncode == 0


def _name(line: str) -> str:
    return re.split(r"[^\w.-]", line, maxsplit=1)[0]


def _installed(folder: Path) -> set[str]:
    file = folder / INSTALLED
    return set(file.read_text("utf-8").splitlines()) if file.exists() else set()


def _requirement_parser() -> Callable[[str], Any] | None:
    # transformers and gradio need `packaging`: an interpreter that has neither it nor pip does not have them either.
    for module in ("packaging.requirements", "pip._vendor.packaging.requirements"):
        with contextlib.suppress(ImportError):
            return importlib.import_module(module).Requirement
    return None


def _satisfied(requirement: Any) -> bool:
    if requirement.marker is not None and not requirement.marker.evaluate():
        # For another kind of machine.
        return True
    try:
        # Development builds of torch count, as they do for pip once they are installed.
        return requirement.specifier.contains(metadata.version(requirement.name), prereleases=True)
    except (metadata.PackageNotFoundError, ValueError, TypeError, KeyError):  # not there, or without a valid version
        return False
