"""What lies in weights/: read from small JSON files only, so that menus and the visualizer need no network loaded."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from itertools import accumulate
from operator import mul
from pathlib import Path
from typing import Any

from samplers.schedule import NoiseSchedule, betas, flow, from_alphas, from_betas, zero_terminal_snr

from .folder import part_folder
from .model_info import Defaults, ModelError, ModelInfo
from .single_file import is_companion, read_single, stamp_of

SPACINGS = {"leading": "Uniform leading", "trailing": "Uniform trailing", "linspace": "Uniform linspace"}
LARGEST = 4096  # pixels of a side that a model may be made for
MAX_STEPS = 100_000  # of training, one noise level each; the usual number is 1000

log = logging.getLogger(__name__)


class Catalog:
    """Remembers what it has read, so that asking again costs a look at the dates of files and no more."""

    def __init__(self):
        self._known: dict[Path, tuple[Any, ModelInfo | ModelError]] = {}

    def find_models(self, folder: Path) -> dict[str, ModelInfo]:
        """The models in a folder by name. Unreadable ones are left out."""
        return {name: found for name, found in self._read(folder).items() if isinstance(found, ModelInfo)}

    def problems(self, folder: Path) -> dict[str, str]:
        """Why each model that cannot be used cannot, by name."""
        return {name: str(error) for name, error in self._read(folder).items() if isinstance(error, ModelError)}

    def _read(self, folder: Path) -> dict[str, ModelInfo | ModelError]:
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

    def _one(self, path: Path, name: str) -> ModelInfo | ModelError:
        stamp = (name, stamp_of(path))
        # Another thread may read the same one at the same time, to the same end.
        known = self._known.get(path)
        if known is None or known[0] != stamp:
            try:
                found: ModelInfo | ModelError = read_folder(path) if path.is_dir() else read_single(path, name)
            except ModelError as error:
                found = error
            except OSError as error:
                found = ModelError(f"{path.name} cannot be read: {error.strerror or error}")
            except Exception as error:
                # Whatever lies here: it must not take the other models, and with them the page, down.
                log.warning("%s could not be read", path.name, exc_info=error)
                found = ModelError(f"{path.name} is damaged or no model ({_reason(error)}); copy or download it again")
            known = self._known[path] = (stamp, found)
        return known[1]


def find_models(folder: Path) -> dict[str, ModelInfo]:
    """The models in a folder by name, read anew. Unreadable ones are left out."""
    return Catalog().find_models(folder)


def read_folder(path: Path) -> ModelInfo:
    """Read the configuration of one diffusers folder; ModelError says which file is wrong and how."""
    unet, vae, scheduler = (_config(path, part) for part in ("unet", "vae", "scheduler"))
    try:
        factor = 2 ** (len(vae["block_out_channels"]) - 1)
        multiple = factor * 2 ** (len(unet["block_out_channels"]) - 1)
        size = _count(unet, "sample_size") * factor
        channels, taken = _count(vae, "latent_channels"), _count(unet, "in_channels")
        schedule, prediction = read_schedule(scheduler)
        spacing = "trailing" if schedule.flow else str(scheduler.get("timestep_spacing", "leading"))
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise ModelError(f"model {path.name}: its configuration cannot be read ({_reason(error)})") from None
    if not 1 <= factor <= multiple <= LARGEST or size > LARGEST:
        raise ModelError(
            f"model {path.name}: its configuration is not that of a model for pictures of up to {LARGEST} pixels a side"
        )
    if taken != channels:
        what = "an inpainting network" if taken == 2 * channels + 1 else "a network of another kind"
        raise ModelError(
            f"model {path.name} is {what} ({taken} input channels, its VAE has {channels}); it is not supported"
        )
    # A batch that keeps about a million pixels in work serves small and large models alike.
    max_batch = max(1, min(16, (512 * 512) // (size * size)))
    defaults = Defaults(
        size, multiple, 4 * size, 5.0 if size < 256 else 7.5, SPACINGS.get(spacing, SPACINGS["leading"]), max_batch
    )
    return ModelInfo(path.name, path, schedule, prediction, channels, factor, defaults, stamp_of(path))


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
        config["beta_schedule"],
        config["beta_start"],
        config["beta_end"],
        _count(config, "num_train_timesteps", MAX_STEPS),
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
    except (ValueError, RecursionError) as error:
        raise ModelError(f"model {path.name}: {part}/{file.name} is not JSON ({error})") from None
    if not isinstance(config, dict):
        raise ModelError(f"model {path.name}: {part}/{file.name} is not a JSON object")
    return config


def _count(config: Mapping[str, Any], name: str, largest: int = LARGEST) -> int:
    """A whole number from 1 in a configuration. KeyError or ValueError."""
    if type(number := config[name]) is not int or not 1 <= number <= largest:
        raise ValueError(f"{name} is {str(number)[:100]}; it must be a whole number from 1 to {largest}")
    return number


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"
