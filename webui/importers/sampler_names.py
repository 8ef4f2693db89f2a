"""The samplers and schedules of A1111, Forge and ComfyUI that have the same formula here.

A merely similar method is not in these tables, and is reported as unmatched. The noise of a stochastic sampler differs
in every program, and so do the last bits of every picture.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Match:
    """The name of a sampler or schedule here, with the options that make it equal to the other program's.

    note  a difference that remains
    """

    name: str
    options: Mapping[str, float | int | bool | str] = field(default_factory=dict)
    note: str = ""


ONE_LEVEL_LESS = "Its levels: other programs leave out the last but one for this sampler."
NO_LAST_CALL = "Its calls: other programs make all of them above the lowest level, and here the last one ends at 0."
WHOLE_TIMES = (
    "Its levels equal those of the other programs where the steps divide 1,000; else some differ by one timestep."
)
NEAR_TIMES = "Its levels: those of the other programs are higher by less than one timestep, the first one excepted."


# Ancestral Euler is DDIM with eta 1, formula for formula; k-diffusion starts its multistep methods without refinement.
METHODS: Mapping[str, Match] = {
    "euler": Match("Euler"),
    "euler a": Match("DDIM", {"eta": 1.0}),
    "heun": Match("Heun"),
    "dpm2": Match("DPM2", note=ONE_LEVEL_LESS),
    "dpm2 a": Match("k-diffusion DPM2 ancestral", note=ONE_LEVEL_LESS),
    "lms": Match("k-diffusion LMS", {"order": 4}),
    "dpm++ 2m": Match("DPM++ 2M"),
    "dpm++ 2s a": Match("DPM++ 2S", {"eta": 1.0}),
    "dpm++ sde": Match("DPM++ SDE", {"eta": 1.0}),
    "dpm++ 2m sde": Match("DPM++ 2M SDE", {"eta": 1.0, "solver": "midpoint"}),
    "dpm++ 2m sde heun": Match("DPM++ 2M SDE", {"eta": 1.0, "solver": "heun"}),
    "dpm++ 3m sde": Match("k-diffusion DPM++ 3M SDE", {"eta": 1.0}),
    "dpm fast": Match("k-diffusion DPM fast", note=NO_LAST_CALL),
    "dpm adaptive": Match("k-diffusion DPM adaptive"),
    "lcm": Match("LCM"),
    "ddim": Match("DDIM", {"eta": 0.0}),
    "ddpm": Match("DDPM"),
    # A1111 takes a twelfth and a half of the guidance scale for lambda, ComfyUI all of it.
    "ddim cfg++": Match("Euler CFG++", {"share": 0.08, "eta": 0.0}),
    "euler_cfg_pp": Match("Euler CFG++", {"share": 1.0, "eta": 0.0}),
    "euler_ancestral_cfg_pp": Match("Euler CFG++", {"share": 1.0, "eta": 1.0}),
    "res_multistep": Match("RES multistep"),
    "gradient_estimation": Match("Gradient estimation", {"gamma": 2.0}),
    "seeds_2": Match("SEEDS-2", {"eta": 1.0}),
    "seeds_3": Match("SEEDS-3", {"eta": 1.0}),
    "exp_heun_2_x0": Match("RES 2S", {"middle": 1.0, "eta": 0.0}),
    "exp_heun_2_x0_sde": Match("RES 2S", {"middle": 1.0, "eta": 1.0}),
    "ipndm": Match("iPNDM", {"order": 4}),
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
    "res_multistep": "res_multistep",
    "gradient_estimation": "gradient_estimation",
    "seeds_2": "seeds_2",
    "seeds_3": "seeds_3",
    "exp_heun_2_x0": "exp_heun_2_x0",
    "exp_heun_2_x0_sde": "exp_heun_2_x0_sde",
    "ipndm": "ipndm",
    "euler_cfg_pp": "euler_cfg_pp",
    "euler_ancestral_cfg_pp": "euler_ancestral_cfg_pp",
}
# "Uniform" and "normal" use unrounded timesteps from top to bottom; "simple" uses whole timesteps at equal distances.
LEVELS: Mapping[str, Match] = {
    "uniform": Match("Uniform linspace", {"whole": False}),
    "normal": Match("Uniform linspace", {"whole": False}),
    "simple": Match("Uniform trailing", {"whole": True}, WHOLE_TIMES),
    "karras": Match("Karras", {"rho": 7.0}),
    "exponential": Match("Exponential"),
    "polyexponential": Match("Polyexponential", {"rho": 1.0}),
    "ddim": Match("Uniform leading", {"offset": 1}, WHOLE_TIMES),
    "ddim_uniform": Match("Uniform leading", {"offset": 1}, WHOLE_TIMES),
    "sgm uniform": Match("Uniform trailing", {"whole": False}, NEAR_TIMES),
    "sgm_uniform": Match("Uniform trailing", {"whole": False}, NEAR_TIMES),
}
# A1111 and Forge have these names for other levels: Beta's quantiles are of sigma there, and KL Optimal ends above 0.
COMFY_LEVELS: Mapping[str, Match] = {
    **LEVELS,
    "beta": Match("Beta", {"alpha": 0.6, "beta": 0.6, "whole": True}),
    "beta57": Match("Beta", {"alpha": 0.5, "beta": 0.7, "whole": True}),
    "kl_optimal": Match("KL-optimal"),
}
# Other names of the samplers above, or of ComfyUI's: spelled out, or InvokeAI's.
ALIASES: Mapping[str, str] = {
    "euler ancestral": "euler a",
    "euler_a": "euler a",
    "dpm2 ancestral": "dpm2 a",
    "kdpm_2": "dpm2",
    "kdpm_2_a": "dpm2 a",
    "dpm++ 2s ancestral": "dpm++ 2s a",
}
# The schedules of A1111's "Automatic" that are not the uniform one.
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
    "ddim cfg++": "ddim",
}
# Schedules without an equal here, whose names may stand behind that of a sampler, too.
OTHER_LEVELS = ("align your steps", "turbo", "linear quadratic", "automatic")
# "DPM++ 2M Karras", as A1111's one menu had it until version 1.9, and "euler_ancestral_karras".
BEHIND = "|".join(re.sub("[ _]", "[ _]", name) for name in {*COMFY_LEVELS, *OTHER_LEVELS})
JOINED = re.compile(rf"(?P<sampler>.+?)(?P<between>[ _])(?P<schedule>{BEHIND})", re.IGNORECASE)


def method(name: str) -> Match | None:
    """The sampler here for a name in another program; None if no sampler here is equal."""
    return METHODS.get(_method_name(name))


def levels(name: str, comfy: bool = False) -> Match | None:
    """The schedule here for a name in another program; None if no schedule here is equal."""
    return (COMFY_LEVELS if comfy else LEVELS).get(name.strip().casefold())


def split(sampler: str, schedule: str, unnamed_is_uniform: bool) -> tuple[str, str, bool]:
    """(sampler, schedule, whether the schedule's name is ComfyUI's) from a sampler's name that may end with a schedule.

    A1111's "Automatic" becomes the schedule that it stands for; "" is one that is not named or not known.
    unnamed_is_uniform  whether the program means the uniform schedule where it names none: it had one menu for both
    """
    automatic = schedule.strip().casefold() == "automatic"
    joined = JOINED.fullmatch(sampler.strip())
    comfy = False
    if joined:
        sampler, comfy = joined["sampler"], joined["between"] == "_"
        if automatic or not schedule:
            schedule = joined["schedule"]
            return sampler, schedule, comfy
    name = _method_name(sampler)
    if automatic:
        return sampler, AUTOMATIC.get(name, "uniform") if name in METHODS else "", False
    if not schedule and unnamed_is_uniform and name in METHODS:
        return sampler, "ddim" if name.startswith("ddim") else "uniform", False
    return sampler, schedule, comfy


def _method_name(name: str) -> str:
    """The name in METHODS that a name stands for; a name that is not known as it is."""
    # k-diffusion's samplers begin with these at NovelAI, in early versions of InvokeAI and in those of ComfyUI.
    name = name.strip().casefold().removeprefix("k_").removeprefix("sample_")
    return ALIASES.get(name) or COMFY_METHODS.get(name) or name
