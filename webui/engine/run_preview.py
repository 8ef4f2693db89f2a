"""A run before it is made: the same validation and the same plan as a picture's, and the numbers that scripts get."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from samplers.levels import DryRun, Levels, dry_run, levels
from samplers.run import Plan
from webui.core.request import Request, RequestError, read
from webui.core.resolved_request import partial_plan
from weights.catalog import ModelInfo

from .engine import Engine


@dataclass(frozen=True)
class RunPreview:
    """What a request would run.

    whole  the plan of a picture from words: every step of the schedule
    run    the plan at the request's strength: the last part of it; the same at strength 1
    """

    request: Request
    model_info: ModelInfo
    whole: Plan
    run: Plan


def preview_run(engine: Engine, fields: Mapping[str, Any]) -> RunPreview:
    """The plan of a request's fields, strength (else 1) among them; no picture is needed. Raises RequestError."""
    # Resolved as txt2img, which asks for no picture; what img2img then cuts off depends on the strength alone.
    resolved = engine.resolve(read({"strength": 1.0, **fields, "mode": "txt2img"}))
    request = resolved.request.model_copy(update={"mode": "img2img"})
    return RunPreview(request, resolved.model_info, resolved.plan, partial_plan(resolved.plan, request))


def numbers(made: RunPreview) -> dict[str, Any]:
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


def run_levels(made: RunPreview, rehearsed: DryRun | None = None) -> Levels:
    """The noise levels that the run will report. Raises RequestError if its sampler fails to make its own grid."""
    sigmas = made.run.sigmas
    if made.run.own_grid:
        rehearsed = rehearsed or dry_run_of(made)
        sigmas = rehearsed.sigmas if rehearsed else sigmas
    return levels(made.model_info.schedule, sigmas)


def dry_run_of(made: RunPreview) -> DryRun | None:
    """Where the run will ask the network, None for an adaptive sampler. Raises RequestError where a sampler fails."""
    try:
        return dry_run(made.run)
    except Exception as error:
        raise RequestError(f"{made.request.sampler} cannot be rehearsed: {error}.") from error
