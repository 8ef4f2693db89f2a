"""The option widgets of the chosen sampler and schedule, whose values outlive each choice.

They are built once, with the page: a row of controls that is long enough to show any plugin's options in their order.
A choice gives them their labels, ranges and values.

`gr.render` would be the obvious way, and loses events in Gradio 6.31: an event of a widget that is being drawn anew is
answered with a 500 (KeyError in route_utils.get_fn) or "dictionary changed size during iteration".
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from typing import Any

import gradio as gr
from gradio.events import Dependency

from samplers.options import BoolOption, ChoiceOption, NumberOption, Option, TextOption
from samplers.registry import Entry
from webui.core.text import title

from .gradio_events import QUIET, RESTORED, after_values, gather, on_choice

FEW = 200  # whole numbers up to this many get a slider
WIDE = 1000  # a range this much wider than its low end is no use on a linear slider
# Classes of a widget that stands for no option. Not `visible`: a widget that Gradio removes from the page comes back
# with its old value, whatever it was given, and one that it hides in a tab that was never opened stays hidden.
UNUSED = ["unused"]
Control = type[gr.components.Component]
SPARE: Sequence[Control] = (gr.Slider, gr.Slider, gr.Number, gr.Checkbox, gr.Dropdown, gr.Textbox)


@dataclass(frozen=True, eq=False)
class OptionBox:
    """The widgets for whatever a menu names.

    kind     "samplers" or "schedules"
    entries  what the menu can name now
    choice   the menu
    shown    the name whose options the widgets stand for. The browser changes it together with them, so that a value
             which was typed just before another name was chosen goes to the old one
    slots    the widgets
    usual    the button that brings the defaults back
    """

    kind: str
    entries: Callable[[], Mapping[str, Entry]]
    choice: gr.Dropdown
    shown: gr.Textbox
    slots: Sequence[gr.components.Component]
    usual: gr.Button

    @property
    def inputs(self) -> list[gr.components.Component]:
        """What `merged` reads."""
        return [self.shown, *self.slots]

    def options(self, name: Any) -> dict[int, Option]:
        """The declared options of an entry by their place among the widgets; none for a name that is not known."""
        return placed(self._declared(name), [type(slot) for slot in self.slots])

    def left_out(self, name: Any) -> list[str]:
        """The options of an entry that have no widget: a plugin that was loaded anew may have more than it had."""
        shown = [option.name for option in self.options(name).values()]
        return [option.name for option in self._declared(name) if option.name not in shown]

    def _declared(self, name: Any) -> Sequence[Option]:
        entry = self.entries().get(name) if isinstance(name, str) else None
        return entry.item.options if entry else ()

    def merged(self, kept: Mapping[str, Any], given: Sequence[Any]) -> Mapping[str, Any]:
        """A form's options with the values of `inputs` put in."""
        name, values = given[0], given[1:]
        mine = {option.name: values[place] for place, option in self.options(name).items()}
        return {**kept, self.kind: {**kept[self.kind], name: mine}} if mine else kept

    def drawn(self, name: Any, kept: Mapping[str, Any], built: bool = False) -> tuple[list[Any], list[Any]]:
        """What the browser does to show the options of `name`: first to `slots`, then to `inputs`.

        built  whether the widgets are as they were built, but for what a visitor entered, which is left alone
        """
        name = name if isinstance(name, str) else None
        new = self.options(name)
        # Of a plugin that was loaded anew a moment ago, nothing may be kept yet.
        values = {option.name: option.default for option in new.values()} | kept[self.kind].get(name, {})
        if built and name == self.shown.value and all(values[o.name] == o.default for o in new.values()):
            return [_update()] * len(self.slots), [_update()] * len(self.inputs)
        dressed = {place: _update(**limits(option)) for place, option in new.items()}
        # The value comes first: the browser changes the first property of all widgets in one go.
        filled = {place: _update(value=values[option.name], elem_classes=[]) for place, option in new.items()}
        places = range(len(self.slots))
        first = [dressed.get(place, _update()) for place in places]
        return first, [name or "", *(filled.get(place, _update(elem_classes=UNUSED)) for place in places)]


def build_options(
    mode: str, kind: str, entries: Callable[[], Mapping[str, Entry]], choice: gr.Dropdown, spare: Sequence[Control] = ()
) -> OptionBox:
    """Build the widgets for the options of `choice`, one of `entries`; `connect_options` connects their events.

    spare  more widgets, for plugins that are loaded anew with more options
    """
    now = entries()
    controls = [*row_for([control(option) for option in entry.item.options] for entry in now.values()), *spare]
    first = placed(now[choice.value].item.options if choice.value in now else (), controls)
    # Hidden by its style: Gradio shows all that is in a box when it shows the box.
    with gr.Column(elem_id=f"{mode}-{kind}-options", elem_classes="options"):
        slots = [_slot(each, first.get(place)) for place, each in enumerate(controls)]
        usual = gr.Button("Defaults", size="sm", scale=0, min_width=0, elem_classes="usual")
    return OptionBox(
        kind, entries, choice, gr.Textbox(choice.value or "", visible=False, container=False), slots, usual
    )


