"""How much noise: the relation of timestep, sigma, alpha and log-SNR, and the list of sigmas of a run.

sigma is the noise-to-signal ratio: a noised image is x0 + sigma * eps. The same image in variance-preserving scaling
is alpha * x0 + sqrt(1 - alpha^2) * eps with alpha = 1 / sqrt(1 + sigma^2); in flow scaling it is
(1 - t) * x0 + t * eps with t = sigma / (1 + sigma). log-SNR = -2 log sigma.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import mul

MAX_SIGMA = 4500.0  # the cap for zero-terminal-SNR models, whose last sigma is infinite
BETAS = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid")
FLOW_TOP, FLOW_BOTTOM, FLOW_SCALE = 0.999, 0.001, 1000.0


@dataclass(frozen=True)
class NoiseSchedule:
    """The noise levels that a network was trained on.

    sigmas  sigma at training timesteps 0 .. T-1, rising; empty for a flow model, whose timestep is 1000 t
    """

    sigmas: tuple[float, ...] = ()

    @property
    def flow(self) -> bool:
        """Whether timesteps are flow times (times 1000) and not indices of `sigmas`."""
        return not self.sigmas

    @property
    def sigma_min(self) -> float:
        """The lowest noise level that the network knows."""
        return self.sigma(self.bottom)

    @property
    def sigma_max(self) -> float:
        """The highest noise level, where a picture from words starts."""
        return self.sigma(self.top)

    @property
    def top(self) -> float:
        """The timestep of sigma_max."""
        return FLOW_TOP * FLOW_SCALE if self.flow else len(self.sigmas) - 1.0

    @property
    def bottom(self) -> float:
        """The timestep of sigma_min."""
        return FLOW_BOTTOM * FLOW_SCALE if self.flow else 0.0

    @property
    def origin(self) -> float:
        """The timestep that would mean no noise at all: one before index 0, or flow time 0."""
        return 0.0 if self.flow else -1.0

    def sigma(self, timestep: float) -> float:
        """sigma at a continuous timestep; log sigma is interpolated linearly between whole ones."""
        timestep = min(max(timestep, self.bottom), self.top)
        if self.flow:
            return sigma_of_flow_time(timestep / FLOW_SCALE)
        index = min(int(timestep), len(self.sigmas) - 2)
        part, low, high = timestep - index, self.sigmas[index], self.sigmas[index + 1]
        # A whole timestep gives the table's own bits, so that grids equal the oracles' exactly.
        return low if part == 0 else high if part == 1 else math.exp((1 - part) * math.log(low) + part * math.log(high))

    def timestep(self, sigma: float) -> float:
        """The continuous timestep of sigma, the inverse of `sigma`; outside the trained range, its nearest end."""
        if self.flow:
            return FLOW_SCALE * min(max(flow_time_of_sigma(sigma), FLOW_BOTTOM), FLOW_TOP)
        if sigma <= self.sigmas[0]:
            return 0.0
        if sigma >= self.sigmas[-1]:
            return self.top
        index = bisect.bisect_right(self.sigmas, sigma) - 1
        low, high = self.sigmas[index], self.sigmas[index + 1]
        return index + math.log(sigma / low) / math.log(high / low)


def handover(model: NoiseSchedule, share: float) -> float:
    """The sigma below which another network takes over once a share of the training timesteps is done.

    It is that of timestep round(T (1 - share)), as in diffusers' denoising_end and denoising_start, and infinite at
    share 0; a millionth less, so that the same level is not below it where it was computed in another way.
    """
    timestep = round(_timesteps(model) * (1.0 - share))
    return model.sigma(timestep) * (1 - 1e-6) if timestep <= model.top else math.inf


def latest_handover(model: NoiseSchedule, sigma: float) -> float:
    """The largest share, in hundredths, at which `handover` is above a sigma; below 0 where there is none."""
    return math.floor(100 * (1.0 - (model.timestep(sigma) + 1) / _timesteps(model)) + 1e-6) / 100


def _timesteps(model: NoiseSchedule) -> float:
    return FLOW_SCALE if model.flow else float(len(model.sigmas))


def from_betas(betas: Sequence[float]) -> NoiseSchedule:
    """The schedule of a DDPM-trained network: alpha_bar_t = prod(1 - beta), sigma^2 = (1 - alpha_bar) / alpha_bar.

    Ho et al. 2020, arXiv:2006.11239, equation 4. The last level is capped as in `from_alphas`.
    """
    return from_alphas(list(accumulate((1.0 - beta for beta in betas), mul)))


def from_alphas(alphas_bar: Sequence[float]) -> NoiseSchedule:
    """The schedule of given cumulative alphas (alpha_bar, falling): sigma^2 = (1 - alpha_bar) / alpha_bar.

    The last level, infinite with zero terminal SNR, is capped at 4500, where nothing of the picture is left, or at
    twice the level before it where that is above 4500 itself: levels rise strictly.
    """
    sigmas = [math.sqrt((1.0 - a) / a) if a > 0 else math.inf for a in alphas_bar]
    sigmas[-1] = min(sigmas[-1], MAX_SIGMA if sigmas[-2] < MAX_SIGMA else 2 * sigmas[-2])
    return NoiseSchedule(tuple(sigmas))


def betas(kind: str, start: float, end: float, count: int = 1000) -> list[float]:
    """Fixed beta schedules: "linear" (DDPM), "scaled_linear" (latent diffusion), "squaredcos_cap_v2", "sigmoid".

    Nichol & Dhariwal 2021, arXiv:2102.09672, equation 17, for the cosine; the sigmoid, from -6 to 6, is that of
    Xu et al. 2022, arXiv:2203.02923. ValueError on another kind.
    """
    if kind == "linear":
        return [start + (end - start) * i / (count - 1) for i in range(count)]
    if kind == "scaled_linear":
        low, high = math.sqrt(start), math.sqrt(end)
        return [(low + (high - low) * i / (count - 1)) ** 2 for i in range(count)]
    if kind == "squaredcos_cap_v2":
        bar = lambda t: math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2  # noqa: E731
        return [min(1 - bar((i + 1) / count) / bar(i / count), 0.999) for i in range(count)]
    if kind == "sigmoid":
        return [start + (end - start) / (1 + math.exp(6 - 12 * i / (count - 1))) for i in range(count)]
    raise ValueError(f"beta schedule {kind!r} is unknown; known are {', '.join(BETAS)}")


def zero_terminal_snr(alphas_bar: Sequence[float]) -> list[float]:
    """Shift and scale sqrt(alpha_bar) so that it ends at 0. Lin et al. 2023, arXiv:2305.08891, algorithm 1."""
    roots = [math.sqrt(a) for a in alphas_bar]
    first, last = roots[0], roots[-1]
    return [((root - last) * first / (first - last)) ** 2 for root in roots]


def stable_diffusion() -> NoiseSchedule:
    """Stable Diffusion's own: scaled linear from 0.00085 to 0.012 in 1000 steps (sigma 0.0292 to 14.61)."""
    return from_betas(betas("scaled_linear", 0.00085, 0.012))


