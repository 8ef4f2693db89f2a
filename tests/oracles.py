"""What the tests of the samplers share: the four plugins, a hard denoiser, recorded noise, and lone third parties."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from samplers.denoiser import Network
from samplers.guidance import guide
from samplers.noise import Noise
from samplers.registry import Registry, discover
from samplers.sampler import Denoise, Sampler
from samplers.schedule import NoiseSchedule, stable_diffusion
from samplers.testing import MixtureDenoiser
from weights.condition import TensorCondition

PLUGINS = Path(__file__).resolve().parents[1] / "plugins"
COVERED = ("DDPM", "DDIM", "Euler", "Flow")  # samplers that every general test runs; add a name to have it tested


@functools.cache
def builtin() -> Registry:
    """The plugins that ship with the program and nothing else."""
    return discover(PLUGINS, packages=False)


def sampler(name: str) -> Sampler:
    return builtin().sampler(name).item


def schedule(name: str):
    return builtin().schedule(name).item


@functools.cache
def sd() -> NoiseSchedule:
    return stable_diffusion()


def variants(chosen: Sampler) -> list[dict]:
    """Default options, and each value of each choice on its own."""
    choices = [
        {option.name: value}
        for option in chosen.options
        for value in getattr(option, "choices", ())
        if value != option.default
    ]
    return [{}, *choices]


def all_variants() -> list[tuple[str, dict]]:
    """Every covered sampler with each variant."""
    return [(name, options) for name in COVERED for options in variants(sampler(name))]


def named(cases: Sequence[tuple[str, dict]]) -> list[str]:
    return [" ".join([name, *(f"{key}={value}" for key, value in options.items())]) for name, options in cases]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    """float64 unit noise from a generator of its own."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mixture(shape: tuple[int, ...] = (2, 3, 3), components: int = 5) -> MixtureDenoiser:
    """A denoiser that is far from linear: several pictures, close enough to one another to be confused."""
    weights = torch.arange(1, components + 1, dtype=torch.float64)
    stds = torch.linspace(0.15, 0.6, components, dtype=torch.float64)
    return MixtureDenoiser(0.8 * normal(components, *shape, seed=11), stds, weights / weights.sum())


def guided(network, schedule, prediction, positive, negative, scale=1.0, *, rounded=False, **guidance) -> Denoise:
    """`guide` for a network(scaled, timestep, states) and prompts that are plain tensors."""
    function = lambda scaled, timestep, condition: network(scaled, timestep, condition.tensors["text"])  # noqa: E731
    asked = Network(function, schedule, prediction, rounded)
    conditions = (TensorCondition({"text": states}) for states in (positive, negative))
    return guide(asked, *conditions, scale, **guidance)


def states(model, prompt: str, clip_skip: int = 1) -> torch.Tensor:
    """The hidden states of a prompt on a model of Stable Diffusion's family."""
    return model.encode_prompt(prompt, clip_skip).tensors["text"]


class Replay:
    """A `noise` that hands out given draws, the n-th for the n-th call, and remembers how many were taken."""

    def __init__(self, draws: Sequence[torch.Tensor]):
        self.draws, self.taken = list(draws), 0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.taken += 1
        return self.draws[self.taken - 1]


class Silence:
    """A `noise` that must not be asked."""

    def __call__(self, x):
        raise AssertionError("noise was drawn")

    brownian = increments = __call__


class Recorded:
    """A denoise that remembers the sigmas that it was asked for."""

    def __init__(self, denoise: Callable):
        self.denoise, self.sigmas = denoise, []

    def __call__(self, x, sigma):
        self.sigmas.append(sigma)
        return self.denoise(x, sigma)


def run_all(chosen: Sampler, denoise, x, sigmas, noise=None, **options) -> list:
    """Every step of a run."""
    return list(chosen(denoise, x, tuple(sigmas), noise or Noise(range(len(x))), **options))


def end(chosen: Sampler, denoise, x, sigmas, noise=None, **options) -> torch.Tensor:
    """The last state of a run."""
    return run_all(chosen, denoise, x, sigmas, noise, **options)[-1].x


def scaled_linear_alphas(start: float = 0.00085, last: float = 0.012, count: int = 1000) -> np.ndarray:
    """Stable Diffusion's cumulative alphas in float64, by numpy alone."""
    betas = np.linspace(math.sqrt(start), math.sqrt(last), count) ** 2
    return np.cumprod(1.0 - betas)


class NoisePredictor:
    """The best eps network for a denoiser's data: eps = (x - D) / sigma, in variance-preserving scaling.

    It is called both as diffusers calls a network, (x, timestep), and as Sigmalab does, with a condition too. Its
    noise levels are numpy's, not ours, and it refuses timesteps between training ones.
    """

    def __init__(self, denoise: Callable, alphas: np.ndarray):
        self.denoise, self.alphas = denoise, alphas

    def __call__(self, scaled: torch.Tensor, timestep: float, condition: torch.Tensor | None = None) -> torch.Tensor:
        index = round(float(timestep))
        assert abs(float(timestep) - index) < 1e-6, f"asked for timestep {timestep}, between two training ones"
        alpha = self.alphas[index]
        sigma = math.sqrt((1 - alpha) / alpha)
        x = scaled / math.sqrt(alpha)
        return (x - self.denoise(x, sigma)) / sigma


def k_diffusion_sampling() -> ModuleType:
    """k_diffusion.sampling without running the package's own __init__, whose imports fail with new setuptools."""
    if "k_diffusion.sampling" not in sys.modules:
        spec = importlib.util.find_spec("k_diffusion")
        bare = ModuleType("k_diffusion")
        bare.__path__ = list(spec.submodule_search_locations)
        sys.modules["k_diffusion"] = bare
    return importlib.import_module("k_diffusion.sampling")


class Exact(torch.Tensor):
    """A float64 tensor that stays so: diffusers' Euler scheduler rounds its state to float32 by itself."""

    def to(self, *args, **kwargs):
        return self
