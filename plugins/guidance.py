"""Guidances other than CFG: how the estimates with and without the prompt become one.

c and u are the estimates of x0 with the prompt and with the negative one, w the guidance scale, g = c - u. CFG is
u + w g. eps = (x - D) / sigma is the noise that an estimate D stands for; a product <a, b> is over the numbers of a
picture.
"""

from typing import Annotated

import torch
from torch.nn import functional

from samplers import Range, guidance, hookimpl


def dot(a, b):
    return (a * b).sum((1, 2, 3), keepdim=True)


@guidance("APG", paper="arXiv:2410.02416")
def adaptive_projected(
    conditional,
    unconditional,
    sigma,
    scale,
    state,
    *,
    parallel: Annotated[float, Range(0, 1, 0.05), "share kept of the part along the estimate, which saturates"] = 0.0,
    largest: Annotated[float, Range(0, 2, 0.01), "of the difference, root mean square; 0 is no limit"] = 0.06,
    momentum: Annotated[float, Range(-1, 1, 0.05), "of the difference over the run; below 0 it damps"] = -0.5,
):
    """Adaptive projected guidance (Sadat et al. 2024, algorithm 1), against saturated colours at high scales.

    m = g + momentum m;  d = m min(1, largest / rms(m));  c + (w - 1) (d - (1 - parallel) <d, c> / <c, c> c)

    The paper's limit is of the norm: 15 at 4 x 128 x 128 and 7.5 at 4 x 64 x 64 are both 0.059 here.
    """
    difference = state["difference"] = conditional - unconditional + momentum * state.get("difference", 0.0)
    if largest > 0:
        rms = difference.square().mean((1, 2, 3), keepdim=True).sqrt()
        difference = difference * (largest / rms.clamp(min=1e-12)).clamp(max=1.0)
    along = dot(difference, conditional) / dot(conditional, conditional).clamp(min=1e-12) * conditional
    return conditional + (scale - 1) * (difference - (1 - parallel) * along)


@guidance("CFG-Zero*", paper="arXiv:2503.18886")
def zero_star(
    conditional,
    unconditional,
    sigma,
    scale,
    state,
    *,
    zero_steps: Annotated[int, Range(0, 20, 1), "steps at the start that stand still, on flow models alone"] = 1,
):
    """CFG-Zero* (Fan et al. 2025, equations 7 and 9): the unconditional velocity, scaled to fit the conditional one.

    s = <v_c, v_u> / <v_u, v_u>;  v = s v_u + w (v_c - s v_u);  0 in the first steps

    v is eps - x0 on a flow model, as in the paper, and eps on any other.
    """
    flow = 1.0 if state.model.flow else 0.0
    x, rate = state.x, (1 + sigma * flow) / sigma
    if flow and zero_steps and sigma in state.sigmas[:zero_steps]:
        return x / (1 + sigma)  # the estimate whose velocity is 0
    first, second = (x / sigma - rate * each for each in (conditional, unconditional))
    second = dot(first, second) / dot(second, second).clamp(min=1e-12) * second
    return (x / sigma - (second + scale * (first - second))) / rate


@guidance("TCFG", paper="arXiv:2503.18137")
def tangential_damping(conditional, unconditional, sigma, scale, state):
    """Tangential damping (Kwon et al. 2025): eps_u, reduced to what it shares with eps_c.

    v_1 is the first right singular vector of the two rows (eps_c, eps_u);  u' is that of eps_u' = <eps_u, v_1> v_1;
    u' + w (c - u')

    Of two rows, v_1 is cos(a) eps_c + sin(a) eps_u, normalized, with tan(2 a) = 2 <c, u> / (<c, c> - <u, u>).
    """
    first, second = state.x - conditional, state.x - unconditional
    angle = torch.atan2(2 * dot(first, second), dot(first, first) - dot(second, second)) / 2
    shared = angle.cos() * first + angle.sin() * second
    damped = state.x - dot(second, shared) / dot(shared, shared).clamp(min=1e-12) * shared
    return damped + scale * (conditional - damped)


