"""More schedules, each from its paper: at which noise levels a run asks the network.

`model` is the NoiseSchedule that the network was trained on; all of them start at its sigma_max, and none asks below
its sigma_min. One step is one call at sigma_max.
"""

import math
from typing import Annotated

from samplers import Choice, Range, hookimpl, schedule

WHOLE = "use whole timesteps only, as other programs do"

# Sabour et al. 2024, arXiv:2404.14507: the schedules of 10 steps that NVIDIA published; the last sigma is run as 0.
ALIGNED = {
    "SD 1.5": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029),
    "SDXL": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029),
    "SVD": (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),
}


@schedule("Polyexponential")
def polyexponential(
    model,
    steps,
    *,
    rho: Annotated[float, Range(0.25, 3, 0.05), "1 is Exponential; above 1, more steps at low noise"] = 1.0,
):
    """log sigma falls as a power: the share of the way that is left is (1 - i / (n - 1))^rho, as in k-diffusion."""
    high, low = math.log(model.sigma_max), math.log(model.sigma_min)
    return [model.sigma_max, *(math.exp(low + (high - low) * left**rho) for left in _left(steps)[1:])]


@schedule("Beta", paper="arXiv:2407.12173")
def beta(
    model,
    steps,
    *,
    alpha: Annotated[float, Range(0.3, 3, 0.05), "below 1: many steps at low noise"] = 0.6,
    beta: Annotated[float, Range(0.3, 3, 0.05), "below 1: many steps at high noise"] = 0.6,
    whole: Annotated[bool, WHOLE] = True,
):
    """Quantiles of a Beta distribution over timesteps, as the paper (Lee et al. 2024) has it.

    Programs that place the quantiles on sigma instead get another, much worse schedule under the same name.
    """
    # scipy comes with torchsde; importing it takes longer than everything else here.
    from scipy.special import betaincinv

    span = model.top - model.bottom
    timesteps = [model.bottom + span * float(betaincinv(alpha, beta, 1 - i / steps)) for i in range(steps)]
    if whole and not model.flow and steps <= span + 1:
        timesteps = _distinct([round(timestep) for timestep in timesteps])
    return [model.sigma(timestep) for timestep in timesteps]


def _distinct(timesteps):
    """Whole timesteps, falling, none twice: moved down where two meet, and up again where that went below 0."""
    moved = [timesteps[0]]
    for timestep in timesteps[1:]:
        moved.append(min(timestep, moved[-1] - 1))
    last = len(moved) - 1
    return [max(timestep, last - i) for i, timestep in enumerate(moved)]


@schedule("Align Your Steps", paper="arXiv:2404.14507")
def align_your_steps(
    model,
    steps,
    *,
    table: Annotated[str, Choice(*ALIGNED), "the model that it was optimized for"] = "SD 1.5",
):
    """NVIDIA's optimized schedule of 10 steps; other counts by log-linear interpolation, as the authors advise.

    On a model with another range of noise, its log sigmas are stretched to that range.
    """
    levels = [math.log(sigma) for sigma in ALIGNED[table]]
    high, low = math.log(model.sigma_max), math.log(model.sigma_min)
    if abs(levels[0] - high) > 0.01 or abs(levels[-1] - low) > 0.01:
        stretch = (high - low) / (levels[0] - levels[-1])
        levels = [low + (level - levels[-1]) * stretch for level in levels]
    places = [(len(levels) - 1) * i / steps for i in range(steps)]
    sigmas = [math.exp(_interpolate(levels, place)) for place in places]
    # The published 14.615 is the rounded sigma of the last timestep.
    return [model.sigma_max, *sigmas[1:]]


def _interpolate(values, place):
    index = min(int(place), len(values) - 2)
    part = place - index
    return values[index] if part == 0 else (1 - part) * values[index] + part * values[index + 1]


@schedule("KL-optimal", paper="arXiv:2404.14507")
def kl_optimal(model, steps):
    """arctan(sigma) falls linearly, the best for Gaussian data: Sabour et al. 2024, theorem 3.1."""
    high, low = math.atan(model.sigma_max), math.atan(model.sigma_min)
    return [model.sigma_max, *(math.tan(low + (high - low) * left) for left in _left(steps)[1:])]


