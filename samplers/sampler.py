"""The contract of a sampler, of a schedule and of a guidance.

A sampler is a generator function `(denoise, x, sigmas, noise, *, options)` that yields x at falling noise levels:

    @sampler("Euler", order=1, calls=1)
    def euler(denoise, x, sigmas, noise):
        for sigma, lower in pairwise(sigmas):
            denoised = denoise(x, sigma)
            x = x + (lower - sigma) * (x - denoised) / sigma
            yield Step(x, lower, denoised)

x          float tensor (images, channels, height, width): x0 + sigma * eps, on every model
sigmas     tuple of Python floats, falling; the last is 0 for a whole run and may be more; fixed before the run
denoise    denoise(x, sigma) is the estimate of x0; it raises Stopped when the user stops: let it pass.
           denoise.parts(x, sigma) is (guided, conditional, unconditional), one call; denoise.model, the NoiseSchedule
noise      noise(x) is fresh unit noise shaped like x; noise.brownian(x, low, high) is one path for SDEs
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pluggy
import torch

from .estimates import CheckedDenoise, Denoise
from .options import Option, read_options, resolve
from .schedule import NoiseSchedule

COEFFICIENTS = "coefficients"  # the argument of a sampler that is calibrated
PROJECT = "sigmalab"  # pluggy's project name and the entry-point group of plugin packages
hookimpl = pluggy.HookimplMarker(PROJECT)


class Stopped(Exception):
    """Raised by `denoise` after the user pressed Stop; a sampler lets it pass."""


class GuidanceFailed(RuntimeError):
    """A guidance broke its contract or raised while drawing; the message names it and the line."""


@dataclass(frozen=True, eq=False)
class Step:
    """The state `x` at noise level `sigma`, and the estimate of x0 that led to it (what a preview shows)."""

    x: torch.Tensor
    sigma: float
    denoised: torch.Tensor


Steps = Generator[Step, None, None]


@dataclass(frozen=True)
class Sampler:
    """A sampler function and what it declares of itself; made by `@sampler`."""

    name: str
    function: Callable[..., Steps]
    options: tuple[Option, ...]
    order: Any = None
    calls: Any = None
    stochastic: Any = False
    own_grid: Any = False
    version: str = "1"
    paper: str = ""
    requires: str = ""
    distilled: bool = False
    resizes: bool = False
    calibrate: Callable[..., Mapping[str, Any]] | None = None

    def __call__(self, denoise: Denoise, x, sigmas, noise, *, coefficients=None, **options) -> Steps:
        """Start a run: the steps of this sampler. Raises ValueError on an unknown or out-of-range option.

        coefficients  what `calibrate` returned for these sigmas; None for a sampler without it, or without a fit
        """
        sigmas = tuple(sigmas)
        given = self.resolve(options) if self.calibrate else self.resolve(options | _as_option(coefficients))
        given |= {COEFFICIENTS: coefficients} if self.calibrate else {}
        return self.function(CheckedDenoise(denoise, sigmas), x, sigmas, noise, **given)

    def resolve(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """All options' values, checked; ValueError names what is allowed."""
        return resolve(f"sampler {self.name}", self.options, options)

    def order_of(self, **options) -> int | None:
        """The declared order of accuracy with these options."""
        return _declared(self.order, **self.resolve(options))

    def stochastic_with(self, **options) -> bool:
        """Whether a run with these options draws noise of its own."""
        return bool(_declared(self.stochastic, **self.resolve(options)))

    def own_grid_with(self, **options) -> bool:
        """Whether a run with these options makes its own grid from the first and last positive sigma."""
        return bool(_declared(self.own_grid, **self.resolve(options)))

    def calls_per_step(self, **options) -> float | None:
        """The mean over a run of 20 steps: below 2 for Heun, whose step to sigma 0 needs one; None if a run tells."""
        calls = self.count_calls((*map(float, range(20, 0, -1)), 0.0), **options)
        return None if calls is None else calls / 20

    def count_calls(self, sigmas: Sequence[float], **options) -> int | None:
        """The declared number of denoise calls for this list of sigmas; None when only a run can tell."""
        if callable(self.calls):
            return self.calls(tuple(sigmas), **self.resolve(options))
        return None if self.calls is None else self.calls * (len(sigmas) - 1)


