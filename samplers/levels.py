"""The visualizer's numbers: what a list of sigmas means on a model, and where a sampler really asks the network.

The list is the one that a run takes (`Plan.sigmas`); nothing here makes a list of its own, so that what is drawn is
what is run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from .closed_form import GaussianDenoiser
from .noise import Noise
from .run import Plan, steps
from .schedule import NoiseSchedule, alpha_bar, log_snr, noise_share
from .wrappers import Counted

MOST_CALLS = 100_000  # more than any run makes: it would go on for ever


@dataclass(frozen=True)
class Levels:
    """A list of sigmas, falling to 0, in every measure of noise; the tuples go with one another.

    timesteps  continuous training timesteps of the model; 0 at sigma 0, where no network is asked
    log_snr    -2 ln sigma; None at sigma 0, where it is infinite
    alpha_bar  1 / (1 + sigma^2), the share of signal in the variance
    """

    sigmas: tuple[float, ...]
    timesteps: tuple[float, ...]
    log_snr: tuple[float | None, ...]
    alpha_bar: tuple[float, ...]

    @property
    def noise_share(self) -> float:
        """sigma^2 / (1 + sigma^2) at the first sigma: the share of noise in the variance where a run starts."""
        return noise_share(self.sigmas[0])


def levels(model: NoiseSchedule, sigmas: Sequence[float]) -> Levels:
    """What each sigma of a list is on this model. Sigmas outside its range have the timestep of the nearest end."""
    listed = tuple(float(sigma) for sigma in sigmas)
    return Levels(
        listed,
        tuple(model.timestep(sigma) if sigma > 0 else 0.0 for sigma in listed),
        tuple(log_snr(sigma) for sigma in listed),
        tuple(alpha_bar(sigma) for sigma in listed),
    )


@dataclass(frozen=True)
class NetworkCall:
    """One network call: where in the run, counted in steps (2.5 is in the middle of the third step), and its sigma."""

    place: float
    sigma: float


@dataclass(frozen=True)
class DryRun:
    """A run on a closed-form denoiser: every network call in order, and the sigmas from the first to the last."""

    calls: tuple[NetworkCall, ...]
    sigmas: tuple[float, ...]


def dry_run(plan: Plan, most_calls: int = MOST_CALLS) -> DryRun | None:
    """Run a plan on four numbers instead of a network, to see at which sigmas it asks.

    The calls of Heun's and DPM2's inner stages, the raised sigmas of churn and the detour of Restart depend on the list
    alone, and so does the own grid of a sampler that declares its calls. An adaptive one goes where the network leads
    it: None. Raises SamplerFailed, also for a sampler that does not end after `most_calls` calls.
    """
    if plan.calls is None:
        return None
    asked: list[list[float]] = [[]]
    mean, done = 0.3, [plan.sigmas[0]]
    counted = Counted(GaussianDenoiser(mean), 1)

    def denoise(x: torch.Tensor, sigma: float) -> torch.Tensor:
        if counted.calls == most_calls:
            raise RuntimeError(f"it did not end after {most_calls} network calls")
        asked[-1].append(float(sigma))
        return counted(x, sigma)

    x = torch.full((1, 1, 2, 2), mean + plan.sigmas[0])
    for step in steps(plan, denoise, x, _NoNoise((0,))):
        done.append(float(step.sigma))
        asked.append([])
    return DryRun(tuple(_placed(asked, len(done) - 1)), tuple(done))


def _placed(asked: Sequence[Sequence[float]], count: int) -> Iterator[NetworkCall]:
    """Calls at their places: spread evenly over their step, or over the run where a sampler reports only at its end."""
    if count > 1 and not any(asked[1:]):
        asked = [asked[0]]
    width = count if len(asked) == 1 else 1
    for number, calls in enumerate(asked):
        for index, sigma in enumerate(calls):
            yield NetworkCall(number + width * index / len(calls), sigma)


class _NoNoise(Noise):
    """No noise at all: sigmas do not depend on it, and a Brownian path takes longer than everything else."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(x)

    def increments(self, x: torch.Tensor) -> Callable[[float, float], torch.Tensor]:
        return lambda sigma, lower: torch.zeros_like(x)

    def brownian(self, x: torch.Tensor, low: float, high: float) -> Callable[[float, float], torch.Tensor]:
        return self.increments(x)