@schedule("Laplace", paper="arXiv:2407.03297")
def laplace(
    model,
    steps,
    *,
    mu: Annotated[float, Range(-3, 3, 0.05), "log sigma where the steps are densest"] = 0.0,
    b: Annotated[float, Range(0.1, 3, 0.05), "how widely they spread"] = 0.5,
):
    """Quantiles of a Laplace distribution of log sigma, cut off at the model's range (Hang et al. 2024).

    Without the cut its first and last levels would be the same for many steps, clamped to the ends of the range.
    """
    high, low = math.log(model.sigma_max), math.log(model.sigma_min)
    below, above = _laplace_tail((low - mu) / b), _laplace_tail((mu - high) / b)
    # The mass of the range, from the tail that is the smaller one: 1 minus a rounded 1 would be lost.
    mass = _laplace_tail((high - mu) / b) - below if low < mu else _laplace_tail((mu - low) / b) - above
    shares = [(below + mass * left, above + mass * (1 - left)) for left in _left(steps)[1:]]
    return [model.sigma_max, *(_laplace_quantile(*share, mu, b) for share in shares)]


def _laplace_tail(z):
    """P(Z < z) for the unit Laplace distribution."""
    return 0.5 * math.exp(z) if z < 0 else 1 - 0.5 * math.exp(-z)


def _laplace_quantile(below, above, mu, b):
    """sigma with so much mass below and above, of which the smaller one is exact."""
    return math.exp(mu + b * math.log(2 * below) if below < above else mu - b * math.log(2 * above))


@schedule("Linear-quadratic", paper="arXiv:2410.13720")
def linear_quadratic(
    model,
    steps,
    *,
    threshold: Annotated[float, Range(0.001, 0.5, 0.001), "share of the way made in the linear half"] = 0.025,
):
    """Half of the steps creep linearly through the highest noise, the others speed up quadratically; in flow time.

    Polyak et al. 2024 (Movie Gen): with t = sigma / (1 + sigma), the share of the way from the highest
    to the lowest t is threshold * i / m for i <= m = n // 2, and from there the parabola of the same slope that
    reaches 1 at i = n, which is run as sigma 0.
    """
    high, low = (sigma / (1 + sigma) for sigma in (model.sigma_max, model.sigma_min))
    times = [high + (low - high) * _share(i, steps // 2, steps, threshold) for i in range(1, steps)]
    return [model.sigma_max, *(t / (1 - t) for t in times)]


def _share(i, linear, steps, threshold):
    if i <= linear:
        return threshold * i / linear
    past, rest, slope = i - linear, steps - linear, threshold / linear
    return threshold + slope * past + (1 - threshold - slope * rest) * (past / rest) ** 2


@schedule("SNR shift", paper="arXiv:2403.03206")
def snr_shift(
    model,
    steps,
    *,
    shift: Annotated[float, Range(1, 20, 0.1), "every sigma is so many times higher; SD 3 uses 3"] = 3.0,
    from_top: Annotated[
        bool, "count from the top and down to no noise, as diffusers does, where the range allows"
    ] = False,
):
    """Uniform timesteps whose sigmas are multiplied by `shift`, for flow models of large pictures.

    Esser et al. 2024, resolution-dependent shifting: t' = shift t / (1 + (shift - 1) t) is sigma' = shift * sigma,
    a shift of the log-SNR. The uniform grid starts lower, so that the shifted one starts at sigma_max. With
    `from_top` it is t_max (n - i) / n, as in diffusers' DPMSolverMultistepScheduler with flow_shift, whose first level
    alone lies above sigma_max and is sigma_max here; where a second
    one would lie there, of so many steps, the usual grid is taken.
    """
    if from_top:
        span = model.top - model.origin
        lower = [shift * model.sigma(model.origin + span * (steps - i) / steps) for i in range(1, steps)]
        if not lower or lower[0] < model.sigma_max:
            return [model.sigma_max, *lower]
    top = model.timestep(model.sigma_max / shift)
    timesteps = [model.bottom + (top - model.bottom) * (steps - i) / steps for i in range(steps)]
    return [model.sigma_max, *(shift * model.sigma(timestep) for timestep in timesteps[1:])]


def _left(steps):
    """From 1 to 0 in equal steps; 1 alone for one step."""
    return [1 - i / max(1, steps - 1) for i in range(steps)]


@hookimpl
def register_schedules():
    return [polyexponential, beta, align_your_steps, kl_optimal, laplace, linear_quadratic, snr_shift]
