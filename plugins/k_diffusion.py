"""k-diffusion's samplers under our contract: Katherine Crowson's functions themselves, run on our sigmas and noise.

The package is found when the plugin loads and imported at the first run: its submodule `sampling` alone, under a
private name, because importing the whole package fails with today's setuptools (and `import k_diffusion` stays as it
was for everybody else). Its functions are blocking loops: those that remember earlier steps yield theirs when they
are done, the others run step by step; previews and Stop go through `denoise`. They run in double precision, so that
the sigmas they ask for are exactly ours. On a GPU every step waits for it, because their loops compare sigmas there.
"""

import importlib
import importlib.util
import sys
import types
from functools import partial
from itertools import pairwise
from typing import Annotated

import torch
from torch.overrides import TorchFunctionMode

from samplers import Choice, Range, Step, hookimpl, sampler

PRIVATE = "sigmalab_k_diffusion"
bridged = partial(sampler, requires="k_diffusion")

Eta = Annotated[float, Range(0, 1, 0.05), "share of fresh noise: 0 is deterministic"]
Noise = Annotated[float, Range(0.9, 1.1, 0.001), "scale of the added noise (s_noise)"]
Churn = Annotated[float, Range(0, 100, 0.5), "noise added and removed again, in all (s_churn); 0 is the plain ODE"]
MaxCalls = Annotated[int, Range(10, 10000), "give up after so many network calls for an image"]


def _folders():
    """Where the package lies; nowhere if it is not installed. Nothing is imported."""
    if "k_diffusion" in sys.modules:
        return list(getattr(sys.modules["k_diffusion"], "__path__", []))
    spec = importlib.util.find_spec("k_diffusion")
    return list(spec.submodule_search_locations or ()) if spec else []


if not _folders():
    raise ImportError("the package k-diffusion is not installed; `pip install k-diffusion==0.0.16` brings it")


def _sampling():
    """The module k_diffusion.sampling, imported once as PRIVATE.sampling without running the package's __init__."""
    if PRIVATE not in sys.modules:
        parent = types.ModuleType(PRIVATE)
        parent.__path__ = _folders()
        sys.modules[PRIVATE] = parent
    return importlib.import_module(f"{PRIVATE}.sampling")


class _OwnNoise(TorchFunctionMode):
    """While entered, torch.randn_like answers from our streams; the first samplers call it directly."""

    def __init__(self, noise):
        super().__init__()
        self.noise = noise

    def __torch_function__(self, function, types, args=(), kwargs=None):
        return self.noise(args[0]) if function is torch.randn_like else function(*args, **(kwargs or {}))


class _Model:
    """denoise as k-diffusion calls it: sigma comes as one number per image, and x in double precision."""

    def __init__(self, denoise, dtype, own, limit=None):
        self.denoise, self.dtype, self.own, self.limit, self.calls = denoise, dtype, own, limit, 0

    def __call__(self, x, sigma):
        if self.calls == self.limit:
            raise RuntimeError(f"{self.calls} network calls did not reach the end; raise max_calls or the tolerance")
        self.calls += 1
        # The network draws nothing from us, and torch would be slower for it with the mode on.
        self.own.__exit__(None, None, None)
        try:
            return self.denoise(x.to(self.dtype), float(sigma[0])).to(x)
        finally:
            self.own.__enter__()


def _precise(x):
    # Apple's GPUs have no float64.
    return x if x.device.type == "mps" else x.double()


def _run(name, denoise, x, sigmas, noise, **options):
    """All steps of `sample_<name>` on the given sigmas."""
    dtype, start, states = x.dtype, _precise(x), []
    if name in ("dpmpp_2m_sde", "dpmpp_3m_sde") and sigmas[1] == 0:
        # One step alone, to sigma 0, fails in these two (a variable is unset); a Euler step to 0 denoises just so.
        name, options = "euler", {}
    with _OwnNoise(noise) as own:
        end = getattr(_sampling(), f"sample_{name}")(
            _Model(denoise, dtype, own),
            start,
            torch.tensor(sigmas, dtype=start.dtype, device=x.device),
            callback=lambda info: states.append((info["x"].to(dtype), info["denoised"].to(dtype))),
            disable=True,
            **options,
        ).to(dtype)
    after = [state for state, _ in states[1:]] + [end]
    for state, lower, (_, denoised) in zip(after, sigmas[1:], states, strict=True):
        yield Step(state, lower, denoised)


