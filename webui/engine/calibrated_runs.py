"""Give the passes of a run the coefficients of samplers that are calibrated, from the files that keep them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from samplers.registry import Entry, Registry
from samplers.run import Plan
from samplers.sampler import Sampler
from webui.core.calibrations import Calibration, RunKey, all_calibrations
from webui.core.request import Request
from webui.core.resolved_request import ResolvedRequest
from weights.model_info import ModelInfo

from .job_context import OnHead, here


def with_coefficients(
    resolved: ResolvedRequest, registry: Registry, weights: str, outputs: Path, on_head: OnHead = here
) -> tuple[ResolvedRequest, list[str]]:
    """(the request with the coefficients that were made for its passes, a sentence for each pass without any).

    weights  digest of the model's network
    outputs  the folder of the pictures
    on_head  see `JobContext`
    A request that has been given coefficients, as a replay has, keeps them.
    """
    if not any(plan.sampler.calibrate and plan.coefficients is None for plan in resolved.plans):
        return resolved, []
    request = resolved.request
    kept = partial(all_calibrations, folders_of(resolved.model_info, outputs))
    known = on_head(kept).calibrations if _is_plain_cfg(request) else ()
    sizes = [(request.width, request.height), resolved.hires_size] if request.is_hires else [request.drawn_size]
    names = (request.sampler, request.hires_sampler)
    chosen: list[Any] = []
    notes = []
    # Those of another model that draws the second pass are not looked for.
    networks = (weights, "" if resolved.hires_model_info else weights)
    for plan, size, name, network in zip(resolved.plans, sizes, names, networks, strict=False):
        if not plan.sampler.calibrate or plan.coefficients is not None:
            chosen.append(plan.coefficients or {})
            continue
        key = run_key(network, registry.sampler(name), request, size)
        fitting = [each for each in known if each.fits(key)]
        found = next((each for each in fitting if each.walks(plan.sigmas)), None)
        chosen.append(found.coefficients if found else {})
        if found is None:
            notes.append(_missing(plan, request, fitting or [each for each in known if _near(each, key)]))
    return resolved.with_coefficients(*chosen), notes


def run_key(weights: str, sampler: Entry[Sampler], request: Request, size: tuple[int, int]) -> RunKey:
    """What a calibration has to have been made for. A LoRA does not count: it changes the network a little."""
    return RunKey(
        weights=weights,
        sampler=sampler.id,
        version=sampler.item.version,
        guidance=request.guidance,
        width=size[0],
        height=size[1],
    )


def folders_of(model: ModelInfo, outputs: Path) -> tuple[Path, Path]:
    """Where the calibrations of a model are kept: beside the pictures, and those that came with it."""
    return outputs, model.path if model.path.is_dir() else model.path.parent


def _is_plain_cfg(request: Request) -> bool:
    return not (request.guidance_method or request.guidance_rescale or request.guidance_low or request.guidance_high)


def _near(calibration: Calibration, key: RunKey) -> bool:
    return (calibration.weights, calibration.sampler) == (key.weights, key.sampler)


def _missing(plan: Plan, request: Request, others: Iterable[Calibration]) -> str:
    asked = f"{len(plan.sigmas) - 1} steps of {request.schedule} at guidance {request.guidance:g}"
    if not _is_plain_cfg(request):
        asked += " with other guidance than plain CFG"
    made = sorted({(each.schedule, each.guidance, each.steps) for each in others})
    told = "; ".join(f"{steps} steps of {schedule} at guidance {guidance:g}" for schedule, guidance, steps in made)
    here = f" It has for {told}." if told else ""
    return f"{plan.sampler.name} has no coefficients on {request.model} for {asked}, so it ran without.{here}"
