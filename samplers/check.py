"""Whether a plugin keeps its contract: one watched run, and the quick check that every plugin gets.

The quick check is a run of two steps on a toy denoiser; `samplers.testing` does the thorough ones.
"""

from __future__ import annotations

import contextlib
import inspect
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from types import CodeType
from typing import Any, NoReturn

import torch

from .closed_form import GaussianDenoiser
from .global_state import global_state_changed
from .noise import Noise
from .sampler import Guidance, Sampler, Schedule, Step
from .schedule import NoiseSchedule
from .wrappers import Counted, Reported

TOY = (1.0, 0.6, 0.0)
GENERATORS = frozenset({"Generator", "default_rng", "RandomState"})  # sources of random numbers beside noise(x)
MOST = 100_000  # steps and network calls, more than any sampler makes: it would go on for ever


class CheckFailed(AssertionError):
    """The contract is not kept; the message says what was expected, what came, and where to look."""


def fail(expected: str, came: str, look: str) -> NoReturn:
    """Raise CheckFailed in the one form that every failure has."""
    raise CheckFailed(f"expected {expected}; got {came}; look at {look}")


@dataclass(frozen=True, eq=False)
class Trace:
    """What a run did: its steps, the sigmas that it asked the network at, the calls per image, the draws of noise."""

    steps: tuple[Step, ...]
    asked: tuple[float, ...]
    calls: float
    draws: int

    @property
    def x(self) -> torch.Tensor:
        """The last state."""
        return self.steps[-1].x

    @property
    def sigmas(self) -> tuple[float, ...]:
        """The noise levels of the steps."""
        return tuple(float(step.sigma) for step in self.steps)


class CountedNoise(Noise):
    """Noise that knows how often a sampler drew from it; a Brownian path counts once."""

    used = 0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.used += 1
        return super().__call__(x)

    def increments(self, x: torch.Tensor) -> Callable[[float, float], torch.Tensor]:
        self.used += 1
        return super().increments(x)

    def brownian(self, x: torch.Tensor, low: float, high: float) -> Callable[[float, float], torch.Tensor]:
        self.used += 1
        return super().brownian(x, low, high)


def run_checked(
    sampler: Sampler,
    denoise: Callable[[torch.Tensor, float], torch.Tensor],
    x: torch.Tensor,
    sigmas: Sequence[float],
    seeds: Sequence[int] | None = None,
    **options: Any,
) -> Trace:
    """Run a sampler to its end and check what can be seen from outside: steps, their tensors, sigmas, finite numbers.

    Raises CheckFailed, for an error inside the sampler too. seeds are 0, 1, ... unless given.
    """
    asked: list[float] = []
    counted = Counted(denoise, len(x))

    def report(sigma: float, denoised: torch.Tensor) -> None:
        asked.append(sigma)
        if len(asked) > MOST:
            fail(f"at most {MOST} network calls", "more", f"the condition that ends the loop, {place(sampler)}")

    reported = Reported(counted, report)
    noise = CountedNoise(tuple(range(len(x))) if seeds is None else seeds)
    steps: list[Step] = []
    with explained(sampler), contextlib.closing(sampler(reported, x, sigmas, noise, **options)) as run:
        own_grid = sampler.own_grid_with(**options)
        for step in run:
            _check_step(step, x)
            _check_sigma(step.sigma, steps[-1].sigma if steps else sigmas[0], sigmas, own_grid)
            steps.append(step)
            if len(steps) > MOST:
                fail(f"at most {MOST} steps", "more", "the condition that ends the loop")
    if not steps:
        fail("Step(x, sigma, denoised) to be yielded", "no step at all", "the `yield`: it is never reached")
    if steps[-1].sigma != sigmas[-1]:
        fail(
            f"the last step at sigma {sigmas[-1]:g}",
            f"{steps[-1].sigma:g}",
            "the last pair of sigmas, which has to be run too",
        )
    return Trace(tuple(steps), tuple(asked), counted.calls, noise.used)


@contextlib.contextmanager
def global_state_kept(look: str, generators: bool = True) -> Iterator[None]:
    """Raise CheckFailed if PyTorch's default dtype or, with `generators`, random state changes; put it back."""
    with global_state_changed(generators) as changed:
        yield
    if changed:
        fail("global state to be left alone", f"a change of {' and '.join(changed)}", look)


@contextlib.contextmanager
def explained(item: Sampler | Guidance) -> Iterator[None]:
    """Turn an error from inside a sampler or a guidance into CheckFailed that names its line."""
    try:
        yield
    except CheckFailed:
        raise
    except (Exception, SystemExit) as error:
        fail("a run without an error", f"{type(error).__name__}: {error}".rstrip(": "), place(item, error))


def place(item: Sampler | Guidance, error: BaseException | None = None) -> str:
    """Where a sampler or a guidance is written, or the line of it that raised `error`."""
    code = _code_of(item)
    if code is None:
        return f"{type(item).__name__.lower()} {item.name}"
    lines = (
        [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == code.co_filename] if error else []
    )
    file = code.co_filename.replace("\\", "/").rsplit("/", 1)[-1]
    return f"line {lines[-1] if lines else code.co_firstlineno} of {file}"


def _code_of(item: Sampler | Guidance) -> CodeType | None:
    """The code of a plugin's own function; None of what is no function in Python."""
    code: CodeType | None = getattr(getattr(item.function, "__wrapped__", item.function), "__code__", None)
    return code


def _names_in(sampler: Sampler) -> Iterator[str]:
    """The names that a sampler's own code uses."""
    code = _code_of(sampler)
    codes = [code] if code else []
    while codes:
        one = codes.pop()
        yield from one.co_names
        codes += [each for each in one.co_consts if inspect.iscode(each)]


