"""Every plugin there is, by name: one that cannot be used is listed with its reason, and never stops the program.

Places, in the order in which names are given away: the built-in folder, installed packages with an entry point in the
group "sigmalab", folders named by the user. Within one place the order is alphabetical.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from .guidance import CFG
from .plugin_loading import HOOKS, Broken, Entry, Item, Loaded, load
from .sampler import Guidance, Sampler, Schedule
from .slow_loading import named_while_slow
from .sources import digest_of_files, file_source, sources

__all__ = ["HOOKS", "Broken", "Entry", "Registry", "discover", "load_plugin"]

PATIENCE = 5.0  # seconds until a plugin that is still being loaded is named on the console
LIMIT = 120.0  # seconds until it is given up


def _usual_guidances() -> dict[str, Entry[Guidance]]:
    """The guidance that is there without any plugin."""
    return {CFG.name: Entry(CFG, "samplers", CFG.version)}


@dataclass(frozen=True)
class Registry:
    """Everything that can be chosen, by name, and everything that failed.

    loaded  the same, plugin by plugin
    """

    samplers: dict[str, Entry[Sampler]] = field(default_factory=dict)
    schedules: dict[str, Entry[Schedule]] = field(default_factory=dict)
    broken: tuple[Broken, ...] = ()
    guidances: dict[str, Entry[Guidance]] = field(default_factory=_usual_guidances)
    loaded: tuple[Loaded, ...] = field(default=(), compare=False, repr=False)

    def sampler(self, name: str) -> Entry[Sampler]:
        """The sampler of this name or id; ValueError lists the known names."""
        if name not in self._samplers:
            raise ValueError(f"unknown sampler {name!r}; known are {', '.join(self.samplers)}")
        return self._samplers[name]

    def schedule(self, name: str) -> Entry[Schedule]:
        """The schedule of this name or id; ValueError lists the known names."""
        if name not in self._schedules:
            raise ValueError(f"unknown schedule {name!r}; known are {', '.join(self.schedules)}")
        return self._schedules[name]

    def guidance(self, name: str) -> Entry[Guidance]:
        """The guidance of this name or id; ValueError lists the known names."""
        if name not in self._guidances:
            raise ValueError(f"unknown guidance {name!r}; known are {', '.join(self.guidances)}")
        return self._guidances[name]

    @cached_property
    def _samplers(self) -> dict[str, Entry[Sampler]]:
        return _by_name_and_id(self.samplers)

    @cached_property
    def _schedules(self) -> dict[str, Entry[Schedule]]:
        return _by_name_and_id(self.schedules)

    @cached_property
    def _guidances(self) -> dict[str, Entry[Guidance]]:
        return _by_name_and_id(self.guidances)


def discover(
    builtin: Path,
    folders: Sequence[Path] = (),
    packages: bool = True,
    deep: bool = False,
    patience: float = PATIENCE,
    before: Registry | None = None,
) -> Registry:
    """Load and check every plugin there is.

    builtin   the folder of the plugins that ship with the program
    folders   the user's own folders
    packages  whether to load installed packages too
    deep      also check the samplers that import a large package when they run (`requires`)
    patience  seconds until a plugin that is still being loaded is named on the console
    before    an earlier result: what has not changed since is taken from it, and what was right before and cannot be
              loaded any more stays as it was there, beside the reason
    """
    known = {each.source: each for each in before.loaded} if before else {}
    loaded = []
    for source in sources(builtin, folders, packages):
        old = known.get(source.name)
        if old and not old.broken and old.digest and old.digest == digest_of_files(source.root()):
            loaded.append(old)
            continue
        if old:
            source.forget()
        with named_while_slow(source.name, patience, LIMIT):
            new = load(source, deep)
        loaded.append(_kept(old, new) if old else new)
    return _registry(loaded)


def load_plugin(path: Path, patience: float = PATIENCE) -> Registry:
    """Load and check one plugin alone: a file, or a folder with `__init__.py`. See `discover`."""
    source = file_source(path.absolute(), path.name)
    with named_while_slow(path.name, patience, LIMIT):
        found = _registry([load(source, deep=True)])
    return replace(found, guidances={n: entry for n, entry in found.guidances.items() if entry.source == path.name})


def _kept(old: Loaded, new: Loaded) -> Loaded:
    """A plugin that was loaded anew: as it was before, if that worked and this does not."""
    usable = old.samplers or old.schedules or old.guidances
    if not (new.broken and usable):
        return new
    told = "; what was loaded before stays in use"
    return replace(old, broken=tuple(replace(each, reason=each.reason + told) for each in new.broken))


def _registry(loaded: Sequence[Loaded]) -> Registry:
    """What plugins offer by name; a name belongs to the first that has it."""
    samplers: dict[str, Entry[Sampler]] = {}
    schedules: dict[str, Entry[Schedule]] = {}
    guidances = _usual_guidances()
    broken: list[Broken] = []
    for each in loaded:
        broken += [
            *each.broken,
            *_named(samplers, each.samplers),
            *_named(schedules, each.schedules),
            *_named(guidances, each.guidances),
        ]
    return Registry(samplers, schedules, tuple(broken), guidances, tuple(loaded))


def _named(entries: dict[str, Entry[Item]], more: Iterable[Entry[Item]]) -> list[Broken]:
    """Put `more` into `entries`; those whose name is taken are returned."""
    refused = []
    for entry in more:
        taken = entries.setdefault(entry.name, entry)
        if taken is not entry:
            refused.append(Broken(entry.source, entry.name, f"the name {entry.name!r} is taken by {taken.source}"))
    return refused


def _by_name_and_id(entries: Mapping[str, Entry[Item]]) -> dict[str, Entry[Item]]:
    """Entries by name, by id, and by the id that earlier pictures recorded; a name wins."""
    ids = {entry.id: entry for entry in entries.values()}
    former = {f"{entry.former_source}/{entry.name}": entry for entry in entries.values() if entry.former_source}
    return {**former, **ids, **entries}
