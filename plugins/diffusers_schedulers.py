"""Schedulers of diffusers as samplers: their `step` methods run on our sigmas, our scaling and our noise.

A scheduler comes with noise levels of its own; here it gets exactly ours, in one of two ways. Those that look alphas
up in a table (DDIM, DDPM, PNDM) get a table of our levels alone, so that a timestep is an index into it. The others
keep a list of sigmas, which is ours. The state is scaled to what they expect and back, in double precision where
they let it. Their torch.randn is answered by our streams. diffusers is imported at the first run.
"""

import importlib
import importlib.util
import math
from functools import partial
from itertools import pairwise
from typing import Annotated

import torch
from torch.overrides import TorchFunctionMode

from samplers import Choice, Range, Step, hookimpl, sampler

if importlib.util.find_spec("diffusers") is None:
    raise ImportError("the package diffusers is not installed; `pip install diffusers` brings it")

bridged = partial(sampler, requires="diffusers")

Kind = Annotated[str, Choice("ODE", "SDE"), "ODE: deterministic; SDE: with fresh noise"]
Order = Annotated[int, Range(1, 3), "of the multistep formula"]


class _OwnNoise(TorchFunctionMode):
    """While entered, torch.randn gives the next draw of our streams; diffusers asks for it in the shape of x."""

    def __init__(self, noise, x):
        super().__init__()
        self.noise, self.x = noise, x

    def __torch_function__(self, function, types, args=(), kwargs=None):
        return self.noise(self.x) if function is torch.randn else function(*args, **(kwargs or {}))


class _Scheduler:
    """One scheduler, made for one run, and the scaling and the network output that it wants.

    scale   of the state: "exploding" x0 + sigma eps, "preserving" alpha x0 + sqrt(1 - alpha^2) eps,
            "flow" (1 - t) x0 + t eps
    output  "x0", "eps", "v", or "velocity" eps - x0
    """

    def __init__(self, name, x, scale="preserving", output="x0", **config):
        if output in ("x0", "eps"):
            config["prediction_type"] = "sample" if output == "x0" else "epsilon"
        self.own = getattr(importlib.import_module("diffusers"), name)(**config)
        self.scale, self.output = scale, output
        # Apple's GPUs have no float64.
        self.dtype = torch.float32 if x.device.type == "mps" else torch.float64

    def use(self, sigmas, steps):
        """Set the very list that `steps` steps run on."""
        self.own.set_timesteps(steps)
        self.own.sigmas = torch.tensor(sigmas, dtype=self.dtype)
        self.own.timesteps = torch.arange(steps, 0, -1, dtype=torch.float32)
        self.own.set_begin_index(0)
        self.own.is_scale_input_called = True
        return self

    def factor(self, sigma):
        if self.scale == "exploding":
            return 1.0
        return 1 / (1 + sigma) if self.scale == "flow" else 1 / math.sqrt(1 + sigma * sigma)

    def step(self, denoised, x, sigma, lower, noise, time=1.0, **options):
        """x at `lower`, from the network's estimate of x0 at sigma."""
        state, denoised = x.to(self.dtype), denoised.to(self.dtype)
        output = denoised if self.output == "x0" else (state - denoised) / sigma
        if self.output == "v":
            output = self.factor(sigma) * (output - sigma * denoised)
        if self.output == "velocity":
            output = output - denoised
        with _OwnNoise(noise, x):
            (state, *_) = self.own.step(output, time, state * self.factor(sigma), return_dict=False, **options)
        return (state / self.factor(lower)).to(x)


def _run(scheduler, denoise, x, sigmas, noise, times=None, **options):
    """The plain loop: one call and one step per pair of sigmas."""
    for (sigma, lower), time in zip(pairwise(sigmas), times or [1.0] * len(sigmas)):
        denoised = denoise(x, sigma)
        x = scheduler.step(denoised, x, sigma, lower, noise, time, **options)
        yield Step(x, lower, denoised)


def _table(name, x, sigmas, output="x0", **config):
    """A scheduler whose table of alphas holds our positive sigmas and nothing else, and its timesteps for them."""
    levels = sorted(sigma for sigma in sigmas if sigma > 0)
    # The betas only say how long the table is: what comes of them is replaced by our levels, in double precision.
    config |= dict(num_train_timesteps=len(levels), trained_betas=[0.5] * len(levels))
    scheduler = _Scheduler(name, x, "preserving", output, **config)
    scheduler.own.alphas_cumprod = torch.tensor([1 / (1 + s * s) for s in levels], dtype=scheduler.dtype)
    scheduler.own.set_timesteps(len(levels))
    return scheduler, scheduler.own.timesteps.tolist()


