"""Order and labels of plugins and upscalers in menus. Their names, which scripts use, stay unchanged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from samplers.registry import Entry
from samplers.sampler import Sampler

# What a newcomer should try.
SAMPLERS = ("DDIM", "DDPM", "Euler", "Flow", "Heun")
GUIDANCES = ("CFG",)
SCHEDULES = ("Uniform leading", "Uniform trailing", "Uniform linspace", "Karras", "Exponential", "SNR shift")
# Interpolations of latents, by the name of torch's mode.
LATENT = MappingProxyType(
    {
        "Latent bilinear": "bilinear",
        "Latent bicubic": "bicubic",
        "Latent nearest": "nearest",
        "Latent nearest-exact": "nearest-exact",
    }
)
UPSCALERS = ("Lanczos", *LATENT)  # the first is the default
# The plugins that run another library's code name their samplers after it.
BRIDGED = ("diffusers ", "k-diffusion ")
BUILT_IN = "built-in/"  # how the sources of the plugins that ship begin


def in_order(names: Iterable[str]) -> list[str]:
    """The first ones to try, the others by the alphabet, then those of other libraries, to compare with."""
    return _sorted(names, SAMPLERS)


def schedules_in_order(names: Iterable[str]) -> list[str]:
    """The first ones to try, then the others by the alphabet."""
    return _sorted(names, SCHEDULES)


def guidances_in_order(names: Iterable[str]) -> list[str]:
    """The usual one, then the others by the alphabet."""
    return _sorted(names, GUIDANCES)


def sampler_groups(samplers: Mapping[str, Entry[Sampler]]) -> dict[str, list[str]]:
    """The names of a menu of samplers, grouped; no group is empty."""
    groups: dict[str, list[str]] = {"Recommended": [], "Native": [], "Yours": [], "Bridges": []}
    for name in in_order(samplers):
        if not samplers[name].source.startswith(BUILT_IN):
            groups["Yours"].append(name)
        elif name.startswith(BRIDGED):
            groups["Bridges"].append(name)
        else:
            groups["Recommended" if name in SAMPLERS else "Native"].append(name)
    return {title: names for title, names in groups.items() if names}


def sampler_choices(samplers: Mapping[str, Entry[Sampler]]) -> list[tuple[str, str]]:
    """The menu of samplers, (shown, name), group by group; a user's own and another library's say so when searched."""
    marks = {"Yours": " (yours)", "Bridges": " (bridge)"}
    return [(name + marks.get(title, ""), name) for title, names in sampler_groups(samplers).items() for name in names]


def _sorted(names: Iterable[str], first: Sequence[str]) -> list[str]:
    places = {name: place for place, name in enumerate(first)}
    return sorted(names, key=lambda name: (name.startswith(BRIDGED), places.get(name, len(first)), name.casefold()))


def chosen_name(value: Any) -> str:
    """The name that a menu sent; "" for none, and for what no menu sends, such as a list."""
    return value if isinstance(value, str) else ""