def _check_step(step: Any, x: torch.Tensor) -> None:
    if not isinstance(step, Step):
        fail("Step(x, sigma, denoised) to be yielded", f"a {type(step).__name__}", "the `yield`")
    for name in ("x", "denoised"):
        tensor, wanted = getattr(step, name), form_of(x)
        if not isinstance(tensor, torch.Tensor) or form_of(tensor) != wanted:
            came = form_of(tensor) if isinstance(tensor, torch.Tensor) else f"a {type(tensor).__name__}"
            fail(f"Step.{name} to be like x, {wanted}", came, "tensors that are made without the dtype or device of x")
        if tensor.requires_grad:
            fail("no gradients", f"Step.{name} that requires them", "@sampler, which turns them off")
        if not torch.isfinite(tensor).all():
            fail(
                f"finite numbers in Step.{name}",
                f"NaN or infinity at sigma {step.sigma}",
                "divisions and logarithms of sigma",
            )


def _check_sigma(sigma: Any, above: float, sigmas: Sequence[float], own_grid: bool) -> None:
    if isinstance(sigma, bool) or not isinstance(sigma, (int, float)):
        fail("Step.sigma to be a Python number", f"a {type(sigma).__name__}", "the second argument of Step")
    if not sigmas[-1] <= sigma < above:
        came = f"{sigma:g} after {above:g}"
        fail(
            f"sigma to fall at every step, down to {sigmas[-1]:g}",
            came,
            "the second argument of Step: the level that x is at now",
        )
    if own_grid or sigma in sigmas:
        return
    near = next((each for each in sigmas if abs(each - sigma) <= 1e-6 * each), None)
    if near is not None:
        fail(
            "steps at the given sigmas",
            f"one at {float(sigma)!r} for {near!r}",
            "sigmas in float32: yield the Python floats of the list",
        )
    fail(
        "steps at the given sigmas",
        f"one at {sigma:g}",
        "own_grid=True, which a sampler with its own grid declares",
    )


def form_of(x: torch.Tensor) -> str:
    """Shape, dtype and device of a tensor, in words."""
    return f"{tuple(x.shape)} {str(x.dtype).removeprefix('torch.')} on {x.device}"


def check_quickly(sampler: Sampler) -> str:
    """Run a sampler for two steps on a toy denoiser, in milliseconds; return what passed, for the list of plugins.

    Raises CheckFailed.
    """
    began = time.perf_counter()
    check_declarations(sampler)
    with explained(sampler):
        declared = sampler.count_calls(TOY)
        stochastic = sampler.stochastic_with()
        sampler.order_of()
    own = GENERATORS.intersection(_names_in(sampler))
    if own:
        fail("noise(x) to be the only source of randomness", f"{min(own)} in its code", place(sampler))
    x = torch.linspace(-2.0, 2.5, 16).reshape(2, 2, 2, 2)
    kept = x.clone()
    with global_state_kept(f"random numbers that are not noise(x)'s, {place(sampler)}"):
        trace = run_checked(sampler, GaussianDenoiser(), x, TOY)
    if not torch.equal(x, kept):
        fail("x to be left as it was given", "a change of it", f"in-place operations, {place(sampler)}")
    check_calls(sampler, declared, trace)
    if trace.draws and not stochastic:
        fail("no noise to be drawn, as declared", f"{trace.draws} draws", f"stochastic= of @sampler, {place(sampler)}")
    return f"steps, tensors, sigmas, calls, inputs and global state passed in {since(began)}"


def check_calls(sampler: Sampler, declared: int | None, trace: Trace) -> None:
    """Raise CheckFailed unless a run made as many calls per image as were declared; None declares nothing."""
    if declared is not None and declared != trace.calls:
        fail(f"{declared} network calls, as declared", f"{trace.calls:g}", f"calls= of @sampler, {place(sampler)}")


def check_schedule_quickly(schedule: Schedule, models: Sequence[NoiseSchedule]) -> str:
    """Make one step and three of a schedule on each model; return what passed. Raises CheckFailed."""
    began = time.perf_counter()
    check_declarations(schedule)
    for model, steps in product(models, (1, 3)):
        kind = "a flow model" if model.flow else "a model of 1000 timesteps"
        count = f"{steps} falling sigmas" if steps > 1 else "one sigma for one step"
        try:
            sigmas = schedule(model, steps)
        except (Exception, SystemExit) as error:
            fail(f"{count} on {kind}", f"{type(error).__name__}: {error}", f"schedule {schedule.name}")
        # A rounding error outside of the trained range is no harm.
        if not model.sigma_min * 0.999 <= sigmas[-2] <= sigmas[0] <= model.sigma_max * 1.001:
            trained = f"{model.sigma_min:.4g} to {model.sigma_max:.4g}"
            came = f"{sigmas[0]:.4g} to {sigmas[-2]:.4g}"
            fail(f"sigmas that {kind} was trained on, {trained}", came, f"schedule {schedule.name}")
    return f"1 and 3 steps on each kind of model passed in {since(began)}"


def since(began: float) -> str:
    """The time from `time.perf_counter()` then to now, in words."""
    return f"{1000 * (time.perf_counter() - began):.1f} ms"


def check_declarations(item: Sampler | Schedule | Guidance) -> None:
    """Raise CheckFailed where what a plugin says of itself is of a wrong type."""
    for name in ("name", "version", "paper"):
        value = getattr(item, name)
        if not isinstance(value, str) or (name == "name" and not value.strip()):
            fail(f"{name} to be a text", repr(value), f"@{type(item).__name__.lower()}")
    if not callable(item.function):
        fail("a function", repr(item.function), f"@{type(item).__name__.lower()}, which makes a {type(item).__name__}")
