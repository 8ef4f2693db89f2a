"""The fields of a request that name a plugin, each with the field of its options, and which code the plugins were."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from samplers.guidance import CFG
from samplers.options import with_former
from samplers.registry import Entry, Registry

if TYPE_CHECKING:
    from .request import Request


@dataclass(frozen=True)
class PluginField:
    """A field that names a plugin.

    name     of the field
    options  the field of its options
    kind     of the plugins, as a registry and a form's options name it: "samplers"
    default  the plugin that an empty name stands for, "" where that depends on the model
    """

    name: str
    options: str
    kind: str
    default: str = ""

    @property
    def noun(self) -> str:
        """One of its kind: "sampler"."""
        return self.kind[:-1]

    @property
    def infotext_options(self) -> str:
        """The name of its options in A1111's text."""
        return f"{self.noun.capitalize()} options"

    def as_then(self, registry: Registry, origin: PluginOrigin, given: Mapping[str, Any]) -> dict[str, Any]:
        """The options that a picture of `origin` names, and what it did where an option is newer than the picture."""
        try:
            return with_former(self.find(registry, origin.id).item.options, origin.version, given)
        except ValueError:
            return dict(given)

    def entries(self, registry: Registry) -> Mapping[str, Entry[Any]]:
        """The plugins that it can name."""
        return getattr(registry, self.kind)

    def find(self, registry: Registry, name: str) -> Entry[Any]:
        """The plugin of this name or id; ValueError lists the known names."""
        return getattr(registry, self.noun)(name or self.default)

    def named(self, entry: Entry[Any]) -> str:
        """How a request names a plugin: the default one by ""."""
        return "" if entry.name == self.default else entry.name


GUIDANCE = PluginField("guidance_method", "guidance_options", "guidances", CFG.name)
PLUGIN_FIELDS = (
    PluginField("sampler", "options", "samplers"),
    PluginField("schedule", "schedule_options", "schedules"),
    GUIDANCE,
)


@dataclass(frozen=True)
class PluginOrigin:
    """Which code a plugin was."""

    id: str = ""
    version: str = ""
    digest: str = ""

    @classmethod
    def of(cls, entry: Entry[Any]) -> PluginOrigin:
        """That of a loaded plugin."""
        return cls(entry.id, entry.version, entry.digest)


NO_PLUGIN = PluginOrigin()


@dataclass(frozen=True)
class PluginOrigins:
    """Which code draws a request: (sampler, schedule) of each pass, and the guidance, none for the usual one."""

    passes: tuple[tuple[PluginOrigin, PluginOrigin], ...] = ()
    guidance: PluginOrigin = NO_PLUGIN

    @classmethod
    def of(cls, request: Request, registry: Registry) -> PluginOrigins:
        """Those of a resolved request, as the plugins are now."""
        names = [(request.sampler, request.schedule)]
        if request.is_hires:
            names.append((request.hires_sampler, request.hires_schedule))
        origin, method = PluginOrigin.of, request.guidance_method
        passes = tuple((origin(registry.sampler(first)), origin(registry.schedule(second))) for first, second in names)
        return cls(passes, origin(registry.guidance(method)) if method else NO_PLUGIN)
