"""From a network to denoise(x, sigma): scaling, timestep and prediction type.

Every network is asked for the same thing, the estimate of x0 given x = x0 + sigma * eps. What it was trained to output
("prediction") is converted here, so samplers need not know. `samplers.guidance` and `samplers.wrappers` build on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Protocol, Self

import torch

from .schedule import NoiseSchedule

PREDICTIONS = ("epsilon", "v_prediction", "sample", "flow_prediction")


def to_network(x: torch.Tensor, sigma: float, flow: bool) -> torch.Tensor:
    """x0 + sigma * eps in the scaling that the network was trained on.

    Variance preserving: x / sqrt(1 + sigma^2). Flow: x / (1 + sigma), that is (1 - t) x0 + t eps.
    """
    return x / (1.0 + sigma) if flow else x / math.sqrt(1.0 + sigma * sigma)


def to_denoised(output: torch.Tensor, x: torch.Tensor, sigma: float, prediction: str) -> torch.Tensor:
    """The estimate of x0 that a network's output stands for, at state x = x0 + sigma * eps.

    "epsilon" is eps; "v_prediction" is alpha * eps - sqrt(1 - alpha^2) * x0 (Salimans & Ho 2022, arXiv:2202.00512);
    "sample" is x0; "flow_prediction" is eps - x0 (Lipman et al. 2022, arXiv:2210.02747, with t = 1 for noise).
    """
    if prediction == "epsilon":
        return x - sigma * output
    if prediction == "v_prediction":
        return x / (1.0 + sigma * sigma) - output * (sigma / math.sqrt(1.0 + sigma * sigma))
    if prediction == "sample":
        return output
    if prediction == "flow_prediction":
        return (x - sigma * output) / (1.0 + sigma)
    raise ValueError(f"prediction {prediction!r} is unknown; known are {', '.join(PREDICTIONS)}")


class Condition(Protocol):
    """What a network is told beside x and the timestep, such as an encoded prompt; only the network looks inside."""

    def repeat(self, images: int) -> Self:
        """The same condition for each of so many images."""
        ...

    def join(self, other: Self) -> Self | None:
        """Both batches in one, self's first; None where they do not fit, because padding would change the picture."""
        ...


@dataclass(frozen=True, eq=False)
class Scheduled:
    """Conditions that take turns as the noise falls.

    conditions  in order
    levels      one less: condition i ends, and the next begins, at sigma levels[i]; falling
    """

    conditions: tuple[Any, ...]
    levels: tuple[float, ...]

    def at(self, sigma: float) -> Any:
        """The condition that counts at a noise level."""
        return self.conditions[sum(sigma <= level for level in self.levels)]


@dataclass(frozen=True, eq=False)
class Combined:
    """Conditions whose outputs are added: sum of weight * output. An estimate of x0 wants weights that sum to 1.

    Liu et al. 2022, arXiv:2206.01714, for prompts c_i of weight w_i: uncond + sum w_i (c_i - uncond).
    """

    terms: tuple[tuple[float, Any], ...]

    @classmethod
    def of(cls, weighted: Sequence[tuple[float, Any]], unconditional: Any) -> Combined:
        """The combination of prompts of these weights, with the rest from the negative prompt's condition."""
        rest = 1.0 - sum(weight for weight, _ in weighted)
        return cls((*weighted, *([(rest, unconditional)] if rest else [])))


@dataclass(frozen=True, eq=False)
class Network:
    """A network and how it was trained.

    function    function(scaled, timestep, condition) -> output like scaled (images, channels, height, width);
                timestep is a float between training timesteps, condition a `Condition` for as many images
    schedule    the noise levels that the network was trained on
    prediction  one of PREDICTIONS
    rounded     round the timestep to a whole one, as most other programs do; off, it is continuous
    """

    function: Callable[[torch.Tensor, float, Any], torch.Tensor]
    schedule: NoiseSchedule
    prediction: str
    rounded: bool = False

    def output(self, x: torch.Tensor, sigma: float, condition: Any) -> torch.Tensor:
        """What the network says of x under one condition, before it is converted to an estimate of x0.

        condition  a `Condition`, or one that changes with sigma (`Scheduled`), or several (`Combined`)
        """
        if isinstance(condition, Scheduled):
            return self.output(x, sigma, condition.at(sigma))
        if isinstance(condition, Combined):
            return self._combined(x, sigma, condition)[0]
        return self._call(to_network(x, sigma, self.schedule.flow), sigma, condition.repeat(len(x)))

    def outputs(self, x: torch.Tensor, sigma: float, first: Any, second: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """What it says under two conditions, see `output`, in one call where these can be joined."""
        if isinstance(first, Scheduled | Combined) or isinstance(second, Scheduled | Combined):
            one, other = self._combined(x, sigma, first, second)
            return one, other
        joined = first.repeat(len(x)).join(second.repeat(len(x)))
        if joined is None:
            return self.output(x, sigma, first), self.output(x, sigma, second)
        scaled = to_network(x, sigma, self.schedule.flow)
        one, other = self._call(torch.cat([scaled, scaled]), sigma, joined).chunk(2)
        return one, other

    def denoised(self, output: torch.Tensor, x: torch.Tensor, sigma: float) -> torch.Tensor:
        """The estimate of x0 that an output stands for."""
        return to_denoised(output, x, sigma, self.prediction)

    def _combined(self, x: torch.Tensor, sigma: float, *conditions: Any) -> list[torch.Tensor]:
        """What it says under each condition; it is asked once for each that takes part."""
        terms = [_terms(condition, sigma) for condition in conditions]
        leaves = {id(leaf): leaf for each in terms for _, leaf in each}
        if len(leaves) == 2:
            said = dict(zip(leaves, self.outputs(x, sigma, *leaves.values()), strict=True))
        else:
            said = {name: self.output(x, sigma, leaf) for name, leaf in leaves.items()}
        return [
            said[id(each[0][1])]
            if len(each) == 1 and each[0][0] == 1.0
            # One after another: a sum that begins with 0 would round otherwise.
            else reduce(torch.add, [weight * said[id(leaf)] for weight, leaf in each])
            for each in terms
        ]

    def _call(self, scaled: torch.Tensor, sigma: float, condition: Condition) -> torch.Tensor:
        timestep = self.schedule.timestep(sigma)
        # The output in the state's own precision: guidance would multiply what half precision has lost.
        return self.function(scaled, float(round(timestep)) if self.rounded else timestep, condition).to(scaled)


def _terms(condition: Any, sigma: float) -> list[tuple[float, Any]]:
    """The plain conditions that count at a noise level, with their weights."""
    if isinstance(condition, Scheduled):
        return _terms(condition.at(sigma), sigma)
    if isinstance(condition, Combined):
        return [(weight * inner, leaf) for weight, each in condition.terms for inner, leaf in _terms(each, sigma)]
    return [(1.0, condition)]


def evaluations(sigma: float, *conditions: Any) -> int:
    """How often a network is asked for outputs under these conditions, an image each."""
    if not any(isinstance(condition, Scheduled | Combined) for condition in conditions):
        return len(conditions)
    return len({id(leaf) for condition in conditions for _, leaf in _terms(condition, sigma)})
