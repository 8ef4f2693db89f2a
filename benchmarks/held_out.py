"""Pictures of prompts and seeds that no calibration has seen, and the errors of runs that draw them.

Prompts: names of the model's card as calibrations take them, after the last one that a calibration can take. Seeds: in
a row from a number at which neither calibrations nor anybody's pictures begin. Error: the mean over pictures of the
root mean square of pixels, from 0 to 1, against a Runge-Kutta solution of the flow, the one that calibrations are
tested with, with guidance everywhere.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from samplers.fitting_denoiser import FittingDenoise
from samplers.noise import Noise
from samplers.registry import Registry, discover
from samplers.run import Plan, plan, run
from samplers.sampler import Denoise
from webui.engine.calibration import FINER, MOST_PICTURES
from webui.engine.calibration_prompts import usual_prompts
from weights.diffusers_folder import read_folder
from weights.model import Model
from weights.opening import open_model

from .docs_table import write_table

ROOT = Path(__file__).parent.parent
PICTURES, SEED = 16, 3_000_000


class HeldOut:
    """The pictures of a model at a guidance scale, and their references.

    denoise  of all of them together; guidance is everywhere
    zeros    what their runs start from, beside noise: (pictures, channels, height, width)
    """

    def __init__(self, model: Model, guidance: float, count: int = PICTURES):
        self.model, self.guidance = model, guidance
        self.prompts = usual_prompts(model.info)[2 * MOST_PICTURES :][:count]
        assert len(self.prompts) == count, f"the card of {model.name} names too little"
        self.seeds, size = range(SEED, SEED + count), model.info.defaults.size
        self.zeros = torch.zeros(count, *model.latents_shape(size, size))
        self.denoise = model.denoiser_of_each(self.prompts, guidance)
        high = model.schedule.sigma_max
        start = high * Noise(self.seeds, "initial")(self.zeros)
        self._reference = self._pixels(FittingDenoise(lambda _: self.denoise, count).ends(start, high, FINER))

    def plan(self, registry: Registry, sampler: str, schedule: str, steps: int) -> Plan:
        """The plan of a run."""
        return plan(self.model.schedule, registry.sampler(sampler).item, registry.schedule(schedule).item, steps)

    def error_of(self, made: Plan, denoise: Denoise | None = None) -> float:
        """The error of the pictures that a plan draws together, with their own denoiser or another."""
        return self.error(run(made, denoise or self.denoise, self.zeros, self.seeds).x)

    def error(self, end: torch.Tensor) -> float:
        """The error of all pictures' latents at the end of their runs."""
        difference = (self._pixels(end) - self._reference).reshape(len(end), -1)
        return float(np.sqrt(np.square(difference).mean(1)).mean())

    def _pixels(self, x: torch.Tensor) -> np.ndarray:
        return np.stack([np.asarray(self.model.decode(one[None])[0], np.float32) / 255 for one in x])


def main(description: str | None, mark: str, table: Callable[[Model, Registry], str]) -> None:
    """Print the table of the model that the command line names, and put it below `mark` in docs/samplers.md."""
    flags = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--model", default="emoji", help="a folder in weights/ (emoji)")
    flags.add_argument("--write", action="store_true", help="put the table into docs/samplers.md")
    given = flags.parse_args()
    model = open_model(read_folder(ROOT / "weights" / given.model), "cpu")
    text = table(model, discover(ROOT / "plugins", packages=False))
    print(text)
    if given.write:
        write_table("samplers.md", f"{mark}-{model.name}", text)