def _final(sigmas):
    """How a multistep scheduler is told whether its last step goes to sigma 0."""
    return dict(final_sigmas_type="zero" if sigmas[-1] == 0 else "sigma_min", lower_order_final=sigmas[-1] == 0)


def _solver(kind):
    return dict(algorithm_type="dpmsolver++" if kind == "ODE" else "sde-dpmsolver++")


def _at_most_two(order=2, kind="ODE", **_):
    # They start with a step of first order, whose error, of second order, stays.
    return min(order, 2) if kind == "ODE" else None


def _stochastic(kind, **_):
    return kind == "SDE"


def _twice(sigmas, **_):
    # The step that lands on sigma 0 needs no second call.
    return 2 * (len(sigmas) - 1) - (sigmas[-1] == 0)


@bridged(
    "diffusers DDIM",
    order=lambda eta: 1 if eta == 0 else None,
    calls=1,
    stochastic=lambda eta: eta > 0,
    paper="arXiv:2010.02502",
)
def ddim(denoise, x, sigmas, noise, *, eta: Annotated[float, Range(0, 1, 0.05), "share of fresh noise"] = 0.0):
    scheduler, times = _table("DDIMScheduler", x, sigmas, clip_sample=False)
    yield from _run(scheduler, denoise, x, sigmas, noise, times, eta=eta)


@bridged("diffusers DDPM", calls=1, stochastic=True, paper="arXiv:2006.11239")
def ddpm(denoise, x, sigmas, noise):
    scheduler, times = _table("DDPMScheduler", x, sigmas, clip_sample=False)
    yield from _run(scheduler, denoise, x, sigmas, noise, times)


def _once_more(sigmas):
    # The second level is visited twice, to correct the step that led there.
    return len(sigmas) - 1 + (sum(sigma > 0 for sigma in sigmas) > 1)


@bridged("diffusers PNDM", order=2, calls=_once_more, paper="arXiv:2202.09778")
def pndm(denoise, x, sigmas, noise):
    """The variant without Runge-Kutta steps (PLMS); its weights are those of equal steps, whatever the steps are."""
    scheduler, times = _table("PNDMScheduler", x, sigmas, "eps", skip_prk_steps=True, set_alpha_to_one=True)
    repeated = [sigmas[0], *sigmas[1:2], *sigmas[1:]] if len(times) > 1 else sigmas
    for i, ((sigma, lower), time) in enumerate(zip(pairwise(repeated), times)):
        denoised = denoise(x, sigma)
        x = scheduler.step(denoised, x, sigma, lower, noise, time)
        if i > 0 or len(times) == 1:
            yield Step(x, lower, denoised)


@bridged("diffusers Euler", order=1, calls=1, paper="arXiv:2206.00364")
def euler(denoise, x, sigmas, noise):
    """Without churn: diffusers adds its noise after the network was asked, at a level that the network never saw."""
    scheduler = _Scheduler("EulerDiscreteScheduler", x, "exploding").use(sigmas, len(sigmas) - 1)
    yield from _run(scheduler, denoise, x, sigmas, noise)


@bridged("diffusers Euler ancestral", calls=1, stochastic=True)
def euler_ancestral(denoise, x, sigmas, noise):
    scheduler = _Scheduler("EulerAncestralDiscreteScheduler", x, "exploding", "eps").use(sigmas, len(sigmas) - 1)
    yield from _run(scheduler, denoise, x, sigmas, noise)


@bridged("diffusers Heun", order=2, calls=_twice, paper="arXiv:2206.00364")
def heun(denoise, x, sigmas, noise):
    doubled = [sigmas[0], *(sigma for sigma in sigmas[1:-1] for _ in range(2)), sigmas[-1]]
    scheduler = _Scheduler("HeunDiscreteScheduler", x, "exploding").use(doubled, len(sigmas) - 1)
    for sigma, lower in pairwise(sigmas):
        denoised = denoise(x, sigma)
        x = scheduler.step(denoised, x, sigma, lower, noise)
        if lower > 0:
            denoised = denoise(x, lower)
            x = scheduler.step(denoised, x, lower, lower, noise)
        yield Step(x, lower, denoised)