def connect_options(boxes: Sequence[OptionBox], store: gr.State, revision: gr.Number, edits: gr.Number) -> None:
    """Show the options of what is chosen; their values go to store[kind][name].

    revision  changes when the form was filled from outside, so that the widgets are filled, too
    edits     is changed with each change of an option
    """
    sizes = [len(box.inputs) for box in boxes]
    inputs = [each for box in boxes for each in box.inputs]

    def keep(kept: dict[str, Any], *given: Any) -> list[Any]:
        now: Mapping[str, Any] = kept
        rest = given
        for box, size in zip(boxes, sizes, strict=True):
            now, rest = box.merged(now, rest[:size]), rest[size:]
        return [gr.skip()] * 2 if now == kept else [now, time.time()]

    # A choice touches no other menu's options: one of them may have been typed a moment ago.
    for box in boxes:
        _draw([box], store, partial(on_choice, box.choice))
    _draw(boxes, store, partial(gather, after_values(revision), trigger_mode="always_last"), revision)
    slots = [slot for box in boxes for slot in box.slots]
    if slots:
        changes = [each.change for each in slots]
        gather(partial(gr.on, changes), keep, [store, *inputs], [store, edits], trigger_mode="always_last", **QUIET)
    for box in boxes:
        box.usual.click(partial(_reset, box), [box.shown, store], [store, edits, revision], **QUIET)


def _draw(
    boxes: Sequence[OptionBox], store: gr.State, listen: Callable[..., Dependency], revision: gr.Number | None = None
) -> None:
    """Show the options of what is chosen in these boxes, with their values, whenever `listen` hears something."""

    def draw(kept: dict[str, Any], *given: Any) -> list[list[Any]]:
        names, built = given[: len(boxes)], given[len(boxes) :] == (RESTORED,)
        updates = [box.drawn(name, kept, built) for box, name in zip(boxes, names, strict=True)]
        return [[each for update in updates for each in update[step]] for step in (0, 1)]

    drawn = gr.JSON(visible=False)
    told = listen(draw, [store, *(box.choice for box in boxes), *filter(None, [revision])], drawn, **QUIET)
    # By the browser itself: for each event of the server's, Gradio goes through all that were ever its outputs.
    dressed = told.then(None, drawn, [slot for box in boxes for slot in box.slots], js="(drawn) => drawn[0]", **QUIET)
    dressed.then(None, drawn, [each for box in boxes for each in box.inputs], js="(drawn) => drawn[1]", **QUIET)


def _reset(box: OptionBox, name: str, kept: dict[str, Any]) -> list[Any]:
    usual = {each.name: each.default for each in box.options(name).values()}
    return [{**kept, box.kind: {**kept[box.kind], name: usual}}, time.time(), time.time()]


def row_for(lists: Iterable[Sequence[Control]]) -> list[Control]:
    """A short row of controls in which each of the lists is found in its order; next is always what most still need."""
    # Short ones first: among equals, the first decides.
    rest, row = [list(each) for each in sorted(lists, key=len) if each], []
    while rest:
        wanted: Counter[Control] = Counter()
        for each in rest:
            wanted[each[0]] += len(each)
        row.append(max(wanted, key=wanted.__getitem__))
        rest = [left for each in rest if (left := each[1:] if each[0] is row[-1] else each)]
    return row


def placed(options: Sequence[Option], row: Sequence[Control]) -> dict[int, Option]:
    """Options by their places in a row; one for which it is too short, and those after it, have none."""
    places, found = iter(enumerate(row)), {}
    for option in options:
        place = next((place for place, kind in places if kind is control(option)), None)
        if place is None:
            break
        found[place] = option
    return found


def control(option: Option) -> Control:
    """The kind of control that an option gets."""
    if isinstance(option, NumberOption):
        return gr.Slider if on_slider(option) else gr.Number
    if isinstance(option, BoolOption):
        return gr.Checkbox
    return gr.Dropdown if isinstance(option, ChoiceOption) else gr.Textbox


def limits(option: Option) -> dict[str, Any]:
    """What makes its control the option's. Help texts are a plugin's own words, and Gradio would read them as HTML."""
    common: dict[str, Any] = dict(label=title(option.name), info=escape(option.help, quote=False) or None)
    if isinstance(option, ChoiceOption):
        return common | dict(choices=[(each, each) for each in option.choices])
    if isinstance(option, TextOption):
        return common | dict(max_length=option.longest)
    if isinstance(option, NumberOption):
        fine = 10.0 ** math.floor(math.log10(option.high - option.low) - 2)
        step = option.step or (1 if option.whole else fine)
        return common | dict(minimum=option.low, maximum=option.high, step=step)
    return common


def _slot(kind: Control, option: Option | None) -> gr.components.Component:
    """A control: for the option that is shown first, or hidden."""
    # Gradio takes a control without static listeners for an output, so each has to say that it is interactive. The
    # slider's own button would go back to what another sampler had here.
    more: dict[str, Any] = dict(interactive=True) | (dict(buttons=[]) if kind is gr.Slider else {})
    return kind(value=option.default, **limits(option), **more) if option else kind(elem_classes=UNUSED, **more)


def _update(**properties: Any) -> dict[str, Any]:
    return {"__type__": "update", **properties}


def on_slider(option: NumberOption) -> bool:
    """Whether a linear slider reaches all values of a number well."""
    if option.whole:
        return option.high - option.low <= FEW
    return option.low <= 0 or option.high / option.low < WIDE
