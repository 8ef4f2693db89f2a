"""Classifier-free guidance: a denoise(x, sigma) from a network's estimates with and without the prompt."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from .check import place
from .denoiser import Network, evaluations
from .estimates import Denoise, Parts
from .sampler import Guidance, GuidanceFailed, GuidanceState, guidance
from .schedule import NoiseSchedule


@guidance("CFG", linear=True, paper="arXiv:2207.12598")
def CFG(conditional, unconditional, sigma, scale, state):
    """Classifier-free guidance (Ho & Salimans 2022): uncond + scale * (cond - uncond)."""
    return unconditional + scale * (conditional - unconditional)


@dataclass(frozen=True)
class Interval:
    """The noise levels `low` < sigma <= `high`, where a high of 0 is no upper end."""

    low: float = 0.0
    high: float = 0.0

    def __contains__(self, sigma: float) -> bool:
        return self.low < sigma <= (self.high or math.inf)


@dataclass(frozen=True)
class Method:
    """A guidance with its options, as runs use it. Raises ValueError on an unknown or out-of-range option."""

    guidance: Guidance = CFG
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Once, and not at every call.
        object.__setattr__(self, "options", self.guidance.resolve(self.options))

    def __call__(self, conditional, unconditional, sigma: float, scale: float, state: GuidanceState) -> torch.Tensor:
        """The guided estimate. Raises GuidanceFailed, which names the plugin."""
        try:
            guided = self.guidance(conditional, unconditional, sigma, scale, state, **self.options)
        except Exception as error:
            raise self._failed(error) from error
        if not isinstance(guided, torch.Tensor) or guided.shape != conditional.shape:
            got = tuple(guided.shape) if isinstance(guided, torch.Tensor) else type(guided).__name__
            shape = tuple(conditional.shape)
            raise GuidanceFailed(f"guidance {self.guidance.name} must return an estimate of shape {shape}, not {got}")
        return guided

    def skips(self, sigma: float, scale: float, state: GuidanceState) -> bool:
        """Whether the conditional estimate is the guided one. Raises GuidanceFailed, which names the plugin."""
        try:
            return self.guidance.skips(sigma, scale, state, **self.options)
        except Exception as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> Exception:
        if isinstance(error, MemoryError | torch.OutOfMemoryError):
            return error
        what, where = f"{type(error).__name__}: {error}", place(self.guidance, error)
        return GuidanceFailed(f"guidance {self.guidance.name} failed ({where}): {what}")


PLAIN_CFG = Method()


@dataclass
class Tally:
    """Evaluations of the network: one for each image and each of its estimates, two for most."""

    evaluations: int = 0


@dataclass(frozen=True, eq=False)
class Guided:
    """Guidance with two estimates, of conditions as `Network.output` takes them.

    scale    above 1 extrapolates away from the negative prompt; 1 and 0 ask for one estimate only
    rescale  0 to 1: how far the guided output is brought back to the standard deviation of the conditional one
    on_gap   called with (sigma, conditional minus unconditional estimate of x0) at each call
    method   how the two make one: a linear guidance acts on the network's outputs, any other on estimates of x0, and so
             does rescale with it
    tally    counts what the network is asked for
    """

    network: Network
    positive: Any
    negative: Any
    scale: float
    rescale: float = 0.0
    on_gap: Callable[[float, torch.Tensor], None] | None = None
    method: Method = PLAIN_CFG
    tally: Tally = field(default_factory=Tally)
    # What the method keeps between the calls of a run, for each shape of x: a sampler may ask at several sizes.
    _states: dict[tuple[int, ...], GuidanceState] = field(default_factory=dict)
    _sigmas: list[float] = field(default_factory=list)

    @property
    def model(self) -> NoiseSchedule:
        """The noise levels of the network."""
        return self.network.schedule

    @property
    def evaluations(self) -> int:
        """See `Tally`."""
        return self.tally.evaluations

    def new_run(self, sigmas: tuple[float, ...]) -> None:
        """Forget what the method kept."""
        self._states.clear()
        self._sigmas[:] = sigmas

    def __call__(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        if self._needs_one(x, sigma):
            condition = self.positive if self.scale else self.negative
            self.tally.evaluations += len(x) * evaluations(sigma, condition)
            return self.network.denoised(self.network.output(x, sigma, condition), x, sigma)
        cond, uncond = self._outputs(x, sigma)
        return self._guided(cond, uncond, x, sigma)

    def parts(self, x: torch.Tensor, sigma: float) -> Parts:
        """The guided estimate and its two; both are computed, also where the guided one needs one only."""
        needs_one = self._needs_one(x, sigma)
        cond, uncond = self._outputs(x, sigma)
        conditional, unconditional = (self.network.denoised(output, x, sigma) for output in (cond, uncond))
        if needs_one:
            return Parts(conditional if self.scale else unconditional, conditional, unconditional)
        return Parts(self._guided(cond, uncond, x, sigma), conditional, unconditional)

    def _outputs(self, x: torch.Tensor, sigma: float) -> tuple[torch.Tensor, torch.Tensor]:
        """What the network says with the prompt and with the negative prompt."""
        uncond, cond = self.network.outputs(x, sigma, self.negative, self.positive)
        self.tally.evaluations += len(x) * evaluations(sigma, self.negative, self.positive)
        return cond, uncond

    def _guided(self, cond: torch.Tensor, uncond: torch.Tensor, x: torch.Tensor, sigma: float) -> torch.Tensor:
        if self.on_gap is not None:
            # An estimate is linear in output and state: with a state of zeros, this is the estimates' difference.
            gap = cond - uncond
            self.on_gap(sigma, self.network.denoised(gap, torch.zeros_like(gap), sigma))
        linear = self.method.guidance.linear
        if not linear:
            cond, uncond = self.network.denoised(cond, x, sigma), self.network.denoised(uncond, x, sigma)
        guided = self.method(cond, uncond, sigma, self.scale, self._state(x))
        if self.rescale:
            guided = rescale_guided(guided, cond, self.rescale)
        return self.network.denoised(guided, x, sigma) if linear else guided

    def _needs_one(self, x: torch.Tensor, sigma: float) -> bool:
        """Whether one of the two estimates is the guided one: the negative prompt's at scale 0, else the prompt's."""
        return self.scale in (0.0, 1.0) or self.method.skips(sigma, self.scale, self._state(x))

    def _state(self, x: torch.Tensor) -> GuidanceState:
        state = self._states.get(tuple(x.shape))
        if state is None:
            state = self._states[tuple(x.shape)] = GuidanceState(x, self._sigmas, self.model)
        state.x = x
        return state


@dataclass(frozen=True, eq=False)
class GuidanceInterval:
    """`guided` at the noise levels of an interval and `plain`, which costs half, elsewhere.

    Kynkaanniemi et al. 2024, arXiv:2404.07724.
    """

    guided: Guided
    plain: Guided
    interval: Interval

    @property
    def model(self) -> NoiseSchedule:
        """The noise levels of the network."""
        return self.guided.model

    @property
    def evaluations(self) -> int:
        """See `Tally`."""
        return self.guided.evaluations + self.plain.evaluations

    def new_run(self, sigmas: tuple[float, ...]) -> None:
        """Forget what the method kept."""
        self.guided.new_run(sigmas)

    def __call__(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        return (self.guided if sigma in self.interval else self.plain)(x, sigma)

    def parts(self, x: torch.Tensor, sigma: float) -> Parts:
        """Those of the one that counts at this noise level."""
        return (self.guided if sigma in self.interval else self.plain).parts(x, sigma)


def rescale_guided(guided: torch.Tensor, cond: torch.Tensor, share: float) -> torch.Tensor:
    """Bring the spread of `guided` back to that of `cond`, image by image, against over-exposure.

    share * guided * std(cond) / std(guided) + (1 - share) * guided; Lin et al. 2023, arXiv:2305.08891, eq. 15, 16.
    """
    axes = tuple(range(1, guided.ndim))
    rescaled = guided * (cond.std(axes, keepdim=True) / guided.std(axes, keepdim=True))
    return share * rescaled + (1.0 - share) * guided


def guide(
    network: Network,
    positive: Any,
    negative: Any,
    scale: float = 1.0,
    rescale: float = 0.0,
    interval: Interval = Interval(),
    on_gap: Callable[[float, torch.Tensor], None] | None = None,
    method: Method = PLAIN_CFG,
) -> Denoise:
    """denoise(x, sigma) of a network for a prompt and a negative (or empty) prompt, see `Guided`.

    scale  1 is no guidance and 0 the negative prompt alone; both ask for one estimate only
    """
    plain = Guided(network, positive, negative, 1.0)
    if scale == 1.0:
        return plain
    return GuidanceInterval(Guided(network, positive, negative, scale, rescale, on_gap, method), plain, interval)
