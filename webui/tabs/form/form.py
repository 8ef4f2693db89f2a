"""The form of a tab: its controls by name, and the request that their values make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from webui.core.fields import upload_fields
from webui.core.plugin_fields import PLUGIN_FIELDS
from webui.core.request import Request, RequestError, read
from webui.core.text import title
from webui.gradio_ext.files import uploaded
from webui.gradio_ext.option_rows import OptionBox


@dataclass(frozen=True, eq=False)
class Form:
    """The controls of a tab by name, and the states behind them.

    options   {"samplers": {name: {option: value}}, ...}, those of every plugin, so that switching loses nothing
    boxes     the widgets of the options that are shown
    sizes     width and height of a picture whose model is not here, for the next model that is chosen
    revision  0 until the browser's settings are in, `RESTORED` then, and a new number when other settings are put in
    edits     a new number with each change of an option
    revision and edits are hidden controls and not states: a state's change event gets lost while a page opens.
    """

    mode: str
    fields: Mapping[str, gr.components.Component]
    options: gr.State
    boxes: Sequence[OptionBox]
    revision: gr.Number
    edits: gr.Number
    sizes: gr.State
    shapes: gr.HTML
    note: gr.HTML
    plan: gr.HTML
    model_note: gr.HTML

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the controls whose values make a request."""
        return tuple(self.fields)

    @property
    def kept_names(self) -> tuple[str, ...]:
        """The names of those whose values a browser can keep: all but uploads."""
        uploads = upload_fields(Request)
        return tuple(name for name in self.names if name not in uploads)

    @property
    def inputs(self) -> list[gr.components.Component]:
        """The controls and the options, as an event takes them; `values` reads what arrives."""
        shown = [each for box in self.boxes for each in box.inputs]
        return [self.options, *shown, *(self.fields[name] for name in self.names)]

    def values(self, given: Sequence[Any]) -> dict[str, Any]:
        """The values of `inputs` by name, with those of the options under "options"."""
        options, rest = given[0], list(given[1:])
        # What was typed a moment ago is in its widget, and may still be on its way into the state.
        for box in self.boxes:
            size = len(box.inputs)
            options, rest = box.merged(options, rest[:size]), rest[size:]
        return {"options": options, **dict(zip(self.names, rest, strict=True))}


def to_request(mode: str, values: Mapping[str, Any], schema: type[Request] = Request) -> Request:
    """The request that a form's values make. Raises RequestError."""
    for name in (*(each.name for each in PLUGIN_FIELDS), "model"):
        # A picture or link named one that is not here; the default would be another one than the user asked for.
        if not isinstance(values[name], str):
            raise RequestError(f"No {title(name).lower()} is chosen; choose one from the menu.")
    uploads = {name: uploaded(values[name]) for name in upload_fields(schema) if values.get(name)}
    fields = {name: value for name, value in values.items() if name not in ("random_seed", "options")} | uploads
    # An empty upload may be more than None.
    fields |= {name: None for name in upload_fields(schema) if name in values and name not in uploads}
    fields |= dict(
        mode=mode,
        prompt=values["prompt"] or "",
        negative_prompt=values["negative_prompt"] or "",
        model=values["model"] or "",
        seed=-1 if values["random_seed"] else values["seed"],
    )
    for each in PLUGIN_FIELDS:
        fields[each.options] = values["options"][each.kind].get(values[each.name], {})
    return read(fields, schema)
