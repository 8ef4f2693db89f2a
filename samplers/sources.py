"""Where plugins come from, and the one thing that a plugin can say before it runs: `SIGMALAB_API = 1`.

It is a plain module-level number, the version of this API that the plugin was written for; a plugin without it fits
any. In a file it is read without running the file, which may import what another version does not have.
"""

from __future__ import annotations

import ast
import hashlib
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


class Unfit(Exception):
    """The plugin is made for another version of the plugin API; the message says which, and what to do."""


@dataclass(frozen=True)
class Source:
    """A plugin not yet loaded: its name in lists, its version if it is a package, its file if it is one."""

    name: str
    version: str
    load: Callable[[], Any]
    path: Path | None = None


def sources(builtin: Path, folders: Sequence[Path], packages: bool) -> Iterator[Source]:
    """All plugins in the order in which names are given away; nothing of them runs yet."""
    yield from _files(builtin, "built-in")
    if packages:
        yield from _packages()
    for folder in folders:
        yield from _files(Path(folder), str(folder))


def digest(path: Path | None) -> str:
    """The start of the SHA-256 of a plugin's file; empty for a package."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path else ""


def _files(folder: Path, origin: str) -> Iterator[Source]:
    # Absolute, because that is how a module's code names its file.
    for path in sorted(Path(os.path.abspath(folder)).glob("*.py")):
        if not path.name.startswith("_"):
            name = path.stem if origin == "built-in" else path.name
            yield Source(f"{origin}/{name}", "", lambda path=path: _load_file(path), path)


def _packages() -> Iterator[Source]:
    for point in sorted(metadata.entry_points(group=PROJECT), key=lambda point: point.name):
        package = point.dist.name if point.dist else point.module
        version = point.dist.version if point.dist else ""
        yield Source(f"{package}/{point.name}", version, lambda point=point: _fitting(point.load()))


def _load_file(path: Path) -> ModuleType:
    for node in ast.parse(path.read_bytes(), str(path)).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == DECLARED for t in node.targets):
            _refuse_unfit(node.value.value if isinstance(node.value, ast.Constant) else ast.unparse(node.value))
    # The module has to be in sys.modules while it runs: dataclasses and string annotations look it up there.
    name = f"sigmalab_plugin_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _fitting(plugin: Any) -> Any:
    _refuse_unfit(getattr(plugin, DECLARED, API_VERSION))
    return plugin


def _refuse_unfit(declared: Any) -> None:
    if isinstance(declared, bool) or not isinstance(declared, int):
        raise Unfit(
            f"{DECLARED} has to be a plain whole number, not {declared!r}; this program has plugin API {API_VERSION}"
        )
    if declared != API_VERSION:
        update = "this program" if declared > API_VERSION else "the plugin"
        raise Unfit(f"it is written for plugin API {declared}, and this program has {API_VERSION}; update {update}")
