"""Load one plugin: import it, call its hooks, and check what they return. Nothing that it does stops the program."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import pluggy

from .check import CheckFailed, check_quickly, check_schedule_quickly, global_state_kept
from .guidance_check import check_guidance_quickly
from .sampler import PROJECT, Guidance, Sampler, Schedule
from .schedule import flow, stable_diffusion
from .slow_loading import TookTooLong
from .sources import Source, UnsupportedAPI, digest_of_files

Item = TypeVar("Item", Sampler, Schedule, Guidance)

hookspec = pluggy.HookspecMarker(PROJECT)


class Hooks:
    """What a plugin may implement, with `@hookimpl`; each hook returns a list."""

    @hookspec
    def register_samplers(self) -> list[Sampler]:
        """Return the samplers of this plugin."""
        raise NotImplementedError  # only the signature of a hook specification counts

    @hookspec
    def register_schedules(self) -> list[Schedule]:
        """Return the schedules of this plugin."""
        raise NotImplementedError

    @hookspec
    def register_guidances(self) -> list[Guidance]:
        """Return the guidances of this plugin."""
        raise NotImplementedError


HOOKS = tuple(name for name in vars(Hooks) if name.startswith("register_"))


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
    """A plugin, or one of its samplers, schedules or guidances, that cannot be used, and why.

    line  the line of its code that failed, as "my_plugin.py, line 7: code"; empty where none did
    """

    source: str
    name: str
    reason: str
    line: str = ""


@dataclass(frozen=True)
class Loaded:
    """What one plugin offers, before names are given away, and what of it cannot be used.

    source  its name
    digest  of its files as they were when it was loaded; "" if it has none
    """

    source: str
    digest: str
    samplers: tuple[Entry[Sampler], ...] = ()
    schedules: tuple[Entry[Schedule], ...] = ()
    guidances: tuple[Entry[Guidance], ...] = ()
    broken: tuple[Broken, ...] = ()


def load(source: Source, deep: bool = False) -> Loaded:
    """Load one plugin and check what it offers, each in a try of its own.

    deep  also check the samplers that import a large package when they run (`requires`)
    BaseException, because a plugin may raise SystemExit, and because Ctrl+C gives up the plugin that hangs.
    """
    # Before it runs: a file that is changed meanwhile is another one.
    digest = digest_of_files(source.root())
    try:
        hooks = _hooks(source)
        digest = digest or digest_of_files(source.root())
    except BaseException as error:
        return Loaded(source.name, digest, broken=(_broken(source, source.name.rsplit("/", 1)[-1], error),))
    models = stable_diffusion(), flow()
    collected = _Collected(source, digest)
    samplers = collected.items("register_samplers", hooks, Sampler, lambda sampler: _check_sampler(sampler, deep))
    schedules = collected.items(
        "register_schedules", hooks, Schedule, lambda schedule: check_schedule_quickly(schedule, models)
    )
    guidances = collected.items("register_guidances", hooks, Guidance, check_guidance_quickly)
    return Loaded(source.name, digest, samplers, schedules, guidances, tuple(collected.broken))


class _Collected:
    """What the hooks of a plugin return; `broken` has what has to be refused."""

    def __init__(self, source: Source, digest: str):
        self._source, self._digest = source, digest
        self.broken: list[Broken] = []

    def items(
        self, hook: str, hooks: pluggy.HookRelay, item_type: type[Item], check: Callable[[Item], str]
    ) -> tuple[Entry[Item], ...]:
        """The usable ones of what a hook returns."""
        entries = []
        for implementation in getattr(hooks, hook).get_hookimpls():
            try:
                items = _listed(implementation.function(), hook, item_type)
            except BaseException as error:
                self.broken.append(_broken(self._source, hook, error))
                continue
            entries += [entry for item in items if (entry := self._entry(item, hook, item_type, check))]
        return tuple(entries)

    def _entry(self, item: Any, hook: str, item_type: type[Item], check: Callable[[Item], str]) -> Entry[Item] | None:
        source, name = self._source, str(getattr(item, "name", type(item).__name__))
        try:
            if not isinstance(item, item_type):
                raise CheckFailed(_wrong_type(hook, item, item_type))
            passed = check(item)
        except BaseException as error:
            self.broken.append(_broken(source, name, error))
            return None
        return Entry(item, source.name, source.version or item.version, self._digest, passed, source.former_name)


def _check_sampler(sampler: Sampler, deep: bool) -> str:
    if sampler.requires and not deep:
        return f"put off: it imports {sampler.requires} when it runs"
    return check_quickly(sampler)


def _broken(source: Source, name: str, error: BaseException) -> Broken:
    plain = isinstance(error, CheckFailed | UnsupportedAPI | TookTooLong)
    reason = str(error) if plain else f"{type(error).__name__}: {error}".rstrip(": ")
    return Broken(source.name, name, reason, _failing_line(error, source.root()))


def _failing_line(error: BaseException, root: Path | None) -> str:
    """The line of a plugin's own code that raised an error; empty where that was not in its files."""
    if root is None:
        return ""
    if isinstance(error, SyntaxError) and error.filename:
        frames = [(error.filename, error.lineno, error.text)]
    else:
        frames = [(each.filename, each.lineno, each.line) for each in traceback.extract_tb(error.__traceback__)]
    own = [each for each in frames if Path(each[0]).is_relative_to(root)]
    if not own:
        return ""
    file, number, code = own[-1]
    return f"{Path(file).name}, line {number}: {(code or '').strip()}"


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