def flow() -> NoiseSchedule:
    """Rectified flow: x_t = (1 - t) x0 + t eps for t from 0.999 to 0.001 (Liu et al. 2022, arXiv:2209.03003)."""
    return NoiseSchedule()


def sigma_of_flow_time(t: float) -> float:
    """sigma = t / (1 - t)."""
    return t / (1.0 - t)


def flow_time_of_sigma(sigma: float) -> float:
    """t = sigma / (1 + sigma)."""
    return sigma / (1.0 + sigma)


def shift_flow_time(t: float, shift: float) -> float:
    """The flow time to which a shift moves t: shift * t / (1 + (shift - 1) * t), which multiplies sigma by `shift`.

    Esser et al. 2024, arXiv:2403.03206, equation 23: larger pictures need more noise to be as far gone.
    """
    return shift * t / (1.0 + (shift - 1.0) * t)


def alpha_bar(sigma: float) -> float:
    """alpha^2 = 1 / (1 + sigma^2): the share of signal in the variance."""
    return 1.0 / (1.0 + sigma * sigma)


def noise_share(sigma: float) -> float:
    """sigma^2 / (1 + sigma^2): the share of noise in the variance."""
    return sigma * sigma / (1.0 + sigma * sigma)


def log_snr(sigma: float) -> float | None:
    """-2 log sigma; None at sigma 0, where it is infinite."""
    return -2.0 * math.log(sigma) if sigma > 0 else None


def cut(sigmas: tuple[float, ...], strength: float, strength_as: str = "steps") -> tuple[float, ...]:
    """The part of a schedule that img2img runs; strength 1 is all of it.

    "steps"  the last max(1, floor(n * strength + 0.5 + 1e-9)) steps, so 50 steps at 0.58 run 29
    "noise"  start where the share of noise in the variance is `strength`, and go on with the steps below
    Raises ValueError on a strength that is not above 0 and at most 1.
    """
    if not 0 < strength <= 1:
        raise ValueError(f"strength is {strength}; allowed is a number above 0 and up to 1")
    if strength_as == "steps":
        count = max(1, math.floor((len(sigmas) - 1) * strength + 0.5 + 1e-9))
        return sigmas[-count - 1 :]
    if strength_as != "noise":
        raise ValueError(f"strength_as is {strength_as!r}; allowed is 'steps' or 'noise'")
    if noise_share(sigmas[0]) <= strength:
        return sigmas
    start = math.sqrt(strength / (1.0 - strength))
    # A step much shorter than the schedule's own would cost a call and change nothing.
    below = tuple(sigma for sigma in sigmas if sigma < start * (1 - 1e-3))
    return (start, *below)
