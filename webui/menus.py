"""In which order samplers are offered, and by what words. Their names, which scripts use, are never touched."""

from __future__ import annotations

from collections.abc import Iterable

FIRST = ("DDIM", "DDPM", "Euler", "Flow", "Heun")  # what a newcomer should try
# The plugins that run another library's code name their samplers after it.
BRIDGED = ("diffusers ", "k-diffusion ")


def in_order(names: Iterable[str]) -> list[str]:
    """The first ones to try, the others by the alphabet, then those of other libraries, to compare with."""
    places = {name: place for place, name in enumerate(FIRST)}
    return sorted(names, key=lambda name: (name.startswith(BRIDGED), places.get(name, len(FIRST)), name.casefold()))


def sampler_choices(names: Iterable[str]) -> list[tuple[str, str]]:
    """The menu of samplers, (shown, name), with another library's marked."""
    return [(f"{name} (bridge)" if name.startswith(BRIDGED) else name, name) for name in in_order(names)]
