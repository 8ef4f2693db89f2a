"""Checks that a sampler keeps the contract, one function each. The docstring describes the check to the author."""

from __future__ import annotations

import torch

from ..check import CheckFailed, check_calls, check_quickly, explained, fail, global_state_kept
from ..closed_form import geometric
from ..noise import Noise
from ..sampler import Stopped
from ..wrappers import Reported, Stoppable
from .sampler_under_test import LIST, LISTS, SamplerUnderTest, mixture, shown

SMALL = 1e-9


def quick(case: SamplerUnderTest) -> None:
    """The check that every plugin gets when the program starts."""
    check_quickly(case.sampler)


def sigmas_fall(case: SamplerUnderTest) -> None:
    """It yields steps whose sigmas fall, are those of the list, and end where the list ends."""
    for sigmas in LISTS:
        case.run_checked(mixture(), case.start(sigmas[0], 2), sigmas)


def form_kept(case: SamplerUnderTest) -> None:
    """Shape, dtype and device stay those of x, for any of them, and no gradients are kept."""
    for shape, dtype in (((1, 2, 3), torch.float32), ((4, 5, 3), torch.float64)):
        case.run_checked(_trainable(mixture(shape), dtype, case.device), case.start(10.0, 2, shape, dtype), LIST)


def _trainable(denoise, dtype: torch.dtype, device: str):
    """The same network with a parameter that asks for gradients, as real ones have."""
    weight = torch.ones((), dtype=dtype, device=device, requires_grad=True)
    return lambda x, sigma: denoise(x, sigma) * weight


def finite(case: SamplerUnderTest) -> None:
    """Every number is finite in float32: few steps, and the highest sigma of any model (4500)."""
    for top in (14.6, 999.0, 4500.0):
        for steps in (1, 2, 3, 7):
            sigmas = (*geometric(top, 0.03, steps - 1), 0.0) if steps > 1 else (top, 0.0)
            case.run_checked(mixture(), case.start(top, 1, dtype=torch.float32), sigmas)


def repeatable(case: SamplerUnderTest) -> None:
    """The same seeds give the same result; other seeds give another one exactly if it is stochastic."""
    x = case.start(10.0)
    first, same, other = (case.run_checked(mixture(), x, LIST, seeds).x for seeds in ((1, 2, 3), (1, 2, 3), (4, 5, 6)))
    if not torch.equal(first, same):
        fail(
            "the same result from the same seeds",
            _apart(first, same),
            f"random numbers that are not noise(x)'s, and anything kept from the run before, {case.here}",
        )
    differs = not torch.equal(first, other)
    if differs != case.stochastic:
        told = "stochastic" if case.stochastic else "deterministic"
        came = "another" if differs else "the same"
        fail(f"a sampler declared {told}", f"{came} result from other seeds", f"stochastic= of @sampler, {case.here}")


def batch_invariant(case: SamplerUnderTest) -> None:
    """A picture does not depend on the others of its batch."""
    x = case.start(10.0)
    together = case.run_checked(mixture(), x, LIST).x
    for i in range(len(x)):
        alone = case.run_checked(mixture(), x[i : i + 1], LIST, [i]).x
        if not torch.allclose(alone[0], together[i], rtol=SMALL, atol=SMALL):
            came = _apart(alone[0], together[i])
            fail(
                "a picture alone to equal itself in a batch",
                came,
                f"means, norms and solvers over the whole of x, {case.here}",
            )


def inputs_unchanged(case: SamplerUnderTest) -> None:
    """x, what denoise returned and the states already yielded are not changed in place."""
    x, exact, answers = case.start(10.0), mixture(), []

    def denoise(x: torch.Tensor, sigma: float) -> torch.Tensor:
        denoised = exact(x, sigma)
        answers.append((denoised, denoised.clone()))
        return denoised

    kept, states = x.clone(), []
    noise = Noise(range(len(x)))
    with explained(case.sampler):
        for step in case.sampler(denoise, x, LIST, noise, **case.options):
            states.append((step.x, step.x.clone()))
    for what, pairs in (("x", [(x, kept)]), ("what denoise returned", answers), ("a state already yielded", states)):
        if not all(torch.equal(now, before) for now, before in pairs):
            fail(f"{what} to stay as it was", "a change of it", f"in-place operations such as x += ..., {case.here}")


def global_state(case: SamplerUnderTest) -> None:
    """No global random generator is touched, nor PyTorch's default dtype."""
    with global_state_kept(f"random numbers that are not noise(x)'s, {case.here}"):
        case.run_checked(mixture(), case.start(10.0), LIST)


def stops(case: SamplerUnderTest) -> None:
    """When denoise raises Stopped it comes out of the run, and no network call follows."""
    total = int(case.run_checked(mixture(), case.start(10.0, 1), LIST).calls)
    for last in sorted({1, 2, total // 2, total} - {0}):
        came = _stopped_at(last, case)
        if came:
            look = f"`except`: it has to let Stopped pass, {case.here}"
            fail(f"Stopped, raised by network call {last}, to end the run", came, look)


def _stopped_at(last: int, case: SamplerUnderTest) -> str:
    """What went wrong in a run that is stopped at its network call number `last`."""
    asked: list[float] = []
    reported = Reported(mixture(), lambda sigma, denoised: asked.append(sigma))
    denoise = Stoppable(reported, lambda: len(asked) >= last)
    try:
        for _ in case.sampler(denoise, case.start(10.0, 1), LIST, Noise([0]), **case.options):
            pass
    except Stopped:
        more = len(asked) - last
        return f"{more} more network calls" if more else ""
    except Exception as error:
        return type(error).__name__
    return "a run that went on to its end"


def closes(case: SamplerUnderTest) -> None:
    """Closed after its first step, it ends without another network call."""
    asked: list[float] = []
    denoise = Reported(mixture(), lambda sigma, denoised: asked.append(sigma))
    run = case.sampler(denoise, case.start(10.0, 1), LIST, Noise([0]), **case.options)
    with explained(case.sampler):
        next(run)
        before = len(asked)
        run.close()
    if len(asked) != before:
        fail(
            "no network call after the run was closed",
            f"{len(asked) - before}",
            f"`finally` and `except GeneratorExit`, {case.here}",
        )


def options_at_ends(case: SamplerUnderTest) -> None:
    """Every option runs at both ends or with each choice; one that makes the run give up is named in the message."""
    x = case.start(10.0, 1)
    for variant in case.variants():
        settings = case.options | variant
        try:
            trace = case.run_checked(mixture(), x, LIST, **variant)
        except CheckFailed as failure:
            # Giving up is allowed (a limit on the calls, say) to a sampler that tells its user which option to change.
            if "RuntimeError" in str(failure) and any(name in str(failure) for name in variant):
                continue
            raise CheckFailed(f"with {shown(variant)}: {failure}") from None
        check_calls(case.sampler, case.sampler.count_calls(LIST, **settings), trace)


def calls_as_declared(case: SamplerUnderTest) -> None:
    """It calls the network as often as it declares, for every list of sigmas."""
    for sigmas in LISTS:
        trace = case.run_checked(mixture(), case.start(sigmas[0], 1), sigmas)
        check_calls(case.sampler, case.sampler.count_calls(sigmas, **case.options), trace)


def _apart(a: torch.Tensor, b: torch.Tensor) -> str:
    return f"results {(a - b).abs().max().item():.2g} apart"
