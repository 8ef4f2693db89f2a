"""Preview a run without drawing: validate the request as for a picture, plan it, and list its noise levels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from samplers.levels import DryRun, Levels, dry_run, levels
from samplers.run import Plan
from webui.core.request import Request, RequestError, read
from webui.core.run_plans import partial_plan
from weights.model_info import ModelInfo

from .calibrated_runs import with_coefficients
from .engine import Engine
from .watchdog import at_most

PATIENCE = 10.0  # seconds that a sampler may take on four numbers


@dataclass(frozen=True)
class RunPreview:
    """The plan of a request.

    whole  the plan of a picture from words: every step of the schedule
    run    the plan at the request's strength: the last part of it; the same at strength 1
    second the plan of the second pass of hires fix, which a picture from words may have
    notes  a sentence for each sampler or schedule that is calibrated and was not fitted to this run
    """

    request: Request
    model_info: ModelInfo
    whole: Plan
    run: Plan
    second: Plan | None = None
    notes: tuple[str, ...] = ()


def preview_run(engine: Engine, fields: Mapping[str, Any]) -> RunPreview:
    """The plan of a request's fields, strength (else 1) among them; no picture is needed. Raises RequestError."""
    # Resolved as txt2img, which asks for no picture; what img2img then cuts off depends on the strength alone.
    resolved, notes = engine.resolve(read({"strength": 1.0, **fields, "mode": "txt2img"})), list[str]()
    # What was fitted to a model is known by its weights, and those once it is open.
    if identity := engine.identity_of(Request(model=resolved.request.model)):
        resolved, notes = with_coefficients(resolved, engine.registry, identity.weights, engine.outputs)
    request = resolved.request.model_copy(update={"mode": "img2img"})
    second = resolved.hires_plan if request.strength == 1 else None
    run = partial_plan(resolved.plan, request)
    return RunPreview(request, resolved.model_info, resolved.plan, run, second, tuple(notes))


def numbers(preview: RunPreview) -> dict[str, Any]:
    """The answer of /schedule: plain JSON data, its lists as long as `sigmas`.

    A sampler with a grid of its own that declares its calls has that grid; an adaptive one has the list that it is
    given, of which it takes the ends, and nfe None. Raises RequestError.
    """
    shown = run_levels(preview)
    return dict(
        sigmas=list(shown.sigmas),
        timesteps=list(shown.timesteps),
        log_snr=list(shown.log_snr),
        alpha_bar=list(shown.alpha_bar),
        guidance=[preview.request.guidance_at(sigma) if sigma else None for sigma in shown.sigmas],
        noise_share=shown.noise_share,
        nfe=preview.run.calls,
    )


def run_levels(preview: RunPreview, dry: DryRun | None = None) -> Levels:
    """The noise levels that the run will report. Raises RequestError if its sampler fails to make its own grid."""
    sigmas = preview.run.sigmas
    if preview.run.own_grid:
        dry = dry or dry_run_of(preview)
        sigmas = dry.sigmas if dry else sigmas
    return levels(preview.model_info.schedule, sigmas)


def dry_run_of(preview: RunPreview) -> DryRun | None:
    """Where the run will ask the network, None for an adaptive sampler. Raises RequestError where a sampler fails."""
    try:
        with at_most(PATIENCE):
            return dry_run(preview.run)
    except Exception as error:
        raise RequestError(f"{preview.request.sampler} cannot be tried out: {error}.") from error
