"""From a network to denoise(x, sigma): scaling, timestep, prediction type and guidance in one place.

Every network is asked for the same thing, the estimate of x0 given x = x0 + sigma * eps; what it was trained to
output ("prediction") is turned into that here, so samplers never know.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from .sampler import Stopped
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


def guidance_interval(low: float, high: float) -> tuple[float, float]:
    """(low, high) of the sigmas that are guided, where a high of 0 is no upper end."""
    return low, high or math.inf


def guidance_at(sigma: float, guidance: float, interval: tuple[float, float]) -> float:
    """The guidance scale that counts at a noise level: `guidance` where low < sigma <= high, else 1, which is none."""
    low, high = interval
    return guidance if low < sigma <= high else 1.0


@dataclass(frozen=True, eq=False)
class Denoiser:
    """denoise(x, sigma) for one prompt on one network, with classifier-free guidance (arXiv:2207.12598).

    network     network(scaled, timestep, condition) -> output like scaled (images, channels, height, width);
                timestep is a float between training timesteps, condition (images, tokens, width)
    schedule    the noise levels that the network was trained on
    prediction  one of PREDICTIONS
    positive    (1, tokens, width), the prompt
    negative    (1, tokens, width), the negative or empty prompt
    guidance    w in uncond + w * (cond - uncond): 1 is no guidance and costs half, above 1 extrapolates
    rounded     round the timestep to a whole one, as most other programs do; off, it is continuous
    rescale     0 to 1: how far the guided output is brought back to the standard deviation of the conditional one,
                against over-exposure (Lin et al. 2023, arXiv:2305.08891, section 3.4)
    interval    (low, high): guidance is used where low < sigma <= high and costs nothing elsewhere
                (Kynkaanniemi et al. 2024, arXiv:2404.07724)
    on_gap      called with (sigma, conditional minus unconditional estimate of x0) where guidance computes both
    """

    network: Callable[[torch.Tensor, float, torch.Tensor], torch.Tensor]
    schedule: NoiseSchedule
    prediction: str
    positive: torch.Tensor
    negative: torch.Tensor
    guidance: float = 1.0
    rounded: bool = False
    rescale: float = 0.0
    interval: tuple[float, float] = (0.0, math.inf)
    on_gap: Callable[[float, torch.Tensor], None] | None = None

    def __call__(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        timestep = self.schedule.timestep(sigma)
        if self.rounded:
            timestep = float(round(timestep))
        scaled = to_network(x, sigma, self.schedule.flow)
        guidance = guidance_at(sigma, self.guidance, self.interval)
        return to_denoised(self._guided(scaled, timestep, sigma, guidance), x, sigma, self.prediction)

    def _guided(self, scaled: torch.Tensor, timestep: float, sigma: float, guidance: float) -> torch.Tensor:
        if guidance in (0.0, 1.0):
            return self._ask(scaled, timestep, self.positive if guidance == 1.0 else self.negative)
        uncond, cond = self._both(scaled, timestep)
        if self.on_gap is not None:
            # The estimate is linear in the output: without the state's own share, this is the estimates' difference.
            gap = cond - uncond
            self.on_gap(sigma, to_denoised(gap, torch.zeros_like(gap), sigma, self.prediction))
        guided = uncond + guidance * (cond - uncond)
        return rescale_guided(guided, cond, self.rescale) if self.rescale else guided

    def _both(self, scaled: torch.Tensor, timestep: float) -> tuple[torch.Tensor, torch.Tensor]:
        """The unconditional and the conditional output, in one call of the network where the prompts are of a length."""
        if self.negative.shape != self.positive.shape:
            # Padding would change the picture: attention would see what the prompt does not say.
            return self._ask(scaled, timestep, self.negative), self._ask(scaled, timestep, self.positive)
        count = scaled.shape[0]
        condition = torch.cat([self.negative.expand(count, -1, -1), self.positive.expand(count, -1, -1)])
        # In the state's own precision: guidance multiplies what half precision has lost.
        uncond, cond = self.network(torch.cat([scaled, scaled]), timestep, condition).to(scaled).chunk(2)
        return uncond, cond

    def _ask(self, scaled: torch.Tensor, timestep: float, condition: torch.Tensor) -> torch.Tensor:
        return self.network(scaled, timestep, condition.expand(scaled.shape[0], -1, -1)).to(scaled)


def rescale_guided(guided: torch.Tensor, cond: torch.Tensor, share: float) -> torch.Tensor:
    """`guided` with the standard deviation of `cond`, image by image, mixed in by `share` (arXiv:2305.08891, eq. 15, 16)."""
    axes = tuple(range(1, guided.ndim))
    rescaled = guided * (cond.std(axes, keepdim=True) / guided.std(axes, keepdim=True))
    return share * rescaled + (1.0 - share) * guided


@dataclass(frozen=True, eq=False)
class Call:
    """One finished call of `denoise`: how many so far (per image), at which sigma, and the estimate of x0."""

    calls: float
    sigma: float
    denoised: torch.Tensor


class Watched:
    """A denoise that is counted, reported and stoppable; a run of `images` images.

    report   called with a `Call` after each call
    stopped  asked before and after each call; when true, the call raises `Stopped`
    """

    def __init__(
        self,
        denoise: Callable[[torch.Tensor, float], torch.Tensor],
        images: int,
        report: Callable[[Call], None] = lambda call: None,
        stopped: Callable[[], bool] = lambda: False,
    ):
        self._denoise, self._images, self._report, self._stopped = denoise, images, report, stopped
        self._image_calls = 0

    @property
    def calls(self) -> float:
        """Calls so far, per image; a whole number unless images were solved apart and needed different numbers."""
        each = self._image_calls / self._images
        return int(each) if each.is_integer() else each

    def __call__(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        self._raise_if_stopped()
        denoised = self._denoise(x, sigma)
        self._image_calls += x.shape[0]
        self._report(Call(self.calls, sigma, denoised))
        self._raise_if_stopped()
        return denoised

    def _raise_if_stopped(self) -> None:
        if self._stopped():
            raise Stopped("the run was stopped")
