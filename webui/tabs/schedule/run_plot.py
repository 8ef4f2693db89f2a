"""The plot of a run and the texts below it: from settings to updates, without widgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from samplers.levels import DryRun
from samplers.run import Plan
from webui.core.menus import chosen_name
from webui.core.request import RequestError
from webui.core.run_plans import partial_plan, whole_plan
from webui.engine.engine import Engine
from webui.engine.run_preview import RunPreview, dry_run_of, preview_run, run_levels
from webui.tabs.form.describe import note, percent, problem, steps_text
from webui.tabs.form.plugin_menus import schedule_update

from .curves import Curve, View, curve, draw, ends_curve, guided_curve, run_curves, second_curve
from .recorded_run import RecordedRun
from .run_summary import MEANINGS, facts, guidance_note, list_text

FIELDS = (
    *("model", "sampler", "schedule", "steps"),
    *("strength", "strength_as", "guidance", "guidance_low", "guidance_high"),
    *("hires_scale", "hires_steps", "hires_strength", "hires_strength_as", "hires_sampler", "hires_schedule"),
)
MAX_DRY_RUN = 300  # steps; more rings cannot be told apart, and take longer than the plot


def redraw(
    engine: Engine,
    options: Mapping[str, Any],
    kept: Sequence[Curve],
    loaded: RecordedRun | None,
    compare: Sequence[str],
    measure: str,
    against: str,
    logs: Sequence[str],
    *given: Any,
) -> list[Any]:
    """Updates for RunView.outputs from its inputs. A wrong setting shows its error and leaves the plot as it is."""
    try:
        view = View(measure, against, tuple(logs or ()))
        preview = plan_from(engine, options, given)
        dry_run, trouble = dry_run_or_reason(preview)
        shown = run_levels(preview, dry_run)
        by_meaning = {meaning: plan_by(preview, meaning) for meaning in MEANINGS}
        own = own_curves(preview, dry_run)
        curves = [*own, *second_curves(preview), *kept, *comparison_curves(engine, preview, options, compare or ())]
    except RequestError as error:
        return [gr.skip(), gr.skip(), problem(str(error)), gr.skip(), gr.skip()]
    calls = network_calls(preview, dry_run)
    if loaded:
        curves += loaded.curves(engine)
    curves += guided_curve(preview.request, own[0].places, calls or ())
    start = f"starts with {percent(shown.noise_share)} noise" if preview.request.strength < 1 else ""
    sigmas = None if calls is None else [sigma for _, sigma in calls]
    guidance = guidance_note(preview.request, sigmas, len(shown.sigmas) - 1)
    return [
        draw(preview.model_info.schedule, preview.model_info.name, curves, view, start),
        note(view.sentence),
        facts(preview, dry_run, by_meaning, guidance, trouble),
        list_text(shown.sigmas),
        schedule_update(preview.run.own_grid),
    ]


def plan_from(engine: Engine, options: Mapping[str, Any], given: Sequence[Any]) -> RunPreview:
    """The run of the values of FIELDS with the options kept for their names. Raises RequestError."""
    values = dict(zip(FIELDS, given, strict=True))
    sampler, menu = chosen_name(values["sampler"]), chosen_name(values["schedule"])
    chosen = dict(options=options["samplers"].get(sampler, {}), schedule_options=options["schedules"].get(menu, {}))
    return preview_run(
        engine, {**values, "model": chosen_name(values["model"]), "sampler": sampler, "schedule": menu, **chosen}
    )


def plan_by(preview: RunPreview, meaning: str) -> Plan:
    """The plan of the same run with another meaning of its strength, one of MEANINGS."""
    return partial_plan(preview.whole, preview.request.model_copy(update={"strength_as": meaning}))


def dry_run_or_reason(preview: RunPreview) -> tuple[DryRun | None, str]:
    """The network calls of the run if they can be computed, and the error where its sampler fails."""
    if len(preview.run.sigmas) - 1 > MAX_DRY_RUN and not preview.run.own_grid:
        return None, ""
    try:
        return dry_run_of(preview), ""
    except RequestError as error:
        if preview.run.own_grid:
            raise
        return None, str(error)


def network_calls(preview: RunPreview, dry_run: DryRun | None) -> Sequence[tuple[float, float]] | None:
    """(place, sigma) of the network calls of a run, places counted in its steps; None for an adaptive sampler.

    Without a dry run it is the start of each step.
    """
    if dry_run:
        return [(call.place, call.sigma) for call in dry_run.calls]
    if preview.run.calls is None:
        return None
    return [(float(step), sigma) for step, sigma in enumerate(preview.run.sigmas[:-1])]


def own_curves(preview: RunPreview, dry_run: DryRun | None) -> list[Curve]:
    """The run's curve, what img2img leaves out of it, and its calls."""
    if preview.run.own_grid:
        own = dry_run and curve(label(preview), dry_run.sigmas, "run")
        return [own or ends_curve(preview.request.sampler, preview.run.sigmas)]
    return run_curves(label(preview), preview.whole.sigmas, preview.run.sigmas, dry_run)


def second_curves(preview: RunPreview) -> list[Curve]:
    """The curve of the second pass of hires fix, behind the steps of the first; empty where there is none."""
    plan, request = preview.second, preview.request
    if plan is None:
        return []
    grid = "own steps" if plan.own_grid else f"{request.hires_schedule}, {steps_text(len(plan.sigmas) - 1)}"
    return [second_curve(f"Second pass: {request.hires_sampler}, {grid}", preview.run.sigmas, plan.sigmas)]


def comparison_curves(
    engine: Engine, preview: RunPreview, options: Mapping[str, Any], names: Sequence[str]
) -> list[Curve]:
    """The curves of other schedules, with the options that were last set for them. Raises RequestError."""
    curves = []
    for name in dict.fromkeys(names):
        if name not in engine.registry.schedules or name == preview.request.schedule:
            continue
        changes = dict(schedule=name, schedule_options=options["schedules"].get(name, {}))
        request = preview.request.model_copy(update=changes)
        whole = whole_plan(request, engine.registry, preview.model_info)
        shown = run_curves(name, whole.sigmas, partial_plan(whole, request).sigmas)[0]
        curves.append(Curve(name, shown.places, shown.sigmas))
    return curves


def label(preview: RunPreview) -> str:
    """A run in a few words: its schedule with its numbers, its steps and its strength."""
    request = preview.request
    if preview.run.own_grid:
        return f"{request.sampler}, own steps"
    numbers = [(name, value) for name, value in request.schedule_options.items() if type(value) in (int, float)]
    parts = [request.schedule, *(f"{name} {value:g}" for name, value in numbers), f"{request.steps} steps"]
    return ", ".join(parts + [f"strength {request.strength:g}"] * (request.strength < 1))
