"""What the plot of a run and the words below it are for a set of settings: from values to updates, without widgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from samplers.levels import DryRun
from samplers.run import Plan
from webui.core.request import RequestError
from webui.core.resolved_request import partial_plan, whole_plan
from webui.engine.engine import Engine
from webui.engine.run_preview import RunPreview, dry_run_of, preview_run, run_levels
from webui.tabs.form.controls import schedule_update
from webui.tabs.form.describe import note, percent, problem

from .curves import Curve, View, curve, draw, ends_curve, run_curves
from .guidance_marks import asked, guidance_note, guided_curve
from .recorded_run import RecordedRun
from .run_summary import MEANINGS, facts, list_text

FIELDS = (
    *("model", "sampler", "schedule", "steps"),
    *("strength", "strength_as", "guidance", "guidance_low", "guidance_high"),
)
MOST_REHEARSED = 300  # steps: more rings than that are a blur, and cost more than the plot


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
    """Updates for RunView.outputs from its inputs; a wrong setting is explained and leaves the plot as it is."""
    try:
        view = View(measure, against, tuple(logs or ()))
        made = plan_from(engine, options, given)
        rehearsed, trouble = rehearsed_or_why(made)
        shown = run_levels(made, rehearsed)
        by_meaning = {meaning: plan_by(made, meaning) for meaning in MEANINGS}
        own = own_curves(made, rehearsed)
        curves = [*own, *kept, *others(engine, made, options, compare or ())]
    except RequestError as error:
        return [gr.skip(), gr.skip(), problem(str(error)), gr.skip(), gr.skip()]
    calls = asked(made, rehearsed)
    if loaded:
        curves += loaded.curves(engine)
    curves += guided_curve(made.request, own[0].places, calls or ())
    start = f"starts with {percent(shown.noise_share)} noise" if made.request.strength < 1 else ""
    said = guidance_note(made.request, calls and [sigma for _, sigma in calls], len(shown.sigmas) - 1)
    return [
        draw(made.model_info.schedule, made.model_info.name, curves, view, start),
        note(view.sentence),
        facts(made, rehearsed, by_meaning, said, trouble),
        list_text(shown.sigmas),
        schedule_update(made.run.own_grid),
    ]


def plan_from(engine: Engine, options: Mapping[str, Any], given: Sequence[Any]) -> RunPreview:
    """What the values of FIELDS, and the options kept for their names, would run. Raises RequestError."""
    values = dict(zip(FIELDS, given, strict=True))
    sampler, menu = values["sampler"] or "", values["schedule"] or ""
    chosen = dict(options=options["samplers"].get(sampler, {}), schedule_options=options["schedules"].get(menu, {}))
    return preview_run(
        engine, {**values, "model": values["model"] or "", "sampler": sampler, "schedule": menu, **chosen}
    )


def plan_by(made: RunPreview, meaning: str) -> Plan:
    """The plan of the same run with another meaning of its strength, one of MEANINGS."""
    return partial_plan(made.whole, made.request.model_copy(update={"strength_as": meaning}))


def rehearsed_or_why(made: RunPreview) -> tuple[DryRun | None, str]:
    """Where the run asks, if that can be known, and why it cannot where the sampler is to blame."""
    if len(made.run.sigmas) - 1 > MOST_REHEARSED and not made.run.own_grid:
        return None, ""
    try:
        return dry_run_of(made), ""
    except RequestError as error:
        if made.run.own_grid:
            raise
        return None, str(error)


def own_curves(made: RunPreview, rehearsed: DryRun | None) -> list[Curve]:
    """The run's curve, what img2img leaves out of it, and its calls."""
    if made.run.own_grid:
        own = rehearsed and curve(label(made), rehearsed.sigmas, "run")
        return [own or ends_curve(made.request.sampler, made.run.sigmas)]
    return run_curves(label(made), made.whole.sigmas, made.run.sigmas, rehearsed)


def others(engine: Engine, made: RunPreview, options: Mapping[str, Any], names: Sequence[str]) -> list[Curve]:
    """The curves of other schedules, with the options that were last set for them. Raises RequestError."""
    curves = []
    for name in dict.fromkeys(names):
        if name not in engine.registry.schedules or name == made.request.schedule:
            continue
        changes = dict(schedule=name, schedule_options=options["schedules"].get(name, {}))
        request = made.request.model_copy(update=changes)
        whole = whole_plan(request, engine.registry, made.model_info)
        shown = run_curves(name, whole.sigmas, partial_plan(whole, request).sigmas)[0]
        curves.append(Curve(name, shown.places, shown.sigmas))
    return curves


def label(made: RunPreview) -> str:
    """A run in a few words: its schedule with its numbers, its steps and its strength."""
    request = made.request
    if made.run.own_grid:
        return f"{request.sampler}, own steps"
    numbers = [(name, value) for name, value in request.schedule_options.items() if type(value) in (int, float)]
    parts = [request.schedule, *(f"{name} {value:g}" for name, value in numbers), f"{request.steps} steps"]
    return ", ".join(parts + [f"strength {request.strength:g}"] * (request.strength < 1))