@bridged("diffusers LMS", order=lambda order: min(order, 2), calls=1)
def lms(denoise, x, sigmas, noise, *, order: Annotated[int, Range(1, 4), "how many derivatives it remembers"] = 4):
    scheduler = _Scheduler("LMSDiscreteScheduler", x, "exploding").use(sigmas, len(sigmas) - 1)
    # It integrates its coefficients in Python, ten times faster on plain numbers.
    scheduler.own.sigmas = list(sigmas)
    yield from _run(scheduler, denoise, x, sigmas, noise, order=order)


@bridged("diffusers iPNDM", order=2, calls=1, paper="arXiv:2204.13902")
def ipndm(denoise, x, sigmas, noise):
    """Adams-Bashforth weights of equal steps, whatever the steps are."""
    scheduler = _Scheduler("IPNDMScheduler", x, "preserving", "v").use(sigmas, len(sigmas) - 1)
    scheduler.own.alphas = torch.tensor([1 / math.sqrt(1 + s * s) for s in sigmas], dtype=scheduler.dtype)
    scheduler.own.betas = torch.tensor([s / math.sqrt(1 + s * s) for s in sigmas], dtype=scheduler.dtype)
    yield from _run(scheduler, denoise, x, sigmas, noise)


@bridged("diffusers DPM++ multistep", order=_at_most_two, calls=1, stochastic=_stochastic, paper="arXiv:2211.01095")
def dpm_multistep(
    denoise,
    x,
    sigmas,
    noise,
    *,
    order: Order = 2,
    kind: Kind = "ODE",
    solver_type: Annotated[str, Choice("midpoint", "heun"), "how the second-order term is integrated"] = "midpoint",
):
    config = dict(solver_order=order, solver_type=solver_type, **_solver(kind), **_final(sigmas))
    scheduler = _Scheduler("DPMSolverMultistepScheduler", x, **config).use(sigmas, len(sigmas) - 1)
    yield from _run(scheduler, denoise, x, sigmas, noise)


@bridged("diffusers DPM++ singlestep", order=_at_most_two, calls=1, stochastic=_stochastic, paper="arXiv:2211.01095")
def dpm_singlestep(denoise, x, sigmas, noise, *, order: Order = 2, kind: Kind = "ODE"):
    config = dict(solver_order=order, **_solver(kind), **_final(sigmas)) | dict(lower_order_final=True)
    scheduler = _Scheduler("DPMSolverSinglestepScheduler", x, **config).use(sigmas, len(sigmas) - 1)
    yield from _run(scheduler, denoise, x, sigmas, noise)


@bridged("diffusers UniPC", order=lambda order: min(order, 2) + 1, calls=1, paper="arXiv:2302.04867")
def unipc(denoise, x, sigmas, noise, *, order: Order = 2):
    """With B(h) = exp(h) - 1 (bh2): the other choice ends with NaN at sigma 0. The corrector adds an order."""
    scheduler = _Scheduler("UniPCMultistepScheduler", x, solver_order=order, solver_type="bh2", **_final(sigmas))
    yield from _run(scheduler.use(sigmas, len(sigmas) - 1), denoise, x, sigmas, noise)


@bridged("diffusers DEIS", order=_at_most_two, calls=1, paper="arXiv:2204.13902")
def deis(denoise, x, sigmas, noise, *, order: Order = 2):
    """It cannot step to sigma 0 (0 times infinity): it runs to the last positive sigma, and one denoising follows."""
    positive = [sigma for sigma in sigmas if sigma > 0]
    if len(positive) > 1:
        scheduler = _Scheduler("DEISMultistepScheduler", x, solver_order=order, lower_order_final=False)
        for step in _run(scheduler.use(positive, len(positive) - 1), denoise, x, positive, noise):
            x = step.x
            yield step
    if sigmas[-1] == 0:
        denoised = denoise(x, positive[-1])
        yield Step(denoised, 0.0, denoised)


@bridged("diffusers Flow Euler", order=1, calls=1, paper="arXiv:2210.02747")
def flow_euler(denoise, x, sigmas, noise):
    """Steps in the time of flow matching, t = sigma / (1 + sigma), where a Euler step is another one than in sigma.

    Its stochastic sampling, which replaces all noise at every step, is only for distilled models, and left out.
    """
    times = [sigma / (1 + sigma) for sigma in sigmas]
    scheduler = _Scheduler("FlowMatchEulerDiscreteScheduler", x, "flow", "velocity")
    yield from _run(scheduler.use(times, len(sigmas) - 1), denoise, x, sigmas, noise)


@hookimpl
def register_samplers():
    tables, plain = [ddim, ddpm, pndm], [euler, euler_ancestral, heun, lms, ipndm, flow_euler]
    return tables + plain + [dpm_multistep, dpm_singlestep, unipc, deis]
