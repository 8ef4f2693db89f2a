"""What lies in weights/: read from small JSON files only, so that menus and the visualizer need no network loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from operator import mul
from pathlib import Path
from typing import Any

from samplers.schedule import NoiseSchedule, betas, flow, from_alphas, from_betas, zero_terminal_snr

SPACINGS = {"leading": "Uniform leading", "trailing": "Uniform trailing", "linspace": "Uniform linspace"}


class ModelError(ValueError):
    """A model that cannot be used; the message names it, says what is wrong and what to do."""


@dataclass(frozen=True)
class Defaults:
    """What a form starts with for a model, and what sizes it can make.

    size and multiple are in pixels of a side: width and height are multiples of `multiple` up to `largest`;
    max_batch is how many pictures are made at once.
    """

    size: int
    multiple: int
    largest: int
    guidance: float
    schedule: str
    max_batch: int


@dataclass(frozen=True)
class Found:
    """A model that can be chosen: where it is and what its own configuration says."""

    name: str
    path: Path
    schedule: NoiseSchedule
    prediction: str
    channels: int
    factor: int
    defaults: Defaults


def find_models(folder: Path) -> dict[str, Found]:
    """The models in a folder by name: every subfolder in diffusers' format. Unreadable ones are left out."""
    models = {}
    for index in sorted(folder.glob("*/model_index.json")):
        try:
            models[index.parent.name] = read_folder(index.parent)
        except ModelError:
            continue
    return models


def problems(folder: Path) -> dict[str, str]:
    """Why each model folder that cannot be used cannot, by name."""
    reasons = {}
    for index in sorted(folder.glob("*/model_index.json")):
        try:
            read_folder(index.parent)
        except ModelError as error:
            reasons[index.parent.name] = str(error)
    return reasons


def read_folder(path: Path) -> Found:
    """Read the configuration of one diffusers folder; ModelError says which file is wrong and how."""
    unet, vae, scheduler = (_config(path, part) for part in ("unet", "vae", "scheduler"))
    try:
        factor = 2 ** (len(vae["block_out_channels"]) - 1)
        multiple = factor * 2 ** (len(unet["block_out_channels"]) - 1)
        size = unet["sample_size"] * factor
        channels, taken = vae["latent_channels"], unet["in_channels"]
        schedule, prediction = read_schedule(scheduler)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"model {path.name}: its configuration cannot be read ({type(error).__name__}: {error})") from None
    if taken != channels:
        what = "an inpainting network" if taken == 2 * channels + 1 else "a network of another kind"
        raise ModelError(f"model {path.name} is {what} ({taken} input channels, its VAE has {channels}); it is not supported")
    spacing = "trailing" if schedule.flow else scheduler.get("timestep_spacing", "leading")
    # A batch that keeps about a million pixels in work serves small and large models alike.
    max_batch = max(1, min(16, (512 * 512) // (size * size)))
    defaults = Defaults(size, multiple, 4 * size, 5.0 if size < 256 else 7.5, SPACINGS.get(spacing, SPACINGS["leading"]), max_batch)
    return Found(path.name, path, schedule, prediction, channels, factor, defaults)


def read_schedule(config: Mapping[str, Any]) -> tuple[NoiseSchedule, str]:
    """The noise levels and the prediction type that a diffusers scheduler configuration stands for.

    KeyError or ValueError where it does not say, or says something unknown.
    """
    prediction = config.get("prediction_type", "epsilon")
    if prediction == "flow_prediction" or config["_class_name"].startswith("FlowMatch"):
        return flow(), "flow_prediction"
    if prediction not in ("epsilon", "v_prediction", "sample"):
        raise ValueError(f"prediction_type {prediction!r} is unknown")
    steps = config.get("trained_betas") or betas(
        config["beta_schedule"], config["beta_start"], config["beta_end"], config["num_train_timesteps"]
    )
    if not config.get("rescale_betas_zero_snr", False):
        return from_betas(steps), prediction
    alphas_bar = list(accumulate((1.0 - beta for beta in steps), mul))
    return from_alphas(zero_terminal_snr(alphas_bar)), prediction


def _config(path: Path, part: str) -> dict[str, Any]:
    file = path / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except OSError:
        raise ModelError(f"model {path.name} has no {part}/{file.name}; copy the whole diffusers folder") from None
    except ValueError as error:
        raise ModelError(f"model {path.name}: {part}/{file.name} is not JSON ({error})") from None
    if not isinstance(config, dict):
        raise ModelError(f"model {path.name}: {part}/{file.name} is not a JSON object")
    return config
