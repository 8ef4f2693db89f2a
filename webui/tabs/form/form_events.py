"""What a form does by itself: describe the run, remember its values in the browser, follow the model."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import gradio as gr

from samplers.run import Plan, plan
from webui.core.calibrations import all_calibrations
from webui.core.fields import fields_of
from webui.core.limits import TWO_ESTIMATES, size_problem
from webui.core.menus import chosen_name
from webui.core.plugin_fields import PLUGIN_FIELDS
from webui.core.refiner import check_refiner_steps, refined_text
from webui.core.request import NO_PROMPT, Request, read
from webui.core.resolved_request import hires_pass
from webui.core.run_plans import partial_plan, whole_plan
from webui.core.sampler_advice import own_advice
from webui.core.upscale_request import pixel_upscalers
from webui.engine.calibrated_runs import folders_of
from webui.engine.engine import Engine
from webui.engine.run_preview import preview_run
from webui.gradio_ext.gradio_events import QUIET, RESTORED, Updates, gather, on_change, on_choice, opening
from webui.tabs.form.page_context import Page
from weights.model_info import ModelInfo

from .controls import other_models, shown_value, upscaler_choices
from .describe import hires_note, note, plan_note, sampler_note, size_note
from .form import Form
from .form_state import recall, recall_options
from .plugin_menus import plugin_choices, schedule_update
from .size_controls import size_slider, sizes_html

HIRES = (
    "width",
    "height",
    "upscaler",
    *(field.name for field in fields_of(Request).values() if field.setting.group == "hires"),
)
REFINER = tuple(field.name for field in fields_of(Request).values() if field.setting.group == "refiner")
# Fields by which a calibration counts for a run or does not, beside its plan.
FITTED = ("guidance", *TWO_ESTIMATES, "width", "height")
# Fields that change the plan of a run.
PLANNED = dict.fromkeys(("model", "sampler", "schedule", "steps", "strength", "strength_as", *FITTED, *HIRES, *REFINER))


def connect_form(page: Page, form: Form) -> None:
    """Wire a form."""
    controls = {name: form.fields[name] for name in form.kept_names}
    remember(controls, form.options, form.edits, form.revision, page.kept[form.mode])
    _describe(page, form)
    follow_plugins(page, form)
    model = form.fields["model"]
    schedule, width, height, guidance = (form.fields[name] for name in ("schedule", "width", "height", "guidance"))
    changed = [schedule, width, height, guidance, form.revision, form.sizes]

    def follow(name: Any, sizes: Mapping[str, int]) -> Updates:
        info = page.engine.models().get(chosen_name(name))
        if info is None:
            return gr.skip()
        updates = {form.revision: time.time(), form.sizes: {}}
        for side in ("width", "height"):
            waiting = {"value": sizes[side]} if side in sizes and not size_problem(side, sizes[side], info) else {}
            updates[form.fields[side]] = gr.update(**size_slider(info) | waiting)
        # A picture's settings, which waited for their model, stay; else each model begins with its own.
        return updates if sizes else updates | {schedule: "", guidance: info.defaults.guidance}

    # Not a change: a model that was restored or reloaded must not reset what goes with it.
    on_choice(model, follow, [model, form.sizes], changed, **QUIET)


def refill(page: Page, form: Form, saved: Any) -> Updates:
    """Updates for `refilled(form)` from what the browser kept; menus are read anew."""
    models, upscalers = page.engine.models(), page.engine.upscalers()
    if form.mode == "img2img":
        upscalers = pixel_upscalers(upscalers)
    styles = page.engine.styles()
    values = recall(saved, page.registry, models, page.engine.limits, upscalers=upscalers, styles=styles)
    sizes = size_slider(models.get(values["model"]))
    sizes.pop("value")
    more: dict[str, dict[str, Any]] = {
        "model": dict(choices=list(models)),
        **{name: dict(choices=other_models(name, models)) for name in ("hires_model", "refiner")},
        "width": sizes,
        "height": sizes,
        "upscaler": dict(choices=upscaler_choices(upscalers)),
        "styles": dict(choices=list(styles)),
    }
    # The page itself has the menus that it was built with.
    if page.engine.reloads:
        more |= {name: dict(choices=choices) for name, choices in plugin_choices(page.registry).items()}
    values["model"] = values["model"] or None
    updates: Updates = {
        form.fields[name]: gr.update(value=shown_value(form.fields[name], values[name]), **more.get(name, {}))
        for name in form.kept_names
    }
    options = recall_options(saved, page.registry)
    return updates | {form.options: options, form.sizes: {}, form.revision: time.time()}


def follow_plugins(page: Page, form: Form) -> None:
    """Fill the menus and the options of a form anew, and leave the rest, when plugins have been loaded anew."""
    menus = [form.fields[name] for name in plugin_choices(page.registry) if name in form.fields]

    def fill(saved: Any) -> Updates:
        updates = refill(page, form, saved)
        return {output: updates[output] for output in outputs}

    outputs = [*menus, form.options, form.revision]
    gather(page.plugins.change, fill, page.kept[form.mode], outputs, **QUIET)


def restore(page: Page, form: Form, saved: Any) -> Updates:
    """As `refill`, for a page that is being opened, where a visitor may have been quicker than this answer."""
    return opening(refill(page, form, saved) | {form.revision: RESTORED})


def refilled(form: Form) -> list[gr.components.Component]:
    """The outputs of `refill`: all but uploads."""
    return [form.options, form.sizes, *(form.fields[name] for name in form.kept_names), form.revision]


def remember(
    controls: Mapping[str, gr.components.Component],
    options: gr.State,
    edits: gr.Number,
    revision: gr.Number,
    kept: gr.BrowserState,
) -> None:
    """Have the browser keep the values of these controls by name, and every option; the rest as in `Form`."""

    def keep(options: dict[str, Any], *given: Any) -> Any:
        return {"options": options, **dict(zip(controls, given, strict=True))}

    # Before the browser's own values are in the form, the defaults must not overwrite them. `revision` is watched, too:
    # settings from elsewhere may change options without an edit.
    values = list(controls.values())
    on_change([*values, edits, revision], keep, [options, *values], kept, since=revision, **QUIET)


def _describe(page: Page, form: Form) -> None:
    names = [name for name in PLANNED if name in form.fields]
    controls = [form.fields[name] for name in names]

    def describe(options: dict[str, Any], *given: Any) -> list[Any]:
        values = dict(zip(names, given, strict=True))
        method, *rest = _notes(page, form.mode, options, values)
        return [method + _without_control(form, values), *rest]

    # Before the browser asks, what is said of the form's defaults, so that the page need not move for it.
    first = [getattr(each, "value", None) for each in controls]
    form.note.value, form.plan.value, *_ = describe(recall_options(None, page.registry), *first)
    # The form's first filling changes the revision, so that a page that restored nothing is described, too.
    # What was measured on a model and fitted to it is known by its weights, which are once it is open.
    watched = [*controls, form.edits, form.revision, page.status]
    outputs = [form.note, form.plan, form.fields["schedule"], form.shapes]
    on_change(watched, describe, [form.options, *controls], outputs, since=form.revision, **QUIET)


def _notes(page: Page, mode: str, options: Mapping[str, Any], values: Mapping[str, Any]) -> list[Any]:
    entry = page.registry.samplers.get(chosen_name(values["sampler"]))
    found = page.engine.models().get(chosen_name(values["model"]))
    if entry is None or found is None:
        return ["", "", gr.update(interactive=True), ""]
    steps = values["steps"]
    if not isinstance(steps, int) or not 1 <= steps <= page.engine.limits.steps:
        steps = fields_of(Request)["steps"].default
    settings = options["samplers"].get(entry.name, {})
    name = chosen_name(values["schedule"]) or found.defaults.schedule
    made = None
    strength = (values["strength"], values["strength_as"]) if mode == "img2img" else (1.0, "steps")
    try:
        schedule = page.registry.schedule(name)
        chosen = options["schedules"].get(name, {}) if values["schedule"] else dict(found.defaults.schedule_options)
        made, unfitted = plan(found.schedule, entry.item, schedule.item, steps, settings, chosen, *strength), ""
        if entry.item.calibrate or schedule.item.calibrate:
            own = dict(model=found.name, sampler=entry.name, schedule=name, steps=steps)
            own |= dict(options=settings, schedule_options=chosen, strength=strength[0], strength_as=strength[1])
            made, unfitted = fitted_plan(page.engine, values, own)
        text, own_grid = plan_note(made, name, mode == "img2img") + unfitted, made.own_grid
        if values.get("refiner"):
            text += _refiner_note(page, found, values, made)
        if values.get("hires_scale"):
            text += _second_note(page, found, values, made, chosen)
    # Whatever a plugin's declarations raise belongs to the user who can change an option, not to the page.
    except Exception as error:
        text, own_grid = note(str(error) or type(error).__name__, problem=True), False
    if values.get("guidance") == 0 and not found.takes_guidance:
        text += note(NO_PROMPT)
    sides = values["width"], values["height"]
    text += size_note(found, *sides)
    measured = measured_text(page, found, entry.name, name, made.calls if made else None, values)
    said, free = sampler_note(entry, settings, name, measured), schedule_update(own_grid)
    return [said, text, free, sizes_html(mode, found, *sides)]


def fitted_plan(engine: Engine, values: Mapping[str, Any], own: Mapping[str, Any]) -> tuple[Plan, str]:
    """(the plan with what is fitted to the model, a note about what is not). Raises RequestError.

    values  of the form; `own` are the fields of the plan itself, the model among them
    """
    preview = preview_run(engine, {**{name: values[name] for name in FITTED if name in values}, **own})
    if engine.identity_of(Request(model=own["model"])) is None:
        return preview.run, note(f"What was fitted to {own['model']} is known once it is open.")
    return preview.run, "".join(map(note, preview.notes))


def measured_text(
    page: Page, found: ModelInfo, sampler: str, schedule: str, calls: int | None, values: Mapping[str, Any]
) -> str:
    """What was measured on this model, if it is open, at this guidance and size; "" for nothing."""
    identity = page.engine.identity_of(Request(model=found.name)) if calls else None
    guidance, width, height = (values.get(name) for name in ("guidance", "width", "height"))
    if identity is None or calls is None or not isinstance(guidance, int | float):
        return ""
    size = found.defaults.size
    condition = identity.weights, float(guidance), width or size, height or size
    known = all_calibrations(folders_of(found, page.engine.outputs))
    return own_advice(known, condition, sampler, schedule, calls)


def _without_control(form: Form, values: Mapping[str, Any]) -> str:
    """A note about options that the page has no control for, "" without such."""
    named = {each.kind: chosen_name(values.get(each.name)) for each in PLUGIN_FIELDS}
    names = [name for box in form.boxes for name in box.left_out(named[box.kind])]
    return note(f"Restart Sigmalab to set {', '.join(names)}, which this page has no control for.") if names else ""


def _refiner_note(page: Page, found: ModelInfo, values: Mapping[str, Any], made: Plan) -> str:
    """The note about the steps of a refiner. Raises RequestError."""
    request = read({name: values[name] for name in REFINER if name in values})
    refiner = page.engine.models().get(request.refiner, found)
    if refiner.name == found.name or request.refiner_switch == 1:
        return ""
    check_refiner_steps([made], found, request.refiner_switch)
    return note(f"{refiner.name} draws {refined_text(made, found, request.refiner_switch)}.")


def _second_note(
    page: Page, found: ModelInfo, values: Mapping[str, Any], first: Plan, chosen: Mapping[str, Any]
) -> str:
    """The note about a second pass. Raises RequestError."""
    fields = {name: values[name] for name in (*HIRES, "steps") if name in values}
    names = dict(sampler=first.sampler.name, schedule=values["schedule"] or found.defaults.schedule)
    request = read(fields | names | dict(options=dict(first.options), schedule_options=dict(chosen)))
    filled, second = hires_pass(request, page.registry, page.engine.upscalers())
    drawn_by = page.engine.models().get(request.hires_model, found)
    plan = partial_plan(whole_plan(second, page.registry, drawn_by), second)
    return hires_note(plan, second.schedule, request.hires_size(found.defaults.multiple), filled.upscaler)
