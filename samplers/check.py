"""Whether a plugin keeps its contract: one watched run, and the quick check that every plugin gets.

The quick check is a run of two steps on a toy denoiser; `samplers.testing` does the thorough ones.
"""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch

from .closed_form import GaussianDenoiser
from .global_state import global_state_changed
from .noise import Noise
from .sampler import Guidance, GuidanceState, Sampler, Schedule, Step
from .schedule import NoiseSchedule, stable_diffusion
from .wrappers import Counted, Reported

TOY = (1.0, 0.6, 0.0)
TOY_LEVELS, TOY_SCALE = (8.0, 1.0, 0.2), 5.0  # noise levels and scale that a guidance is tried at
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
    code = getattr(getattr(item.function, "__wrapped__", item.function), "__code__", None)
    if code is None:
        return f"{type(item).__name__.lower()} {item.name}"
    lines = (
        [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == code.co_filename] if error else []
    )
    file = code.co_filename.replace("\\", "/").rsplit("/", 1)[-1]
    return f"line {lines[-1] if lines else code.co_firstlineno} of {file}"


def _check_step(step: Any, x: torch.Tensor) -> None:
    if not isinstance(step, Step):
        fail("Step(x, sigma, denoised) to be yielded", f"a {type(step).__name__}", "the `yield`")
    for name in ("x", "denoised"):
        tensor, wanted = getattr(step, name), _form(x)
        if not isinstance(tensor, torch.Tensor) or _form(tensor) != wanted:
            came = _form(tensor) if isinstance(tensor, torch.Tensor) else f"a {type(tensor).__name__}"
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
    if not own_grid and sigma not in sigmas:
        fail(
            "steps at the given sigmas",
            f"one at {sigma:g}",
            "own_grid=True, which a sampler with its own grid declares",
        )


def _form(x: torch.Tensor) -> str:
    return f"{tuple(x.shape)} {str(x.dtype).removeprefix('torch.')} on {x.device}"


def check_quickly(sampler: Sampler) -> str:
    """Run a sampler for two steps on a toy denoiser, in milliseconds; return what passed, for the list of plugins.

    Raises CheckFailed.
    """
    began = time.perf_counter()
    _check_declarations(sampler)
    with explained(sampler):
        declared = sampler.count_calls(TOY)
        _ = sampler.order_of(), sampler.stochastic_with()
    x = torch.linspace(-2.0, 2.5, 16).reshape(2, 2, 2, 2)
    kept = x.clone()
    with global_state_kept(f"random numbers that are not noise(x)'s, {place(sampler)}"):
        trace = run_checked(sampler, GaussianDenoiser(), x, TOY)
    if not torch.equal(x, kept):
        fail("x to be left as it was given", "a change of it", f"in-place operations, {place(sampler)}")
    check_calls(sampler, declared, trace)
    return f"steps, tensors, sigmas, calls, inputs and global state passed in {_since(began)}"


def check_calls(sampler: Sampler, declared: int | None, trace: Trace) -> None:
    """Raise CheckFailed unless a run made as many calls per image as were declared; None declares nothing."""
    if declared is not None and declared != trace.calls:
        fail(f"{declared} network calls, as declared", f"{trace.calls:g}", f"calls= of @sampler, {place(sampler)}")


def check_schedule_quickly(schedule: Schedule, models: Sequence[NoiseSchedule]) -> str:
    """Make three steps of a schedule on each model; return what passed. Raises CheckFailed."""
    began = time.perf_counter()
    _check_declarations(schedule)
    for model in models:
        try:
            schedule(model, 3)
        except (Exception, SystemExit) as error:
            kind = "a flow model" if model.flow else "a model of 1000 timesteps"
            fail(f"3 falling sigmas on {kind}", f"{type(error).__name__}: {error}", f"schedule {schedule.name}")
    return f"3 steps on each kind of model passed in {_since(began)}"


def check_guidance_quickly(guidance: Guidance, shape: Sequence[int] = (2, 2, 4, 4), **options: Any) -> str:
    """Guide two pictures down three noise levels; return what passed. Raises CheckFailed.

    The guided estimates are finite, like the conditional ones and, for each picture, the same when it is alone; nothing
    is changed in place.
    """
    began = time.perf_counter()
    _check_declarations(guidance)
    generator = torch.Generator().manual_seed(0)
    x, first, second = torch.randn(3, *shape, generator=generator).unbind()
    kept = [each.clone() for each in (x, first, second)]
    with global_state_kept(f"random numbers, {place(guidance)}"), explained(guidance), torch.no_grad():
        together = _guide(guidance, x, first, second, options)
        alone = [_guide(guidance, x[i : i + 1], first[i : i + 1], second[i : i + 1], options) for i in range(len(x))]
    if any(not torch.equal(now, before) for now, before in zip((x, first, second), kept, strict=True)):
        fail("its inputs to be left as they were given", "a change of them", f"in-place operations, {place(guidance)}")
    for level, (guided, *each) in enumerate(zip(together, *alone, strict=True)):
        if not torch.isfinite(guided).all():
            fail("finite numbers", f"NaN or infinity at sigma {TOY_LEVELS[level]:g}", f"divisions, {place(guidance)}")
        if not torch.allclose(guided, torch.cat(each), rtol=1e-4, atol=1e-5):
            fail(
                "a picture alone to equal itself in a batch",
                "another one",
                f"sums over the first axis, the pictures, and decisions for all of them at once, {place(guidance)}",
            )
    return f"estimates, pictures apart, inputs and global state passed in {_since(began)}"


def _guide(guidance: Guidance, x, conditional, unconditional, options) -> list[torch.Tensor]:
    """What a guidance makes of estimates at TOY_LEVELS; where it skips the unconditional one, the conditional one."""
    resolved, made = guidance.resolve(options), []
    state = GuidanceState(x, (*TOY_LEVELS, 0.0), stable_diffusion())
    for sigma in TOY_LEVELS:
        if guidance.skips(sigma, TOY_SCALE, state, **resolved):
            made.append(conditional)
            continue
        guided = guidance(conditional, unconditional, sigma, TOY_SCALE, state, **resolved)
        if not isinstance(guided, torch.Tensor) or _form(guided) != _form(conditional):
            came = _form(guided) if isinstance(guided, torch.Tensor) else f"a {type(guided).__name__}"
            fail(f"a guided estimate like the conditional one, {_form(conditional)}", came, place(guidance))
        made.append(guided)
    return made


def _since(began: float) -> str:
    return f"{1000 * (time.perf_counter() - began):.1f} ms"


def _check_declarations(item: Sampler | Schedule | Guidance) -> None:
    for name in ("name", "version", "paper"):
        value = getattr(item, name)
        if not isinstance(value, str) or (name == "name" and not value.strip()):
            fail(f"{name} to be a text", repr(value), f"@{type(item).__name__.lower()}")
    if not callable(item.function):
        fail("a function", repr(item.function), f"@{type(item).__name__.lower()}, which makes a {type(item).__name__}")
