"""From a network to denoise(x, sigma): scaling, timestep and prediction type.

Every network is asked for the same thing, the estimate of x0 given x = x0 + sigma * eps. What it was trained to output
("prediction") is converted here, so samplers need not know. `samplers.guidance` and `samplers.wrappers` build on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
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

    def output(self, x: torch.Tensor, sigma: float, condition: Condition) -> torch.Tensor:
        """What the network says of x under one condition, before it is converted to an estimate of x0."""
        return self._call(to_network(x, sigma, self.schedule.flow), sigma, condition.repeat(len(x)))

    def outputs(
        self, x: torch.Tensor, sigma: float, first: Condition, second: Condition
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What it says under two conditions, in one call where these can be joined."""
        joined = first.repeat(len(x)).join(second.repeat(len(x)))
        if joined is None:
            return self.output(x, sigma, first), self.output(x, sigma, second)
        scaled = to_network(x, sigma, self.schedule.flow)
        one, other = self._call(torch.cat([scaled, scaled]), sigma, joined).chunk(2)
        return one, other

    def denoised(self, output: torch.Tensor, x: torch.Tensor, sigma: float) -> torch.Tensor:
        """The estimate of x0 that an output stands for."""
        return to_denoised(output, x, sigma, self.prediction)

    def _call(self, scaled: torch.Tensor, sigma: float, condition: Condition) -> torch.Tensor:
        timestep = self.schedule.timestep(sigma)
        # The output in the state's own precision: guidance would multiply what half precision has lost.
        return self.function(scaled, float(round(timestep)) if self.rounded else timestep, condition).to(scaled)