def _one_by_one(name, denoise, x, sigmas, noise, **options):
    """The same for a function without memory, each step yielded when it is done.

    With churn it also gives the true states: the function reports them with the noise already added.
    """
    for pair in pairwise(sigmas):
        for step in _run(name, denoise, x, pair, noise, **options):
            x = step.x
            yield step


def _white(x, sigmas, noise, eta):
    """A noise sampler of independent draws; without eta its noise would be multiplied by 0, so none is drawn."""
    return (lambda sigma, lower: noise(x)) if eta > 0 else (lambda sigma, lower: 0.0)


def _path(x, sigmas, noise, eta):
    """A noise sampler that reads one Brownian path per image, which solvers with inner steps need."""
    low, high = min(sigma for sigma in sigmas if sigma > 0), sigmas[0]
    increments: list = []

    def sample(sigma, lower):
        if not increments:
            increments.append(noise.brownian(x, low, high))
        # exp(log(sigma)) may land a rounding error outside of the path.
        return increments[0](*(min(max(float(s), low), high) for s in (sigma, lower)))

    return sample if eta > 0 else (lambda sigma, lower: 0.0)


def _twice(sigmas, **_):
    # The step that lands on sigma 0 needs no second call.
    return 2 * (len(sigmas) - 1) - (sigmas[-1] == 0)


def _noisy(eta, **_):
    return eta > 0


def _without(noise_option, order):
    """The order of the solver that is left when this option is 0."""
    return lambda **options: order if options[noise_option] == 0 else None


def _churned(label, name, order, calls):
    """The bridge to one of the samplers of Karras et al.: without churn, an ODE solver of this order."""

    @bridged(
        f"k-diffusion {label}",
        order=_without("s_churn", order),
        calls=calls,
        stochastic=lambda s_churn, **_: s_churn > 0,
        paper="arXiv:2206.00364",
    )
    def run(denoise, x, sigmas, noise, *, s_churn: Churn = 0.0, s_noise: Noise = 1.0):
        # It draws noise without churn too, and drops it. Its churn is shared out among the steps of a list.
        drawn, share = noise if s_churn > 0 else torch.zeros_like, s_churn / (len(sigmas) - 1)
        yield from _one_by_one(name, denoise, x, sigmas, drawn, s_churn=share, s_noise=s_noise)

    return run


def _ancestral(label, name, order, calls, source, paper="", run_steps=_one_by_one):
    """The bridge to one that adds fresh noise from `source`: without noise, an ODE solver of this order."""

    @bridged(
        f"k-diffusion {label}",
        order=_without("eta", order),
        calls=calls,
        stochastic=_noisy,
        paper=paper,
    )
    def run(denoise, x, sigmas, noise, *, eta: Eta = 1.0, s_noise: Noise = 1.0):
        options = dict(eta=eta, s_noise=s_noise, noise_sampler=source(x, sigmas, noise, eta))
        yield from run_steps(name, denoise, x, sigmas, noise, **options)

    return run


@bridged("k-diffusion LMS", order=lambda order: min(order, 2), calls=1)
def lms(denoise, x, sigmas, noise, *, order: Annotated[int, Range(1, 4), "how many derivatives it remembers"] = 4):
    yield from _run("lms", denoise, x, sigmas, noise, order=order)


@bridged("k-diffusion DPM++ 2M", order=2, calls=1, paper="arXiv:2211.01095")
def dpmpp_2m(denoise, x, sigmas, noise):
    yield from _run("dpmpp_2m", denoise, x, sigmas, noise)


@bridged("k-diffusion DPM++ 2M SDE", order=_without("eta", 2), calls=1, stochastic=_noisy, paper="arXiv:2211.01095")
def dpmpp_2m_sde(
    denoise,
    x,
    sigmas,
    noise,
    *,
    eta: Eta = 1.0,
    s_noise: Noise = 1.0,
    solver_type: Annotated[str, Choice("midpoint", "heun"), "how the second-order term is integrated"] = "midpoint",
):
    fresh = _path(x, sigmas, noise, eta)
    options = dict(eta=eta, s_noise=s_noise, solver_type=solver_type, noise_sampler=fresh)
    yield from _run("dpmpp_2m_sde", denoise, x, sigmas, noise, **options)


