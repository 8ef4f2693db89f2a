"""Every sampler with every schedule, on an eps and on a flow network: it ends, finite, with the calls it declared.

Samplers and schedules are discovered, so a new plugin is covered without a change here. A sampler sees nothing of a
schedule but its list of sigmas, and what breaks one sampler on a list breaks its relatives, too: every sampler runs
half of the shortest lists and a sample of the others, and the samples together cover each list more than once. Every
sampler runs every guidance, each on a list of another schedule. A sampler with a grid of its own runs once for each
first and last sigma. The bridges are slower and tested elsewhere against their packages: they take KEPT_FOR_BRIDGES
alone, schedules of different kinds. Brownian paths take most of the time of the samplers that read them: only lists of
Karras have real ones, the others have independent noise of the same law.
"""

from __future__ import annotations

import functools
import math
from collections import Counter

import pytest
import torch
from oracles import builtin, guided, sd

from samplers.guidance import Method
from samplers.noise import Noise
from samplers.run import Plan, steps
from samplers.sampler import Denoise
from samplers.schedule import NoiseSchedule, cut, flow
from samplers.testing import GaussianDenoiser
from samplers.wrappers import Counted

# numpy 2 and torchsde talk about rounding in passing.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Should have t[ab]:UserWarning")

STEPS = (1, 2, 3, 7, 20)
STRENGTHS = (1.0, 0.6)
SHARE, SHORT = 12, 2  # each sampler runs one in so many of the lists with more than two steps, and of the others
MODELS = ("eps", "flow")
BRIDGES = ("k-diffusion ", "diffusers ")
KEPT_FOR_BRIDGES = {"Custom", "Uniform trailing", "Karras", "Align Your Steps"}


class EpsNetwork:
    """eps of the Gaussian of GaussianDenoiser(), moved by the condition, in variance-preserving scaling."""

    def __init__(self, schedule: NoiseSchedule):
        self.schedule, self.denoise = schedule, GaussianDenoiser()

    def __call__(self, scaled, timestep, condition):
        sigma = self.schedule.sigma(timestep)
        x = scaled * math.sqrt(1 + sigma * sigma) - condition[:, :, :, None]
        return (x - self.denoise(x, sigma)) / sigma


class FlowNetwork(EpsNetwork):
    """The velocity eps - x0 of the same data, in flow scaling."""

    def __call__(self, scaled, timestep, condition):
        sigma = self.schedule.sigma(timestep)
        x = scaled * (1 + sigma) - condition[:, :, :, None]
        denoised = self.denoise(x, sigma)
        return (x - denoised) / sigma - denoised - condition[:, :, :, None]


@functools.cache
def model(kind: str) -> NoiseSchedule:
    return sd() if kind == "eps" else flow()


@functools.cache
def network(kind: str) -> Denoise:
    nothing = torch.zeros(1, 1, 1)
    if kind == "eps":
        return guided(EpsNetwork(model(kind)), model(kind), "epsilon", nothing, nothing)
    return guided(FlowNetwork(model(kind)), model(kind), "flow_prediction", nothing, nothing)


@functools.cache
def lists(kind: str) -> dict[tuple[float, ...], str]:
    """Every different list of sigmas that the menus can give, and one combination that gives it."""
    combinations = {}
    for name, entry in builtin().schedules.items():
        for count in STEPS:
            for strength in STRENGTHS:
                sigmas = cut(entry.item(model(kind), count), strength)
                combinations.setdefault(sigmas, f"{name}, {count} steps, strength {strength} on {kind}")
    return combinations


class Pathless(Noise):
    """Noise whose increments of a Brownian path are fresh draws."""

    def increments(self, x):
        return lambda sigma, lower: self(x)

    def brownian(self, x, low, high):
        return self.increments(x)


def sample(name: str, kind: str) -> list[tuple[tuple[float, ...], str]]:
    """The lists that this sampler runs: neighbours in the menu run different ones."""
    offset = list(builtin().samplers).index(name)
    allowed = [
        (sigmas, where)
        for sigmas, where in lists(kind).items()
        if not name.startswith(BRIDGES) or where.split(",")[0] in KEPT_FOR_BRIDGES
    ]
    return [pair for number, pair in enumerate(allowed, offset) if number % (SHARE if len(pair[0]) > 3 else SHORT) == 0]


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("name", builtin().samplers)
def test_every_sampler_runs_every_schedule(name, kind):
    chosen, seen = builtin().sampler(name).item, set()
    options = chosen.resolve({})
    for sigmas, where in sample(name, kind):
        ends = (sigmas[0], sigmas[-2], len(sigmas) if chosen.calls is not None else 0)
        key = ends if chosen.own_grid_with() else sigmas
        if key in seen:
            continue
        seen.add(key)
        plan, counted = Plan(chosen, options, sigmas), Counted(network(kind), 1)
        start = 0.3 + sigmas[0] * Noise((7,), "initial")(torch.zeros(1, 1, 2, 2))
        *_, last = steps(plan, counted, start, (Noise if "Karras" in where else Pathless)((7,)))
        assert torch.isfinite(last.x).all() and last.sigma == 0, where
        assert plan.calls in (None, counted.calls), f"{where}: {plan.calls} declared, {counted.calls} made"
    assert len(seen) > len(STRENGTHS)


@functools.cache
def short_lists(kind: str) -> list[tuple[float, ...]]:
    """A list of three steps of each schedule."""
    return [entry.item(model(kind), 3) for entry in builtin().schedules.values()]


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("guidance", builtin().guidances)
def test_every_sampler_runs_every_guidance(guidance, kind):
    method = Method(builtin().guidance(guidance).item)
    prompts = torch.full((1, 1, 1), 0.5), torch.zeros(1, 1, 1)
    network, prediction = (EpsNetwork, "epsilon") if kind == "eps" else (FlowNetwork, "flow_prediction")
    denoise = guided(network(model(kind)), model(kind), prediction, *prompts, 3.0, method=method)
    offset = 7 * list(builtin().guidances).index(guidance)
    for number, (name, entry) in enumerate(builtin().samplers.items(), offset):
        if name.startswith(BRIDGES):
            continue
        sigmas = short_lists(kind)[number % len(short_lists(kind))]
        plan, counted = Plan(entry.item, entry.item.resolve({}), sigmas), Counted(denoise, 1)
        *_, last = steps(plan, counted, sigmas[0] * Noise((7,), "initial")(torch.zeros(1, 2, 4, 4)), Pathless((7,)))
        assert torch.isfinite(last.x).all(), f"{name} with {guidance} on {kind}"
        assert counted.calls <= counted.evaluations_each <= 2 * counted.calls


@pytest.mark.parametrize("kind", MODELS)
def test_every_list_runs_with_several_samplers(kind):
    runs = Counter(sigmas for name in builtin().samplers for sigmas, _ in sample(name, kind))
    assert set(runs) == set(lists(kind))
    assert min(runs.values()) >= 2


def test_every_schedule_takes_part():
    named = {where.split(",")[0] for kind in MODELS for where in lists(kind).values()}
    assert named == set(builtin().schedules)
