"""Order and labels of plugins and upscalers in menus. Their names, which scripts use, stay unchanged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import MappingProxyType
from typing import Any

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


def in_order(names: Iterable[str]) -> list[str]:
    """The first ones to try, the others by the alphabet, then those of other libraries, to compare with."""
    return _sorted(names, SAMPLERS)


def schedules_in_order(names: Iterable[str]) -> list[str]:
    """The first ones to try, then the others by the alphabet."""
    return _sorted(names, SCHEDULES)


def guidances_in_order(names: Iterable[str]) -> list[str]:
    """The usual one, then the others by the alphabet."""
    return _sorted(names, GUIDANCES)


def sampler_choices(names: Iterable[str]) -> list[tuple[str, str]]:
    """The menu of samplers, (shown, name), with another library's marked."""
    return [(f"{name} (bridge)" if name.startswith(BRIDGED) else name, name) for name in in_order(names)]


def _sorted(names: Iterable[str], first: Sequence[str]) -> list[str]:
    places = {name: place for place, name in enumerate(first)}
    return sorted(names, key=lambda name: (name.startswith(BRIDGED), places.get(name, len(first)), name.casefold()))


def chosen_name(value: Any) -> str:
    """The name that a menu sent; "" for none, and for what no menu sends, such as a list."""
    return value if isinstance(value, str) else ""
