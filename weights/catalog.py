"""What lies in weights/: read from small JSON files only, so that menus and the visualizer need no network loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import accumulate
from operator import mul
from pathlib import Path
from typing import Any

from samplers.schedule import NoiseSchedule, betas, flow, from_alphas, from_betas, zero_terminal_snr

from .folder import part_folder
from .found import Defaults, Found, ModelError
from .single_file import is_companion, read_single, stamp_of

SPACINGS = {"leading": "Uniform leading", "trailing": "Uniform trailing", "linspace": "Uniform linspace"}


class Catalog:
    """Remembers what it has read, so that asking again costs a look at the dates of files and no more."""

    def __init__(self):
        self._known: dict[Path, tuple[Any, Found | ModelError]] = {}

    def find_models(self, folder: Path) -> dict[str, Found]:
        """The models in a folder by name. Unreadable ones are left out."""
        return {name: found for name, found in self._read(folder).items() if isinstance(found, Found)}

    def problems(self, folder: Path) -> dict[str, str]:
        """Why each model that cannot be used cannot, by name."""
        return {name: str(error) for name, error in self._read(folder).items() if isinstance(error, ModelError)}

    def _read(self, folder: Path) -> dict[str, Found | ModelError]:
        """What every subfolder in diffusers' format and every single file is.

        A file is called after its stem, or in full where a folder or a .safetensors file has that name.
        """
        paths = [index.parent for index in sorted(folder.glob("*/model_index.json"))]
        files = [path for ending in (".safetensors", ".ckpt") for path in sorted(folder.glob(f"*{ending}"))]
        read = {}
        for path in paths + [file for file in files if file.is_file() and not is_companion(file)]:
            stem = path.name if path.is_dir() else path.stem
            name = path.name if stem in read else stem
            read[name] = self._one(path, name)
        return read

    def _one(self, path: Path, name: str) -> Found | ModelError:
        stamp = (name, stamp_of(path))
        # Another thread may read the same one at the same time, to the same end.
        known = self._known.get(path)
        if known is None or known[0] != stamp:
            try:
                found: Found | ModelError = read_folder(path) if path.is_dir() else read_single(path, name)
            except ModelError as error:
                found = error
            except OSError as error:
                found = ModelError(f"{path.name} cannot be read: {error.strerror or error}")
            known = self._known[path] = (stamp, found)
        return known[1]


def find_models(folder: Path) -> dict[str, Found]:
    """The models in a folder by name, read anew. Unreadable ones are left out."""
    return Catalog().find_models(folder)


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
    return Found(path.name, path, schedule, prediction, channels, factor, defaults, stamp_of(path))


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
    file = part_folder(path, part) / ("scheduler_config.json" if part == "scheduler" else "config.json")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except OSError:
        raise ModelError(f"model {path.name} has no {part}/{file.name}; copy the whole diffusers folder") from None
    except ValueError as error:
        raise ModelError(f"model {path.name}: {part}/{file.name} is not JSON ({error})") from None
    if not isinstance(config, dict):
        raise ModelError(f"model {path.name}: {part}/{file.name} is not a JSON object")
    return config
