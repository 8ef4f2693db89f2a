"""Where plugins come from: files, folders with an `__init__.py`, and installed packages. Nothing of them runs here yet.

A plugin may say before it runs which plugin API it was written for: `SIGMALAB_API = 1`, a plain module-level number; a
plugin without it fits any. In a file it is read without running the file, which may import what this API lacks.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from .sampler import PROJECT

API_VERSION = 1  # rises when a plugin that was right could stop being so
DECLARED = "SIGMALAB_API"


class UnsupportedAPI(Exception):
    """The plugin is made for another version of the plugin API; the message says which, and what to do."""


@dataclass(frozen=True)
class Source:
    """A plugin that is not loaded yet.

    name         what lists and pictures call it, without any path of a machine
    version      of a package; empty for a file
    load         imports it and returns what its hooks are in
    root         its file or folder, None if it has none; a package's is known after `load`
    former_name  what earlier pictures call it, where that differs
    forget       drops what was imported of it, so that `load` reads its files anew
    """

    name: str
    version: str
    load: Callable[[], Any]
    root: Callable[[], Path | None]
    former_name: str = ""
    forget: Callable[[], None] = lambda: None


def sources(builtin: Path, folders: Sequence[Path], with_packages: bool) -> Iterator[Source]:
    """All plugins in the order in which names are given away."""
    for path in plugins_in(builtin):
        yield file_source(path, f"built-in/{path.stem}")
    if with_packages:
        yield from packages()
    for folder in folders:
        for path in plugins_in(folder):
            yield file_source(path, f"{path.parent.name}/{path.name}", f"{folder}/{path.name}")


def packages() -> Iterator[Source]:
    """The plugins in installed packages, by the name of their entry point."""
    for point in sorted(metadata.entry_points(group=PROJECT), key=lambda point: point.name):
        yield _package(point)


def digest_of_files(path: Path | None) -> str:
    """The start of the SHA-256 of a file, or of a folder's files with their names; compiled code does not count."""
    if path is None:
        return ""
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    whole = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            content = hashlib.sha256(file.read_bytes()).hexdigest()
            whole.update(f"{file.relative_to(path).as_posix()} {content}\n".encode())
    return whole.hexdigest()[:16]


def plugins_in(folder: Path) -> Iterator[Path]:
    """The plugins in a folder, by name: Python files, and folders with __init__.py."""
    # Absolute, because that is how a module's code names its file.
    for path in sorted(Path(os.path.abspath(folder)).glob("*")):
        if not path.name.startswith(("_", ".")) and (path.suffix == ".py" or (path / "__init__.py").is_file()):
            yield path


def file_source(path: Path, name: str, former_name: str = "") -> Source:
    """The plugin in a file or a folder, given by its absolute path, under a name."""
    forget = lambda: _forget(_module_name(path), path)  # noqa: E731
    return Source(name, "", lambda: _load_file(path), lambda: path, former_name, forget)


def _package(point: metadata.EntryPoint) -> Source:
    name, version = (point.dist.name, point.dist.version) if point.dist else (point.module, "")

    def load() -> Any:
        plugin = point.load()
        _check_api(getattr(plugin, DECLARED, API_VERSION))
        return plugin

    def root() -> Path | None:
        file = getattr(sys.modules.get(point.module.partition(".")[0]), "__file__", None)
        return file and (Path(file).parent if Path(file).name == "__init__.py" else Path(file))

    forget = lambda: _forget(point.module.partition(".")[0], root())  # noqa: E731
    return Source(f"{name}/{point.name}", version, load, root, forget=forget)


def _load_file(path: Path) -> ModuleType:
    file = path / "__init__.py" if path.is_dir() else path
    for node in ast.parse(file.read_bytes(), str(file)).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == DECLARED for t in node.targets):
            _check_api(node.value.value if isinstance(node.value, ast.Constant) else ast.unparse(node.value))
    # The module has to be in sys.modules while it runs: dataclasses and string annotations look it up there.
    name = _module_name(path)
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file.name} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _module_name(path: Path) -> str:
    return f"sigmalab_plugin_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}_{path.stem}"


def _forget(module: str, root: Path | None) -> None:
    """Drop a module, those below it, and their compiled files, which two changes in one second do not outdate."""
    for name in [name for name in sys.modules if name == module or name.startswith(f"{module}.")]:
        del sys.modules[name]
    for file in [] if root is None else [root] if root.is_file() else root.rglob("*.py"):
        with contextlib.suppress(OSError, NotImplementedError):
            Path(importlib.util.cache_from_source(str(file))).unlink()
    importlib.invalidate_caches()


def _check_api(declared: Any) -> None:
    if isinstance(declared, bool) or not isinstance(declared, int):
        raise UnsupportedAPI(
            f"{DECLARED} has to be a plain whole number, not {declared!r}; this program has plugin API {API_VERSION}"
        )
    if declared != API_VERSION:
        update = "this program" if declared > API_VERSION else "the plugin"
        raise UnsupportedAPI(
            f"it is written for plugin API {declared}, and this program has {API_VERSION}; update {update}"
        )
