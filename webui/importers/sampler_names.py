"""Which of other programs' samplers and schedules are the same method as one of ours: a table of facts.

Only the same formula on the same levels counts; what is merely alike is not in here and is said to be unmatched. The
noise of a stochastic sampler differs anyway, as do the last bits of every picture.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Ours:
    """One of our samplers or schedules, with the options that make it the other program's.

    note  where it is still not quite the same
    """

    name: str
    options: Mapping[str, float | int | bool | str] = field(default_factory=dict)
    note: str = ""


ONE_LEVEL_LESS = "Its levels: other programs leave out the last but one for this sampler."
NO_LAST_CALL = "Its calls: other programs spend all of them above the lowest level, and here the last one ends at 0."
WHOLE_TIMES = (
    "Its levels are those of the other programs where the steps divide 1,000, "
    "and else off by one timestep here or there."
)


# Ancestral Euler is DDIM with eta 1, formula for formula; k-diffusion starts its multistep methods without refinement.
METHODS: Mapping[str, Ours] = {
    "euler": Ours("Euler"),
    "euler a": Ours("DDIM", {"eta": 1.0}),
    "heun": Ours("Heun"),
    "dpm2": Ours("DPM2", note=ONE_LEVEL_LESS),
    "dpm2 a": Ours("k-diffusion DPM2 ancestral", note=ONE_LEVEL_LESS),
    "lms": Ours("k-diffusion LMS", {"order": 4}),
    "dpm++ 2m": Ours("DPM++ 2M"),
    "dpm++ 2s a": Ours("DPM++ 2S", {"eta": 1.0}),
    "dpm++ sde": Ours("DPM++ SDE", {"eta": 1.0}),
    "dpm++ 2m sde": Ours("DPM++ 2M SDE", {"eta": 1.0, "solver": "midpoint"}),
    "dpm++ 2m sde heun": Ours("DPM++ 2M SDE", {"eta": 1.0, "solver": "heun"}),
    "dpm++ 3m sde": Ours("k-diffusion DPM++ 3M SDE", {"eta": 1.0}),
    "dpm fast": Ours("k-diffusion DPM fast", note=NO_LAST_CALL),
    "dpm adaptive": Ours("k-diffusion DPM adaptive"),
    "lcm": Ours("LCM"),
    "ddim": Ours("DDIM", {"eta": 0.0}),
    "ddpm": Ours("DDPM"),
}
# ComfyUI's names, as names of METHODS.
COMFY_METHODS: Mapping[str, str] = {
    "euler": "euler",
    "euler_ancestral": "euler a",
    "heun": "heun",
    "dpm_2": "dpm2",
    "dpm_2_ancestral": "dpm2 a",
    "lms": "lms",
    "dpmpp_2m": "dpm++ 2m",
    "dpmpp_2s_ancestral": "dpm++ 2s a",
    "dpmpp_sde": "dpm++ sde",
    "dpmpp_sde_gpu": "dpm++ sde",
    "dpmpp_2m_sde": "dpm++ 2m sde",
    "dpmpp_2m_sde_gpu": "dpm++ 2m sde",
    "dpmpp_2m_sde_heun": "dpm++ 2m sde heun",
    "dpmpp_2m_sde_heun_gpu": "dpm++ 2m sde heun",
    "dpmpp_3m_sde": "dpm++ 3m sde",
    "dpmpp_3m_sde_gpu": "dpm++ 3m sde",
    "dpm_fast": "dpm fast",
    "dpm_adaptive": "dpm adaptive",
    "lcm": "lcm",
    "ddim": "ddim",
    "ddpm": "ddpm",
}
# "Uniform" and "normal" go through unrounded timesteps from top to bottom; "simple" takes every so many-th whole one.
LEVELS: Mapping[str, Ours] = {
    "uniform": Ours("Uniform linspace", {"whole": False}),
    "normal": Ours("Uniform linspace", {"whole": False}),
    "simple": Ours("Uniform trailing", {"whole": True}, WHOLE_TIMES),
    "karras": Ours("Karras", {"rho": 7.0}),
    "exponential": Ours("Exponential"),
    "polyexponential": Ours("Polyexponential", {"rho": 1.0}),
    "ddim": Ours("Uniform leading", {"offset": 1}, WHOLE_TIMES),
    "ddim_uniform": Ours("Uniform leading", {"offset": 1}, WHOLE_TIMES),
}
# A1111 and Forge have these names for other levels: Beta's quantiles are of sigma there, and KL Optimal ends above 0.
COMFY_LEVELS: Mapping[str, Ours] = LEVELS | {
    "beta": Ours("Beta", {"alpha": 0.6, "beta": 0.6, "whole": True}),
    "kl_optimal": Ours("KL-optimal"),
}
# What A1111 takes for the schedule "Automatic", where it is not the uniform one.
AUTOMATIC: Mapping[str, str] = {
    "dpm++ 2m": "karras",
    "dpm++ sde": "karras",
    "dpm++ 2s a": "karras",
    "dpm2": "karras",
    "dpm2 a": "karras",
    "dpm++ 2m sde": "exponential",
    "dpm++ 2m sde heun": "exponential",
    "dpm++ 3m sde": "exponential",
    "ddim": "ddim",
}
# Until version 1.9 A1111 had one menu for both: "DPM++ 2M Karras".
JOINED = re.compile(r"(.+?) (karras|exponential|polyexponential)")


def method(name: str) -> Ours | None:
    """Our sampler for A1111's or Forge's name of one; None if none of ours is the same."""
    return METHODS.get(name.strip().casefold())


def levels(name: str) -> Ours | None:
    """Our schedule for another program's name of one; None if none of ours is the same."""
    return LEVELS.get(name.strip().casefold())


def split(sampler: str, schedule: str) -> tuple[str, str]:
    """A1111's sampler and schedule as two names: the old joined ones are split, and "Automatic" is spelled out."""
    joined = JOINED.fullmatch(sampler.strip().casefold())
    if joined and joined[1] in METHODS:
        return joined[1], joined[2]
    if schedule.strip().casefold() in ("", "automatic"):
        return sampler, AUTOMATIC.get(sampler.strip().casefold(), "uniform")
    return sampler, schedule