@dataclass(frozen=True)
class Schedule:
    """A schedule function and its options; made by `@schedule`."""

    name: str
    function: Callable[..., Sequence[float]]
    options: tuple[Option, ...]
    version: str = "1"
    paper: str = ""
    calibrate: Callable[..., Mapping[str, Any]] | None = None

    def __call__(self, model, steps: int, *, coefficients=None, **options) -> tuple[float, ...]:
        """The sigmas of a run of `steps` steps on `model` (a `samplers.schedule.NoiseSchedule`): falling, then 0.

        coefficients  what `calibrate` returned for so many steps, as for a sampler
        Raises ValueError on bad options and when the function's numbers are not `steps` falling positive ones.
        """
        given = self.resolve(options) if self.calibrate else self.resolve(options | _as_option(coefficients))
        given |= {COEFFICIENTS: coefficients} if self.calibrate else {}
        sigmas = tuple(float(sigma) for sigma in self.function(model, steps, **given))
        falling = (
            all(0 < b < a < float("inf") for a, b in zip(sigmas, sigmas[1:] + (sigmas[-1] / 2,))) if sigmas else False
        )
        if len(sigmas) != steps or not falling:
            raise ValueError(f"schedule {self.name} did not give {steps} falling positive sigmas, but {_brief(sigmas)}")
        return (*sigmas, 0.0)

    def resolve(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """All options' values, checked; ValueError names what is allowed."""
        return resolve(f"schedule {self.name}", self.options, options)


class GuidanceState(dict[Any, Any]):
    """What a guidance keeps between the calls of one run, under keys of its own, and what it may know of a call.

    x       the state x0 + sigma * eps that the estimates are of
    sigmas  the list of the run, falling; () where a denoiser is asked outside of a run
    model   the noise levels of the network
    """

    def __init__(self, x: torch.Tensor, sigmas: Sequence[float], model: NoiseSchedule):
        super().__init__()
        self.x, self.sigmas, self.model = x, tuple(sigmas), model


@dataclass(frozen=True)
class Guidance:
    """A guidance function and what it declares of itself; made by `@guidance`."""

    name: str
    function: Callable[..., torch.Tensor]
    options: tuple[Option, ...]
    skip: Callable[..., bool] | None = None
    linear: bool = False
    version: str = "1"
    paper: str = ""

    def __call__(self, conditional, unconditional, sigma: float, scale: float, state, **options) -> torch.Tensor:
        """The guided estimate, like `conditional`; `options` are resolved ones."""
        return self.function(conditional, unconditional, sigma, scale, state, **options)

    def skips(self, sigma: float, scale: float, state, **options) -> bool:
        """Whether the conditional estimate alone is the guided one at this call, which then costs half."""
        return self.skip is not None and bool(self.skip(sigma, scale, state, **options))

    def resolve(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """All options' values, checked; ValueError names what is allowed."""
        return resolve(f"guidance {self.name}", self.options, options)


def sampler(
    name: str,
    *,
    order=None,
    calls=None,
    stochastic=False,
    own_grid=False,
    version="1",
    paper="",
    requires="",
    distilled=False,
    resizes=False,
    calibrate=None,
):
    """Make a generator function a `Sampler`.

    order       order of accuracy in the step size, measured by the tests; None if it has none
    calls       denoise calls a step, or a function (sigmas, **options) of the whole run; None if only a run tells
    stochastic  draws noise of its own
    own_grid    takes only the first and the last positive sigma and makes its own steps
    requires    a large package that it imports when it runs: its check at start is then put off
    distilled   takes an estimate for the end of the flow, as networks distilled for it answer: biased on others
    resizes     asks the network at other sizes than that of x: it then cannot run beside a mask
    calibrate   a function (denoise, starts, sigmas, noise) -> numbers that fit the sampler to a model, a dict of JSON
                data. The sampler has a keyword argument `coefficients=None`: those of a fit to its sigmas, or None, for
                which it runs as well as it can. `starts` are states at sigmas[0], one of each picture; denoise is a
                `samplers.fitting_denoiser.FittingDenoise`: it also takes a whole multiple of them, the same pictures
                again and again, `denoise.first(count)` is that of the first ones alone, and
                `denoise.ends(starts, sigma)` is what runs should end with.
    order, stochastic and own_grid may be functions (**options) too.
    """

    def decorate(function: Callable[..., Steps]) -> Sampler:
        if not inspect.isgeneratorfunction(function):
            raise TypeError(f"{function.__name__}() must be a generator: it has to yield Step(x, sigma, denoised)")
        own = (COEFFICIENTS,) if calibrate else ()
        options = read_options(function, ("denoise", "x", "sigmas", "noise"), own)
        # no_grad must wrap the generator function itself: a `with` around a yield leaks into other threads.
        quiet = torch.no_grad()(function)
        return Sampler(
            name,
            functools.wraps(function)(quiet),
            options,
            order,
            calls,
            stochastic,
            own_grid,
            version,
            paper,
            requires,
            distilled,
            resizes,
            calibrate and torch.no_grad()(calibrate),
        )

    return decorate


def schedule(name: str, *, version="1", paper="", calibrate=None):
    """Make a function (model, steps, *, options) -> `steps` falling positive sigmas a `Schedule`; the 0 is added.

    calibrate  a function (denoise, starts, steps, noise) -> numbers that fit it to a model, as for `sampler`; `starts`
               are states at the model's sigma_max. The schedule then has a keyword argument `coefficients=None`, too.
    """

    def decorate(function: Callable[..., Sequence[float]]) -> Schedule:
        options = read_options(function, ("model", "steps"), (COEFFICIENTS,) if calibrate else ())
        return Schedule(name, function, options, version, paper, calibrate and torch.no_grad()(calibrate))

    return decorate


def guidance(name: str, *, skip=None, linear=False, version="1", paper=""):
    """Make a function (conditional, unconditional, sigma, scale, state, *, options) -> guided a `Guidance`.

    All three are estimates of x0 (images, channels, height, width). `state` is the `GuidanceState` of the run, empty
    when it begins. The guidance scale is neither 0 nor 1: there one estimate is enough, and no guidance is asked.

    skip    a function (sigma, scale, state, **options): whether this call needs the conditional estimate alone
    linear  guided is a sum of the two with weights that add up to 1 and depend on sigma and scale alone: it is then
            given the network's outputs, which saves converting both
    """

    def decorate(function: Callable[..., torch.Tensor]) -> Guidance:
        names = ("conditional", "unconditional", "sigma", "scale", "state")
        return Guidance(name, function, read_options(function, names), skip, linear, version, paper)

    return decorate


def _as_option(coefficients: Any) -> dict[str, Any]:
    """What is no sampler's or schedule's coefficients is an option of that name."""
    return {} if coefficients is None else {COEFFICIENTS: coefficients}


def _declared(value: Any, **options) -> Any:
    return value(**options) if callable(value) else value


def _brief(sigmas: Sequence[float]) -> str:
    shown = ", ".join(f"{sigma:g}" for sigma in sigmas[:4])
    return f"{len(sigmas)} numbers: {shown}{' ...' if len(sigmas) > 4 else ''}"
