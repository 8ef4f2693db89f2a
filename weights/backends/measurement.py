"""Measure what computes a model fastest, and whether its pictures are those of float32."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch

from samplers.sampler import Stopped

from ..model import Model
from ..model_info import input_channels

EXACT = 1e-4  # of the largest output: how far float32 may be from torch's
CLOSE = 2.0  # of 255, root mean square: how far a picture in another format may be from torch's in float32
PROMPTS = ("red apple", "a house by the sea at night", "portrait of an old man, drawing")
STEPS, GUIDANCE = 10, 5.0
ROUNDS, LONG = 7, 2.0  # calls of each candidate; after so many seconds of them a third is enough


@dataclass(frozen=True)
class Compute:
    """What computes a network: the name of a backend, and its number format."""

    backend: str
    dtype: str


@dataclass(frozen=True)
class Measured:
    """What was measured of a candidate.

    seconds  of a guided call at the model's own size, the least of several
    error    largest difference of its output from torch's, as a share of the largest output
    apart    root mean square difference of its pictures from torch's, of 255; None where `error` tells enough
    """

    seconds: float
    error: float
    apart: float | None = None

    @property
    def same_pictures(self) -> bool:
        """Whether nobody can tell its pictures from torch's."""
        return self.error <= EXACT or (self.apart is not None and self.apart <= CLOSE)


@torch.inference_mode()
def measure(
    model: Model, candidates: Mapping[Compute, Model], should_stop: Callable[[], bool]
) -> dict[Compute, Measured]:
    """Time a call of each candidate, in turn, and compare each with the first.

    candidates   the same model, computed in different ways; the first is torch's
    should_stop  asked around every call
    Raises Stopped.
    """
    inputs = _inputs(model)
    outputs: dict[Compute, torch.Tensor] = {}
    least = dict.fromkeys(candidates, float("inf"))
    began = time.monotonic()
    # The first round makes things ready, and counts for the outputs alone.
    for number in range(ROUNDS + 1):
        if number > ROUNDS // 3 and time.monotonic() - began > LONG:
            break
        for compute, candidate in candidates.items():
            _check(should_stop)
            before = time.perf_counter()
            output = candidate.network.step(inputs)
            if number:
                least[compute] = min(least[compute], time.perf_counter() - before)
            else:
                outputs[compute] = output.float().clone()
    reference = next(iter(outputs.values()))
    errors = {
        compute: float((output - reference).abs().max() / reference.abs().max()) for compute, output in outputs.items()
    }
    # Pictures take long, and those of what is slower decide nothing.
    fast = [compute for compute, seconds in least.items() if seconds < next(iter(least.values()))]
    return {
        compute: Measured(
            least[compute],
            errors[compute],
            pictures_apart(model, candidates[compute], should_stop)
            if compute in fast and errors[compute] > EXACT
            else None,
        )
        for compute in candidates
    }


def fastest(measured: Mapping[Compute, Measured]) -> Compute:
    """The fastest candidate whose pictures are torch's; the first is torch itself."""
    return min(
        (compute for compute, each in measured.items() if each.same_pictures),
        key=lambda compute: measured[compute].seconds,
    )


def pictures_apart(model: Model, other: Model, should_stop: Callable[[], bool]) -> float:
    """The largest root mean square difference of two ways' pictures of `PROMPTS`, of 255. Raises Stopped."""
    return max(
        float((_picture(model, prompt, should_stop) - _picture(other, prompt, should_stop)).square().mean().sqrt())
        for prompt in PROMPTS
    )


def _picture(model: Model, prompt: str, should_stop: Callable[[], bool]) -> torch.Tensor:
    """A picture by Euler's method on the model's own noise levels, evenly spread in the timestep."""
    denoise = model.denoiser(prompt, "", GUIDANCE)
    levels = model.schedule.sigmas
    sigmas = [levels[round(place * (len(levels) - 1) / STEPS)] for place in range(STEPS, -1, -1)]
    side = model.info.defaults.size
    generator = torch.Generator().manual_seed(0)
    x = sigmas[0] * torch.randn(1, *model.latents_shape(side, side), generator=generator)
    for sigma, lower in pairwise([*sigmas[:-1], 0.0]):
        _check(should_stop)
        x = x + (lower - sigma) * (x - denoise(x, sigma)) / sigma
    image = model.decode(x)[0]
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).float()


def _inputs(model: Model) -> dict[str, torch.Tensor]:
    """Of a guided call at the model's own size."""
    side = model.info.defaults.size
    generator = torch.Generator().manual_seed(0)
    _, height, width = model.latents_shape(side, side)
    latents = torch.randn(2, input_channels(model.info), height, width, generator=generator)
    return model.network.inputs(latents, 500.0, model.encode_prompt(PROMPTS[0]).repeat(2))


def _check(should_stop: Callable[[], bool]) -> None:
    if should_stop():
        raise Stopped("somebody waits for a picture")