@guidance("FDG", paper="arXiv:2506.19713")
def frequency_decoupled(
    conditional,
    unconditional,
    sigma,
    scale,
    state,
    *,
    low: Annotated[float, Range(0, 1, 0.05), "of the scale above 1, the share that low frequencies get"] = 0.5,
    halvings: Annotated[int, Range(1, 5, 1), "what is left after so many halvings of the size is low"] = 1,
):
    """Frequency-decoupled guidance (Sadat et al. 2025): less for the low frequencies, which saturate and lose variety.

    u + w g_high + (1 + low (w - 1)) g_low, where g_low is the coarsest level of a Laplacian pyramid of g
    """
    gap = conditional - unconditional
    return unconditional + scale * gap - (1 - low) * (scale - 1) * coarse(gap, halvings)


def coarse(x, halvings):
    """What a Gaussian pyramid keeps of x: blurred by [1 4 6 4 1] / 16 and halved, some times, then enlarged again."""
    size = x.shape[-2:]
    for axis in (-1, -2) * halvings:
        last, places = x.shape[axis] - 1, torch.arange(0, x.shape[axis], 2, device=x.device)
        taps = ((tap / 16, (places + offset).clamp(0, last)) for tap, offset in zip((1, 4, 6, 4, 1), range(-2, 3)))
        x = sum(tap * x.index_select(axis, place) for tap, place in taps)
    return functional.interpolate(x, size=size, mode="bilinear", align_corners=False)


@guidance("CFG++", linear=True, paper="arXiv:2406.08070")
def plus_plus(
    conditional,
    unconditional,
    sigma,
    scale,
    state,
    *,
    full: Annotated[float, Range(2, 30, 0.5), "guidance scale at which lambda is 1"] = 12.5,
):
    """The scale with which Euler's step is that of CFG++ (Chung et al. 2024), whose noise is the unconditional one.

    lambda = w / full;  u + lambda / (1 - lower / sigma) g, where `lower` is the next noise level of the run

    From equating u + lambda g + lower / sigma (x - u) with CFG's step. The paper's pairs of lambda and w are 0.4 and 5,
    0.6 and 7.5, 1 and 12.5.
    """
    lower = max((level for level in state.sigmas if level < sigma), default=0.0)
    return unconditional + scale / full / (1 - lower / sigma) * (conditional - unconditional)


def agreed(sigma, scale, state, **options):
    """Whether the two estimates agreed before, for every picture."""
    return "agreed" in state and bool(state["agreed"].all())


@guidance("Adaptive", skip=agreed, paper="arXiv:2312.12487")
def adaptive(
    conditional,
    unconditional,
    sigma,
    scale,
    state,
    *,
    agreement: Annotated[float, Range(0.9, 1, 0.001), "cosine from which on there is no guidance; 1 is CFG"] = 0.991,
):
    """Adaptive guidance (Castillo et al. 2023, section 5): CFG until the two agree, from then on c alone.

    <v_c, v_u> / (|v_c| |v_u|) > agreement, with v = eps - sigma x0, the velocity that v-prediction is proportional to

    The paper compares its network's outputs. v is taken on every model, because it turns towards agreement during a
    run, while two eps begin nearly equal: at high noise both are the noise.
    A call without guidance costs half. Each picture of a batch is decided by itself; the saving comes with the last.
    """
    first, second = (state.x - (1 + sigma**2) * each for each in (conditional, unconditional))
    cosine = dot(first, second) / (dot(first, first) * dot(second, second)).sqrt().clamp(min=1e-12)
    before = state.get("agreed", torch.zeros_like(cosine, dtype=torch.bool))
    state["agreed"] = before | (cosine > agreement)
    return torch.where(before, conditional, unconditional + scale * (conditional - unconditional))


@hookimpl
def register_guidances():
    return [adaptive_projected, zero_star, tangential_damping, frequency_decoupled, plus_plus, adaptive]
