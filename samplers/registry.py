"""Load every plugin there is: one that cannot be used is listed with its reason, and never stops the program.

Places, in the order in which names are given away: the built-in folder, installed packages with an entry point in the
group "sigmalab", folders named by the user. Within one place the order is alphabetical.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

import pluggy

from .check import CheckFailed, check_quickly, check_schedule_quickly, global_state_kept
from .guidance import CFG
from .guidance_check import check_guidance_quickly
from .sampler import PROJECT, Guidance, Hooks, Sampler, Schedule
from .schedule import flow, stable_diffusion
from .slow_loading import TookTooLong, named_while_slow
from .sources import Source, UnsupportedAPI, digest_of_files, file_source, sources

Item = TypeVar("Item", Sampler, Schedule, Guidance)

HOOKS = tuple(name for name in vars(Hooks) if name.startswith("register_"))
PATIENCE = 5.0  # seconds until a plugin that is still being loaded is named on the console
LIMIT = 120.0  # seconds until it is given up


@dataclass(frozen=True)
class Entry(Generic[Item]):
    """A usable sampler, schedule or guidance, where it comes from, and what the check at its loading said."""

    item: Item
    source: str
    version: str
    digest: str = ""
    check: str = ""
    former_source: str = ""

    @property
    def name(self) -> str:
        """The name in the menus."""
        return self.item.name

    @property
    def id(self) -> str:
        """source/name: what metadata records, so that two plugins of one name are never confused."""
        return f"{self.source}/{self.name}"

    def describe(self) -> dict[str, Any]:
        """The entry as JSON data. What depends on the options is given for their defaults, None where that fails."""
        item = self.item
        fields: dict[str, Any] = dict(name=self.name, source=self.source, id=self.id, version=self.version)
        if isinstance(item, Sampler):
            fields |= dict(
                order=_or_none(item.order_of),
                calls=_or_none(item.calls_per_step),
                stochastic=_or_none(item.stochastic_with),
                own_grid=_or_none(item.own_grid_with),
                distilled=item.distilled,
                resizes=item.resizes,
            )
        return fields | dict(paper=item.paper, options=[option.schema() for option in item.options])


@dataclass(frozen=True)
class Broken:
    """A plugin, or one of its samplers, schedules or guidances, that cannot be used, and why."""

    source: str
    name: str
    reason: str


def _usual_guidances() -> dict[str, Entry[Guidance]]:
    """The guidance that is there without any plugin."""
    return {CFG.name: Entry(CFG, "samplers", CFG.version)}


@dataclass(frozen=True)
class Registry:
    """Everything that can be chosen, by name, and everything that failed."""

    samplers: dict[str, Entry[Sampler]] = field(default_factory=dict)
    schedules: dict[str, Entry[Schedule]] = field(default_factory=dict)
    broken: tuple[Broken, ...] = ()
    guidances: dict[str, Entry[Guidance]] = field(default_factory=_usual_guidances)

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
    builtin: Path, folders: Sequence[Path] = (), packages: bool = True, deep: bool = False, patience: float = PATIENCE
) -> Registry:
    """Load and check every plugin there is.

    builtin   the folder of the plugins that ship with the program
    folders   the user's own folders
    packages  whether to load installed packages too
    deep      also check the samplers that import a large package when they run (`requires`)
    patience  seconds until a plugin that is still being loaded is named on the console
    """
    loader = _Loader(deep)
    for source in sources(builtin, folders, packages):
        with named_while_slow(source.name, patience, LIMIT):
            loader.load(source)
    return Registry(loader.samplers, loader.schedules, tuple(loader.broken), loader.guidances)


def load_plugin(path: Path, patience: float = PATIENCE) -> Registry:
    """Load and check one plugin alone: a file, or a folder with `__init__.py`. See `discover`."""
    loader = _Loader(deep=True)
    with named_while_slow(path.name, patience, LIMIT):
        loader.load(file_source(path.absolute(), path.name))
    own = {name: entry for name, entry in loader.guidances.items() if entry.source == path.name}
    return Registry(loader.samplers, loader.schedules, tuple(loader.broken), own)


class _Loader:
    """Fills the lists of a Registry, one source after the other."""

    def __init__(self, deep: bool):
        self.samplers: dict[str, Entry[Sampler]] = {}
        self.schedules: dict[str, Entry[Schedule]] = {}
        self.guidances = _usual_guidances()
        self.broken: list[Broken] = []
        self._deep, self._models = deep, (stable_diffusion(), flow())

    def load(self, source: Source) -> None:
        """Load one plugin and check what it offers, each in a try of its own.

        BaseException, because a plugin may raise SystemExit, and because Ctrl+C gives up the plugin that hangs.
        """
        try:
            hooks = _hooks(source)
            digest = digest_of_files(source.root())
        except BaseException as error:
            self._refuse(source, source.name.rsplit("/", 1)[-1], error)
            return
        for hook in hooks.register_samplers.get_hookimpls():
            self._collect(source, digest, "register_samplers", hook.function, Sampler, self.samplers, self._check)
        for hook in hooks.register_schedules.get_hookimpls():
            check = lambda schedule: check_schedule_quickly(schedule, self._models)  # noqa: E731
            self._collect(source, digest, "register_schedules", hook.function, Schedule, self.schedules, check)
        for hook in hooks.register_guidances.get_hookimpls():
            given = hook.function, Guidance, self.guidances, check_guidance_quickly
            self._collect(source, digest, "register_guidances", *given)

    def _collect(
        self,
        source: Source,
        digest: str,
        hook: str,
        function: Callable[[], Any],
        item_type: type[Item],
        entries: dict[str, Entry[Item]],
        check: Callable[[Item], str],
    ) -> None:
        """Put what one hook returns into `entries`, and what has to be refused into `broken`."""
        try:
            items = _listed(function(), hook, item_type)
        except BaseException as error:
            self._refuse(source, hook, error)
            return
        for item in items:
            name = str(getattr(item, "name", type(item).__name__))
            try:
                if not isinstance(item, item_type):
                    raise CheckFailed(_wrong_type(hook, item, item_type))
                if name in entries:
                    raise CheckFailed(f"the name {name!r} is taken by {entries[name].source}")
                passed = check(item)
            except BaseException as error:
                self._refuse(source, name, error)
            else:
                version = source.version or item.version
                entries[name] = Entry(item, source.name, version, digest, passed, source.former_name)

    def _check(self, sampler: Sampler) -> str:
        if sampler.requires and not self._deep:
            return f"put off: it imports {sampler.requires} when it runs"
        return check_quickly(sampler)

    def _refuse(self, source: Source, name: str, error: BaseException) -> None:
        plain = isinstance(error, CheckFailed | UnsupportedAPI | TookTooLong)
        reason = str(error) if plain else f"{type(error).__name__}: {error}".rstrip(": ")
        self.broken.append(Broken(source.name, name, reason))


def _hooks(source: Source) -> pluggy.HookRelay:
    """Import a plugin and return its hooks; raises where it has none or a misspelt one."""
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(Hooks)
    with global_state_kept("what it does when it is imported", generators=False):
        plugin = source.load()
    manager.register(plugin)
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise TypeError(f"{str(error).partition(' in plugin')[0]}; the hooks are {', '.join(HOOKS)}") from None
    if not manager.get_hookcallers(plugin):
        raise TypeError(f"it implements no hook; it needs @hookimpl on {' or '.join(HOOKS)}")
    return manager.hook


def _listed(returned: Any, hook: str, item_type: type) -> list[Any]:
    if isinstance(returned, Sampler | Schedule | Guidance | str | bytes | dict) or not hasattr(returned, "__iter__"):
        raise TypeError(_wrong_type(hook, returned, item_type))
    return list(returned)


def _wrong_type(hook: str, value: Any, item_type: type) -> str:
    if inspect.isfunction(value):
        return (
            f"{hook} returned the function {value.__name__}; it has to return a list of {item_type.__name__}: put "
            f"@{item_type.__name__.lower()}(...) above it"
        )
    return f"{hook} returned {type(value).__name__}; it has to return a list of {item_type.__name__}"


def _or_none(declaration: Callable[[], Any]) -> Any:
    """What a plugin declares; None where its function raises, so that one plugin does not break a whole list."""
    try:
        return declaration()
    except Exception:
        return None


def _by_name_and_id(entries: Mapping[str, Entry[Item]]) -> dict[str, Entry[Item]]:
    """Entries by name, by id, and by the id that earlier pictures recorded; a name wins."""
    ids = {entry.id: entry for entry in entries.values()}
    former = {f"{entry.former_source}/{entry.name}": entry for entry in entries.values() if entry.former_source}
    return {**former, **ids, **entries}
