"""Finds plugins in three places and loads each safely: one that cannot be used is listed, and never stops us.

Places, in the order in which names are given away: the built-in folder, installed packages with an entry point in the
group "sigmalab", folders named by the user. Within one place the order is alphabetical. Whatever is a plugin's own
code runs for a limited time and inside a try of its own.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import pluggy

from .check import check_quickly, check_schedule_quickly
from .failure import CheckFailed
from .global_state import global_state_kept
from .sampler import PROJECT, Hooks, Sampler, Schedule
from .schedule import NoiseSchedule, flow, stable_diffusion
from .sources import Source, Unfit, digest, sources
from .timeouts import Escaped, ImportGuard, Limit, TookTooLong, bounded

Item = TypeVar("Item", Sampler, Schedule)


@dataclass(frozen=True)
class Entry(Generic[Item]):
    """A usable sampler or schedule, where it comes from, and what the check at its loading said."""

    item: Item
    source: str
    version: str
    digest: str = ""
    check: str = ""

    @property
    def name(self) -> str:
        """The name in the menus."""
        return self.item.name

    @property
    def id(self) -> str:
        """source/name: what metadata records, so that two plugins of one name are never confused."""
        return f"{self.source}/{self.name}"


@dataclass(frozen=True)
class Broken:
    """A plugin, or one thing that it offers, that cannot be used, and why."""

    source: str
    name: str
    reason: str


@dataclass(frozen=True)
class Registry:
    """Everything that can be chosen, by name, and everything that failed."""

    samplers: dict[str, Entry[Sampler]] = field(default_factory=dict)
    schedules: dict[str, Entry[Schedule]] = field(default_factory=dict)
    broken: tuple[Broken, ...] = ()

    def sampler(self, name: str) -> Entry[Sampler]:
        """The sampler of this name or id; ValueError lists the known names."""
        return _find("sampler", self.samplers, name)

    def schedule(self, name: str) -> Entry[Schedule]:
        """The schedule of this name or id; ValueError lists the known names."""
        return _find("schedule", self.schedules, name)


def discover(builtin: Path, folders: Sequence[Path] = (), packages: bool = True) -> Registry:
    """Load and check every plugin there is.

    builtin   the folder of the plugins that ship with the program
    folders   the user's own folders, searched for *.py
    packages  whether to load installed packages too
    """
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(Hooks)
    with ImportGuard() as guard:
        loader = _Loader(manager, guard, (stable_diffusion(), flow()))
        for source in sources(builtin, folders, packages):
            loader.load(source)
    return Registry(loader.samplers, loader.schedules, tuple(loader.broken))


class _Loader:
    """Fills the lists of a Registry, one source after the other."""

    def __init__(self, manager: pluggy.PluginManager, guard: ImportGuard, models: Sequence[NoiseSchedule]):
        self.samplers: dict[str, Entry[Sampler]] = {}
        self.schedules: dict[str, Entry[Schedule]] = {}
        self.broken: list[Broken] = []
        self._manager, self._guard = manager, guard
        self._kinds = (
            (self.samplers, manager.hook.register_samplers, Sampler, check_quickly),
            (self.schedules, manager.hook.register_schedules, Schedule, partial(check_schedule_quickly, models=models)),
        )
        # Shared by all plugins: the more of it the first ones wasted, the sooner the next ones are given up.
        self._patience = 1.5

    def load(self, source: Source) -> None:
        """Load one plugin and take what it offers."""
        try:
            self._bounded(partial(self._register, source), source, busy=0.5)
            for found, hook, item_type, check in self._kinds:
                for implementation in (i for i in hook.get_hookimpls() if i.plugin_name == source.name):
                    self._collect(source, found, implementation.function, hook.name, item_type, check)
        except Exception as error:
            self.broken.append(Broken(source.name, source.name.rsplit("/", 1)[-1], _reason(error)))
            if self._manager.has_plugin(source.name):
                self._manager.unregister(name=source.name)

    def _register(self, source: Source) -> None:
        with global_state_kept("what it does when it is imported", generators=False):
            plugin = source.load()
        self._manager.register(plugin, name=source.name)
        self._manager.check_pending()
        if not self._manager.get_hookcallers(plugin):
            raise TypeError("it implements no hook; it needs @hookimpl on register_samplers or register_schedules")

    def _collect(self, source: Source, found: dict, function, hook: str, item_type: type, check) -> None:
        """Put what one plugin offers under this hook into `found`, and what had to be refused into `broken`."""
        try:
            offered = self._bounded(lambda: _listed(function(), hook, item_type), source)
        except Exception as error:
            self.broken.append(Broken(source.name, hook, _reason(error)))
            return
        late = ""
        for item in offered:
            name = str(getattr(item, "name", type(item).__name__))
            try:
                if late:
                    raise CheckFailed(f"not checked, because {late!r} of the same plugin took too long")
                if not isinstance(item, item_type):
                    raise CheckFailed(
                        f"{hook} returned {type(item).__name__}; it has to return a list of {item_type.__name__}"
                    )
                if name in found:
                    raise CheckFailed(f"the name {name!r} is taken by {found[name].source}")
                passed = self._bounded(partial(self._guard.run, partial(check, item)), source)
            except Exception as error:
                self.broken.append(Broken(source.name, name, _reason(error)))
                late = name if isinstance(error, TookTooLong) else late
            else:
                found[name] = Entry(item, source.name, source.version or item.version, digest(source.path), passed)

    def _bounded(self, function, source: Source, busy: float = 0.25) -> Any:
        """Run a plugin's code for at most `busy` seconds of processor time, or for 1.5 s if it sleeps."""
        limit = Limit(busy=max(0.4 * busy, min(busy, self._patience)), all=max(0.5, self._patience))
        began = time.monotonic()
        try:
            return bounded(function, limit, str(source.path or ""))
        except TookTooLong:
            self._patience -= time.monotonic() - began
            raise


def _listed(offered: Any, hook: str, item_type: type) -> list:
    if isinstance(offered, (Sampler, Schedule, str, bytes, dict)) or not hasattr(offered, "__iter__"):
        raise TypeError(f"{hook} returned {type(offered).__name__}; it has to return a list of {item_type.__name__}")
    return list(offered)


def _reason(error: BaseException) -> str:
    if isinstance(error, (CheckFailed, Escaped, TookTooLong, Unfit)):
        return str(error)
    return f"{type(error).__name__}: {error}".rstrip(": ")


def _find(kind: str, entries: dict[str, Entry[Item]], name: str) -> Entry[Item]:
    for entry in entries.values():
        if name in (entry.name, entry.id):
            return entry
    raise ValueError(f"unknown {kind} {name!r}; known are {', '.join(entries)}")
