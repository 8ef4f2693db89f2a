"""A run before it is made: the same validation and the same plan as a picture's, and the numbers that scripts get."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from samplers.generate import Plan
from samplers.levels import Levels, Rehearsal, levels, rehearse
from weights.catalog import Found

from .engine.engine import Engine
from .request import Request, RequestError, plan_of, read


@dataclass(frozen=True)
class Planned:
    """What a request would run.

    whole  the plan of a picture from words: every step of the schedule
    run    the plan at the request's strength: the last part of it; the same at strength 1
    """

    request: Request
    found: Found
    whole: Plan
    run: Plan


def planned(engine: Engine, fields: Mapping[str, Any]) -> Planned:
    """The plan of a request's fields, strength (else 1) among them; no picture is needed. Raises RequestError."""
    models = engine.models()
    # Settled as txt2img, which asks for no picture; what img2img then cuts off depends on the strength alone.
    settled = engine.settle(read({"strength": 1.0, **fields, "mode": "txt2img"}))
    found = models[settled.model]
    partly = settled.model_copy(update={"mode": "img2img"})
    return Planned(partly, found, plan_of(settled, engine.registry, found), plan_of(partly, engine.registry, found))


def numbers(made: Planned) -> dict[str, Any]:
    """The answer of /schedule: plain JSON data, its lists as long as `sigmas`.

    A sampler with a grid of its own that declares its calls has that grid; an adaptive one has the list that it is
    given, of which it takes the ends, and nfe None. Raises RequestError.
    """
    shown = run_levels(made)
    return dict(
        sigmas=list(shown.sigmas),
        timesteps=list(shown.timesteps),
        log_snr=list(shown.log_snr),
        alpha_bar=list(shown.alpha_bar),
        guidance=[made.request.guidance_at(sigma) if sigma else None for sigma in shown.sigmas],
        noise_share=shown.noise_share,
        nfe=made.run.calls,
    )


def run_levels(made: Planned, rehearsed: Rehearsal | None = None) -> Levels:
    """The noise levels that the run will report. Raises RequestError if its sampler fails to make its own grid."""
    sigmas = made.run.sigmas
    if made.run.own_grid:
        rehearsed = rehearsed or rehearsal(made)
        sigmas = rehearsed.sigmas if rehearsed else sigmas
    return levels(made.found.schedule, sigmas)


def rehearsal(made: Planned) -> Rehearsal | None:
    """Where the run will ask the network, None for an adaptive sampler. Raises RequestError where a sampler fails."""
    try:
        return rehearse(made.run)
    except Exception as error:
        raise RequestError(f"{made.request.sampler} cannot be rehearsed: {error}.") from error
