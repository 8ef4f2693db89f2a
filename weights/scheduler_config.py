"""Noise levels from the configuration of a diffusers scheduler."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from operator import mul
from typing import Any

from samplers.schedule import NoiseSchedule, betas, flow, from_alphas, from_betas, zero_terminal_snr

MAX_STEPS = 100_000  # of training, one noise level each; the usual number is 1000


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
