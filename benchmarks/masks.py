"""Masks with every sampler on both embedded models: what is kept is kept, white is img2img, black is the input.

    python -m benchmarks.masks                   every sampler, minutes
    python -m benchmarks.masks DDIM "DPM++ SDE"  some

For each sampler and model, in 4 steps at strength 0.8: the largest difference of the kept latents from the encoded
ones, and the bytes (of 255) by which the saved picture differs from the input outside a hard mask, drawn whole and with
"only masked area"; by which the picture of an all-white mask differs from that of img2img, and that of an all-black one
from the input. All of them are 0 but the first, which is rounding. Samplers that ask the network at other sizes take
no mask.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from samplers.registry import discover
from samplers.run import run
from webui.core.inpainting import open_input
from webui.core.request import Request
from webui.engine.drawing import guided_denoiser
from webui.engine.engine import Engine
from webui.engine.events import Finished
from webui.engine.start_latents import start_latents
from webui.settings import Settings
from weights.diffusers_folder import read_folder
from weights.opening import open_model

ROOT = Path(__file__).parent.parent
MODELS = ("emoji", "emoji-flow")
CLOSE = 1e-3  # of kept latents, whose standard deviation is 1
COLUMNS = ("kept latents", "whole", "only masked", "white", "black")


def main() -> int:
    """Measure, print a table and return how many pairs of a sampler and a model are wrong."""
    flags = argparse.ArgumentParser(prog="python -m benchmarks.masks", description=__doc__)
    flags.add_argument("samplers", nargs="*", help="all without any")
    flags.add_argument("--model", choices=MODELS, help="both without it")
    given = flags.parse_args()
    torch.set_num_threads(1)
    registry = discover(ROOT / "plugins", packages=False)
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        for name in [given.model] if given.model else MODELS:
            model = open_model(read_folder(ROOT / "weights" / name), "cpu")
            settings = Settings(ROOT, outputs=Path(folder), weights=ROOT / "weights", device="cpu", model=name)
            engine = Engine(registry, settings, lambda found, device, model=model: model)
            engine.start()
            print(f"\n{name}\n\n| sampler | {' | '.join(COLUMNS)} |\n| --- |{' --- |' * len(COLUMNS)}")
            try:
                for sampler in given.samplers or registry.samplers:
                    if registry.samplers[sampler].item.resizes:
                        print(f"| {sampler} | takes no mask |{' |' * (len(COLUMNS) - 1)}", flush=True)
                        continue
                    found = Masks(engine, model, Path(folder)).measure(sampler)
                    wrong += found[0] > CLOSE or any(found[1:])
                    print(
                        f"| {sampler} | {found[0]:.1e} | {' | '.join(f'{each:g}' for each in found[1:])} |", flush=True
                    )
            finally:
                engine.close()
    print(f"\nwrong: {wrong}")
    return wrong


class Masks:
    """The pictures and masks of a measurement on an engine."""

    def __init__(self, engine: Engine, model: Any, folder: Path):
        self._engine, self._model, self._folder = engine, model, folder

    def measure(self, sampler: str) -> tuple[float, ...]:
        """The numbers of COLUMNS."""
        side = self._model.info.defaults.size
        small, large = scene(side, side), scene(side * 3 // 2, side * 5 // 4)
        left, hole = Image.new("L", small.size), Image.new("L", large.size)
        ImageDraw.Draw(left).rectangle((0, 0, side // 2 - 1, side), fill=255)
        ImageDraw.Draw(hole).rectangle((side // 2, side // 3, side, side * 4 // 5), fill=255)
        plain = self._drawn(sampler, small)
        whole = self._drawn(sampler, small, left)
        masked = self._drawn(sampler, large, hole, inpaint_area="masked", padding=side // 8)
        white = self._drawn(sampler, small, Image.new("L", small.size, 255))
        black = self._drawn(sampler, small, Image.new("L", small.size, 0))
        return (
            self._kept_latents(sampler, small, left),
            most(whole, np.asarray(small), np.asarray(left) == 0),
            most(masked, np.asarray(large), np.asarray(hole) == 0),
            most(white, plain),
            most(black, np.asarray(small)),
        )

    def _request(self, sampler: str, picture: Image.Image, mask: Image.Image | None, **more: Any) -> Request:
        picture.save(path := self._folder / "picture.png")
        fields = dict(mode="img2img", prompt="red apple", steps=4, seed=3, strength=0.8, image=path, mask_blur=0)
        if mask is not None:
            mask.save(at := self._folder / "mask.png")
            fields["mask"] = at
        return Request(sampler=sampler, **fields, **more)

    def _drawn(self, sampler: str, picture: Image.Image, mask: Image.Image | None = None, **more: Any) -> np.ndarray:
        job = self._engine.submit(self._request(sampler, picture, mask, **more), previews=False)
        outcome = job.wait()
        if not isinstance(outcome, Finished):
            raise RuntimeError(f"{sampler}: {outcome}")
        return np.asarray(Image.open(job.pictures[0].path))

    def _kept_latents(self, sampler: str, picture: Image.Image, mask: Image.Image) -> float:
        resolved = self._engine.resolve(self._request(sampler, picture, mask))
        start = start_latents(resolved.request, open_input(resolved.request), self._model)
        with torch.no_grad():
            denoise = start.masked(guided_denoiser(resolved.request, self._model), resolved.plan.sigmas[0])
            end = run(resolved.plan, denoise, start.of([3]), [3]).x
        return float((end - start.clean).abs()[..., end.shape[-1] // 2 :].max())


def scene(width: int, height: int) -> Image.Image:
    """A picture without two equal rows or columns."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x * 255 // width, y * 255 // height, (x * y) % 256], -1).astype(np.uint8))


def most(one: np.ndarray, other: np.ndarray, where: np.ndarray | None = None) -> int:
    """The largest difference of two pictures, of 255, where a mask says so."""
    differences = np.abs(one.astype(int) - other.astype(int))
    return int((differences if where is None else differences[where]).max())


if __name__ == "__main__":
    sys.exit(main())
