"""Noise levels from the configuration of a diffusers scheduler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from operator import mul
from typing import Any

from samplers.schedule import NoiseSchedule, betas, flow, from_alphas, from_betas, zero_terminal_snr

MAX_STEPS = 100_000  # of training, one noise level each; the usual number is 1000
# diffusers' schedulers whose `timestep_spacing` is "leading" by default begin so; that of all others is "linspace".
LEADING = ("DDIM", "DDPM", "PNDM", "LCM", "TCD", "CogVideoX")
ORIGINAL, MAX_ORIGINAL = "original_inference_steps", 200  # of the solver that a latent consistency model comes from
MAX_SHIFT = 20.0  # of the schedule SNR shift


@dataclass(frozen=True)
class DefaultSchedule:
    """The schedule that a scheduler's configuration asks for: its name here, its options, what was read, in words."""

    name: str
    options: tuple[tuple[str, Any], ...] = ()
    notes: tuple[str, ...] = ()


def default_schedule(config: Mapping[str, Any], flow: bool) -> DefaultSchedule:
    """Which schedule of ours a diffusers scheduler configuration means. Raises ValueError on a wrong number.

    Leading spacing is read as trailing: it starts too low at few and at many steps (Lin et al. 2023,
    arXiv:2305.08891, section 3.3), and a default has to suit every number of steps.
    """
    if config.get("use_karras_sigmas"):
        return DefaultSchedule("Karras", notes=("Its scheduler asks for Karras noise levels.",))
    if config.get("use_exponential_sigmas"):
        return DefaultSchedule("Exponential", notes=("Its scheduler asks for exponential noise levels.",))
    if config["_class_name"].startswith("LCM"):
        original = whole_number({ORIGINAL: 50, **config}, ORIGINAL, MAX_ORIGINAL)
        return DefaultSchedule("LCM", (("original", original),))
    notes: tuple[str, ...] = ()
    if config.get("use_beta_sigmas"):
        notes = ("Its scheduler asks for Beta quantiles of sigma, which no schedule here has; see Beta.",)
    if flow:
        shift = config.get("flow_shift", config.get("shift", 1.0))
        if isinstance(shift, bool) or not isinstance(shift, (int, float)) or not 1 <= shift <= MAX_SHIFT:
            raise ValueError(f"shift is {str(shift)[:100]}; it must be a number from 1 to {MAX_SHIFT:g}")
        if config.get("use_dynamic_shifting"):
            notes += ("Its scheduler shifts by the size of the picture, which is not done here.",)
        if shift != 1:
            options = (("shift", float(shift)), ("from_top", True))
            return DefaultSchedule("SNR shift", options, (*notes, f"Its scheduler shifts the noise by {shift:g}."))
        return DefaultSchedule("Uniform trailing", notes=notes)
    usual = "leading" if str(config["_class_name"]).startswith(LEADING) else "linspace"
    spacing = config.get("timestep_spacing", usual)
    return DefaultSchedule("Uniform linspace" if spacing == "linspace" else "Uniform trailing", notes=notes)


def read_schedule(config: Mapping[str, Any]) -> tuple[NoiseSchedule, str]:
    """The noise levels and the prediction type of a diffusers scheduler configuration.

    Raises KeyError or ValueError where one is missing or unknown.
    """
    prediction = config.get("prediction_type", "epsilon")
    if prediction == "flow_prediction" or config["_class_name"].startswith("FlowMatch"):
        return flow(), "flow_prediction"
    if prediction not in ("epsilon", "v_prediction", "sample"):
        raise ValueError(f"prediction_type {prediction!r} is unknown")
    steps = config.get("trained_betas") or betas(
        config["beta_schedule"],
        config["beta_start"],
        config["beta_end"],
        whole_number(config, "num_train_timesteps", MAX_STEPS),
    )
    if not config.get("rescale_betas_zero_snr", False):
        return from_betas(steps), prediction
    alphas_bar = list(accumulate((1.0 - beta for beta in steps), mul))
    return from_alphas(zero_terminal_snr(alphas_bar)), prediction


def whole_number(config: Mapping[str, Any], name: str, largest: int) -> int:
    """A whole number from 1 in a configuration. Raises KeyError or ValueError."""
    if type(number := config[name]) is not int or not 1 <= number <= largest:
        raise ValueError(f"{name} is {str(number)[:100]}; it must be a whole number from 1 to {largest}")
    return number