def _between(name, denoise, x, sigmas, noise, limit=None, **options):
    """The steps of a function that makes its own grid from the highest to the lowest sigma, then one denoising."""
    positive = [sigma for sigma in sigmas if sigma > 0]
    states, end = [], x
    if len(positive) > 1:
        with _OwnNoise(noise) as own:
            end = getattr(_sampling(), f"sample_{name}")(
                _Model(denoise, x.dtype, own, limit),
                _precise(x),
                positive[-1],
                positive[0],
                callback=lambda info: states.append((info["x"].to(x), float(info["sigma"]), info["denoised"].to(x))),
                disable=True,
                **options,
            ).to(x)
    yield from _grid(name, states, end, positive)
    if sigmas[-1] == 0:
        denoised = denoise(end, positive[-1])
        yield Step(denoised, 0.0, denoised)


def _grid(name, states, end, positive):
    # DPM fast reports the start of each step, DPM adaptive its end, and a rejected step again where it began.
    if name == "dpm_fast":
        after = [(x, sigma) for x, sigma, _ in states[1:]] + [(end, positive[-1])]
        yield from (Step(x, sigma, denoised) for (x, sigma), (_, _, denoised) in zip(after, states))
        return
    reached = positive[0]
    for x, sigma, denoised in states:
        if sigma < reached * (1 - 1e-6):
            reached = max(sigma, positive[-1])
            yield Step(x, reached if x is not states[-1][0] else positive[-1], denoised)


@bridged("k-diffusion DPM fast", calls=1, stochastic=_noisy, own_grid=True, paper="arXiv:2206.00927")
def dpm_fast(denoise, x, sigmas, noise, *, eta: Eta = 0.0, s_noise: Noise = 1.0):
    n = len(sigmas) - 1 - (sigmas[-1] == 0)
    fresh = _white(x, sigmas, noise, eta)
    yield from _between("dpm_fast", denoise, x, sigmas, noise, n=n, eta=eta, s_noise=s_noise, noise_sampler=fresh)


@bridged("k-diffusion DPM adaptive", stochastic=_noisy, own_grid=True, paper="arXiv:2206.00927")
def dpm_adaptive(
    denoise,
    x,
    sigmas,
    noise,
    *,
    order: Annotated[int, Range(2, 3), "2: DPM-Solver-12, 3: DPM-Solver-23"] = 3,
    rtol: Annotated[float, Range(1e-5, 0.2), "relative error allowed in a step; flow models need 0.001"] = 0.05,
    atol: Annotated[float, Range(1e-5, 0.2), "absolute error allowed in a step"] = 0.0078,
    eta: Eta = 0.0,
    s_noise: Noise = 1.0,
    max_calls: MaxCalls = 1000,
):
    """Its error on a unit Gaussian is 0.03 in Stable Diffusion's range, 1.9 in a flow model's, 0.0025 at rtol 0.001."""
    # Its error norm is over the whole batch: image by image, one does not depend on the others.
    fresh, steps = _path(x, sigmas, noise, eta), []
    for index in range(len(x)):
        own = (lambda s, lower, i=index: fresh(s, lower)[i : i + 1]) if eta > 0 else fresh
        options = dict(order=order, rtol=rtol, atol=atol, eta=eta, s_noise=s_noise, noise_sampler=own)
        steps.append(list(_between("dpm_adaptive", denoise, x[index : index + 1], sigmas, noise, max_calls, **options)))
    if len(steps) == 1:
        yield from steps[0]
    else:
        last = [each[-1] for each in steps]
        yield Step(torch.cat([s.x for s in last]), last[0].sigma, torch.cat([s.denoised for s in last]))


@hookimpl
def register_samplers():
    solvers = "arXiv:2211.01095"
    return [
        _churned("Euler", "euler", 1, 1),
        _churned("Heun", "heun", 2, _twice),
        _churned("DPM2", "dpm_2", 2, _twice),
        lms,
        dpmpp_2m,
        dpm_fast,
        dpm_adaptive,
        _ancestral("Euler ancestral", "euler_ancestral", 1, 1, _white),
        _ancestral("DPM2 ancestral", "dpm_2_ancestral", 2, _twice, _white, "arXiv:2206.00927"),
        _ancestral("DPM++ 2S ancestral", "dpmpp_2s_ancestral", 2, _twice, _white, solvers),
        _ancestral("DPM++ SDE", "dpmpp_sde", 2, _twice, _path, solvers),
        dpmpp_2m_sde,
        _ancestral("DPM++ 3M SDE", "dpmpp_3m_sde", 2, 1, _path, solvers, _run),
    ]
