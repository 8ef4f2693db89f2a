"""Flow: the probability-flow ODE solved in the time of flow matching, by an adaptive or a second-order solver.

    t = sigma / (1 + sigma)    z = x / (1 + sigma)    dz/dt = (z - D) / t = eps - x0

This is dx/dsigma = (x - D) / sigma of Song et al. 2021, arXiv:2011.13456, as the velocity of a rectified flow (Lipman
et al. 2022, arXiv:2210.02747), for any network. It is nearly straight, so that large steps are accurate.
"""

import math
from itertools import pairwise
from typing import Annotated

import torch

from samplers import Choice, Range, Step, hookimpl, sampler

ADAPTIVE = ("dopri5", "adaptive_heun")


def _adaptive(method, **_):
    return method in ADAPTIVE


def _calls(sigmas, method, **_):
    # Heun needs no second call where it lands on sigma 0.
    return None if method in ADAPTIVE else 2 * (len(sigmas) - 1) - (sigmas[-1] == 0)


@sampler(
    "Flow",
    order=lambda **o: None if _adaptive(**o) else 2,
    calls=_calls,
    own_grid=_adaptive,
    paper="arXiv:2210.02747",
    requires="torchdiffeq",
)
def flow(
    denoise,
    x,
    sigmas,
    noise,
    *,
    method: Annotated[
        str, Choice(*ADAPTIVE, "heun"), "dopri5 and adaptive_heun choose their own steps; heun uses the schedule"
    ] = "dopri5",
    tolerance: Annotated[
        float, Range(1e-10, 1e-2), "error allowed in a step; above 0.003 the picture may be another one"
    ] = 1e-3,
    max_calls: Annotated[int, Range(10, 10000), "give up after so many network calls for an image"] = 1000,
):
    solve = _solve_adaptively(method, tolerance, max_calls) if method in ADAPTIVE else _heun
    yield from solve(denoise, x, sigmas)


def _heun(denoise, x, sigmas):
    """Heun's method in z and t on the given sigmas; the step to 0 is the denoised image."""
    for sigma, lower in pairwise(sigmas):
        denoised = denoise(x, sigma)
        if lower == 0:
            x = denoised
        else:
            t, z, t_lower = sigma / (1 + sigma), x / (1 + sigma), lower / (1 + lower)
            velocity = (z - denoised) / t
            ahead = z + (t_lower - t) * velocity
            denoised = denoise(ahead * (1 + lower), lower)
            z = z + (t_lower - t) / 2 * (velocity + (ahead - denoised) / t_lower)
            x = z * (1 + lower)
        yield Step(x, lower, denoised)


def _solve_adaptively(method, tolerance, max_calls):
    """Solve from the first to the last positive sigma, each image alone; denoise once if the list ends with 0."""

    def solve(denoise, x, sigmas):
        positive = [sigma for sigma in sigmas if sigma > 0]
        paths = [
            _Path(denoise, max_calls).solve(image[None], positive[0], positive[-1], method, tolerance) for image in x
        ]
        if len(paths) == 1:
            yield from paths[0].steps
        x = torch.cat([path.end for path in paths])
        denoised = torch.cat([path.denoised for path in paths])
        if sigmas[-1] == 0:
            x = denoised = torch.cat([denoise(image[None], positive[-1]) for image in x])
        if len(paths) > 1 or sigmas[-1] == 0:
            yield Step(x, sigmas[-1], denoised)

    return solve


class _Path:
    """The velocity field of one image as torchdiffeq calls it, and the steps that the solver accepted."""

    def __init__(self, denoise, max_calls):
        self.denoise, self.max_calls, self.calls = denoise, max_calls, 0
        self.sigmas = 0.0, math.inf
        self.denoised, self.end, self.steps, self._accepted = None, None, [], []

    def __call__(self, t, z):
        if self.calls == self.max_calls:
            raise RuntimeError(f"{self.calls} network calls did not reach the end; raise max_calls or the tolerance")
        self.calls += 1
        # The solver's first trial step may overshoot the end, even to negative times, and float32 rounds the start up.
        lower, sigma = self.sigmas
        sigma = min(max(float(t) / (1 - float(t)), lower), sigma) if float(t) < 1 else sigma
        t = sigma / (1 + sigma)
        self.denoised = self.denoise(z * (1 + sigma), sigma)
        return (z - self.denoised) / t

    def callback_accept_step(self, t, z, dt):
        self._accepted.append((float(t), z, self.denoised))

    def solve(self, x, sigma, lower, method, tolerance):
        # It brings scipy.integrate along, which takes longer to import than all other plugins together.
        from torchdiffeq import odeint

        if sigma == lower:
            self.end = self.denoised = x
            return self
        # Apple's GPUs have no float64; elsewhere it keeps the solver's clock exact.
        dtype = torch.float32 if x.device.type == "mps" else torch.float64
        times = torch.tensor([sigma / (1 + sigma), lower / (1 + lower)], dtype=dtype, device=x.device)
        # Landing on the end keeps the solver from asking below the lowest trained noise level.
        options = dict(step_t=times[1:], dtype=dtype)
        self.sigmas = lower, sigma
        try:
            z = odeint(self, x / (1 + sigma), times, rtol=tolerance, atol=tolerance, method=method, options=options)[-1]
        except AssertionError as error:
            # torchdiffeq's own "underflow in dt" and "non-finite values in state", the latter with the whole state.
            if type(error) is not AssertionError:
                raise
            reason = "the network's output is not finite, or the tolerance is too tight"
            raise RuntimeError(f"the solver's steps became too small: {reason}") from error
        self.end = z * (1 + lower)
        starts = [(t / (1 - t), z * (1 / (1 - t))) for t, z, _ in self._accepted[1:]] + [(lower, self.end)]
        self.steps = [Step(x, sigma, d) for (sigma, x), (_, _, d) in zip(starts, self._accepted)]
        return self


@hookimpl
def register_samplers():
    return [flow]
