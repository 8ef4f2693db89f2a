"""Convert an opened model for OpenVINO. As a program, in a process of its own: it is started by `Conversions`.

One conversion serves every size, batch and length of prompt: which dimensions vary is seen from two examples.
"""

from __future__ import annotations

import os
import pickle
import shutil
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..model import Model
from ..model_info import input_channels
from ..opening import open_model
from .openvino_backend import DECODER, UNET, load_openvino

Example = Mapping[str, torch.Tensor]


class _Step(torch.nn.Module):
    """Takes tensors by their places, as a traced module has to, and gives them on by name."""

    def __init__(self, unet: torch.nn.Module, step: Callable[[Example], torch.Tensor], names: Sequence[str]):
        super().__init__()
        self.unet, self._step, self._names = unet, step, names

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        return self._step(dict(zip(self._names, tensors, strict=True)))


class _Decoder(torch.nn.Module):
    def __init__(self, vae: Any):
        super().__init__()
        self.vae, self._decode = vae, vae.decode

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return self._decode(latents).sample


@dataclass(frozen=True, eq=False)
class _Part:
    """A module, and what it is called with: two examples that differ in every dimension that may vary."""

    module: torch.nn.Module
    examples: tuple[Example, Example]


@torch.no_grad()
def convert(model: Model, folder: Path, tell: Callable[[str], None] = lambda text: None) -> None:
    """Write a model's step network and VAE decoder into a folder, in float32.

    tell  hears how far it is, as "1 of 2"
    Raises whatever OpenVINO raises for a network that it does not know.
    """
    openvino = load_openvino()
    parts = _parts(model)
    for number, (name, part) in enumerate(parts.items(), start=1):
        tell(f"{number} of {len(parts)}")
        shapes = [
            openvino.PartialShape([-1 if size != other else size for size, other in zip(a.shape, b.shape, strict=True)])
            for a, b in zip(part.examples[0].values(), part.examples[1].values(), strict=True)
        ]
        example = tuple(tensor.contiguous() for tensor in part.examples[1].values())
        with warnings.catch_warnings():
            # Of tracing, about conditions that are the same for every shape.
            warnings.simplefilter("ignore")
            converted = openvino.convert_model(part.module, example_input=example, input=shapes)
        openvino.save_model(converted, folder / f"{name}.xml", compress_to_fp16=False)


def _parts(model: Model) -> dict[str, _Part]:
    network, channels = model.network, model.info.channels
    room = model.count_tokens("")[1]
    prompts = [model.encode_prompt(text) for text in ("", "a " * (room + 1))]
    # Odd sides are not halved evenly on the way down, so that the trace sizes what it enlarges by what it had before,
    # and not by two: the network then takes every size.
    latents = [torch.zeros(1, channels, 8, 8), torch.zeros(2, channels, 17, 19)]
    states = [torch.zeros(len(each), input_channels(model.info), *each.shape[-2:]) for each in latents]
    steps = tuple(
        network.inputs(each, 500.0, condition.repeat(len(each)))
        for each, condition in zip(states, prompts, strict=True)
    )
    return {
        UNET: _Part(_Step(network.unet, network.step, list(steps[0])).eval(), (steps[0], steps[1])),
        DECODER: _Part(_Decoder(model.vae.module).eval(), ({"latents": latents[0]}, {"latents": latents[1]})),
    }


def main() -> None:
    """Convert the model that standard input describes; a line of standard output tells each part."""
    info, target, threads = pickle.load(sys.stdin.buffer)
    if hasattr(os, "nice"):
        os.nice(10)
    torch.set_num_threads(threads)
    unfinished = Path(target).with_name(f"{Path(target).name}.{os.getpid()}.part")
    unfinished.mkdir(parents=True)
    try:
        convert(open_model(info, "cpu"), unfinished, lambda text: print(text, flush=True))
        unfinished.rename(target)
    except OSError:
        if not Path(target).is_dir():  # another process was faster
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


if __name__ == "__main__":
    main()
