"""Put the settings of a picture or a link into a form. A value that does not fit is reported and changes nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import gradio as gr

from webui.core.fields import RequestField, form_fields
from webui.core.plugin_fields import PLUGIN_FIELDS
from webui.core.request import Request
from webui.core.text import title
from webui.gradio_ext.gradio_events import Updates
from webui.tabs.form.page_context import Page

from .form import Form
from .form_events import refill
from .form_state import recall


def overlay(
    page: Page, form: Form, saved: Any, fields: Mapping[str, Any], schema: type[Request] = Request
) -> tuple[dict[str, Any], list[str]]:
    """(the new values as the browser keeps them, a sentence for each field that could not be taken).

    saved   the values that the browser keeps now; they stay where `fields` has no possible value
    fields  of a request, each valid by itself
    """
    models, limits, upscalers = page.engine.models(), page.engine.limits, page.engine.upscalers()
    styles = page.engine.styles()

    def recalled(values: Any) -> dict[str, Any]:
        return recall(values, page.registry, models, limits, schema, upscalers, styles)

    before = recalled(saved)
    wanted = before | {name: value for name, value in fields.items() if name in form.names}
    if "seed" in fields:
        wanted |= {"random_seed": fields["seed"] == -1, "seed": max(0, fields["seed"])}
    # 0 is the model's own size, which the sliders cannot say.
    info = models.get(wanted["model"])
    for side in ("width", "height"):
        if wanted[side] == 0 and info:
            wanted[side] = info.defaults.size
    after = recalled(wanted)
    notes = []
    for name in form.names:
        if name in after and after[name] != wanted[name]:
            after[name] = recalled(wanted | {name: before[name]})[name]
            notes.append(f"{title(name)} {str(wanted[name])[:60]} is not possible here; it stays {after[name]}.")
    for field in form_fields(schema):
        value = fields.get(field.name, field.default)
        # JSON has lists for tuples.
        if field.name not in form.names and (tuple(value) if isinstance(value, list) else value) != field.default:
            notes.append(f"{field.title} is for {_tabs_of(field)} alone.")
    options = (saved if isinstance(saved, dict) else {}).get("options")
    after["options"], wrong = _options(page, options if isinstance(options, dict) else {}, fields)
    return after, notes + wrong


def fill(
    page: Page,
    form: Form,
    saved: Any,
    fields: Mapping[str, Any],
    leave_open: Collection[str] = (),
    model_is_missing: bool = False,
) -> tuple[Updates, list[str]]:
    """(updates for `refilled(form)`, a sentence for each field that could not be taken).

    leave_open  menus to leave without a choice, because the named plugin or model is not here
    model_is_missing  whether the settings are those of another model: the next one that is chosen takes the size over
    """
    values, notes = overlay(page, form, saved, fields)
    sizes = {side: fields[side] for side in ("width", "height") if fields.get(side)} if model_is_missing else {}
    if any(values[side] != size for side, size in sizes.items()):
        notes.append("The next model that you choose gets the picture's width and height, if it can make them.")
    without: Updates = {form.fields[name]: gr.update(value=None) for name in leave_open}
    return refill(page, form, values) | without | {form.sizes: sizes}, notes


def _tabs_of(field: RequestField) -> str:
    if field.setting.needs_input:
        return "img2img"
    return "txt2img" if field.setting.needs_words else "txt2img and img2img"


def _options(page: Page, kept: Mapping[str, Any], fields: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    options = {each.kind: dict(kept.get(each.kind) or {}) for each in PLUGIN_FIELDS}
    notes = []
    for place in PLUGIN_FIELDS:
        entry = place.entries(page.registry).get(fields.get(place.name, ""))
        if entry is None or not isinstance(fields.get(place.options), Mapping):
            continue
        known, taken = {option.name: option for option in entry.item.options}, {}
        for name, value in fields[place.options].items():
            try:
                taken[name] = known[name].check(value)
            except KeyError:
                notes.append(f"{entry.name} has no option {name[:60]!r}.")
            except ValueError as error:
                notes.append(f"{entry.name}: {error}.")
        options[place.kind][entry.name] = taken
    return options, notes
