"""The controls for the axes of a grid: what varies, and its values. The browser keeps them over a reload."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from samplers.registry import Registry
from webui.gradio_ext.gradio_events import QUIET, Updates, on_change, on_choice, opening, signal
from webui.tabs.form.page_context import Page

from .axes import Axis, hint, kinds, menu, read_axis
from .grid import POLICIES

STORE = "axes"
PLACES = ("Along a row", "Down a column", "One block each")
DEFAULTS: Sequence[tuple[str, list[str], str]] = (
    ("sampler", ["DDPM", "DDIM", "Euler", "Heun"], ""),
    ("steps", [], "5, 10, 20"),
    ("", [], ""),
)
MAX_TYPED = 10_000  # characters of typed values that are kept


@dataclass(frozen=True)
class Described:
    """An axis as the page has it: its kind, "" for none, and its values, chosen from a menu or typed."""

    kind: str
    picked: Sequence[str]
    typed: str


NOTHING = Described("", (), "")


@dataclass(frozen=True, eq=False)
class AxesView:
    """Kind, menu and text box of each place, and the seed policy; `restored` is 0 until the browser's own are in."""

    controls: Sequence[gr.components.Component]
    policy: gr.Radio
    restored: gr.Number

    @property
    def inputs(self) -> list[gr.components.Component]:
        """What `read_axes` takes."""
        return [*self.controls, self.policy]

    @property
    def outputs(self) -> list[gr.components.Component]:
        """What `restore_axes` returns updates for."""
        return [*self.inputs, self.restored]


def build_axes(page: Page, mode: str) -> AxesView:
    """Build the controls and have the browser keep them."""
    with gr.Row(elem_classes="axes"):
        first = recall_axes(None, page.registry)[0]
        controls = [one for place, axis in enumerate(first) for one in _build_axis(page, mode, place, axis)]
    policy = gr.Radio(
        [(text, name) for name, text in POLICIES.items()],
        value="same",
        label="Seed",
        elem_id=f"{mode}-policy",
        interactive=True,
    )
    restored = signal(name=f"{mode}-filled")
    view = AxesView(controls, policy, restored)

    def keep(restored: float, *given: Any) -> Any:
        # Before the browser's own values are in the tab, the first ones must not overwrite them.
        return {"axes": _by_axis(given), "policy": given[-1]} if restored else gr.skip()

    on_change(view.inputs, keep, [restored, *view.inputs], page.kept[STORE], **QUIET)
    return view


def read_axes(given: Sequence[Any], registry: Registry) -> tuple[list[Axis], str]:
    """The axes that the values of `AxesView.inputs` stand for, and the seed policy. Raises RequestError."""
    axes = []
    for kind, picked, typed in _by_axis(given):
        if isinstance(kind, str) and kind:
            names = [str(name) for name in picked] if isinstance(picked, list) else []
            axes.append(read_axis(kind, names if menu(kind, registry) else str(typed or ""), registry))
    return axes, str(given[-1])


def recall_axes(saved: Any, registry: Registry) -> tuple[list[Described], str]:
    """Axes and seed policy from what a browser kept; an axis that no longer fits becomes the default of its place."""
    saved = saved if isinstance(saved, dict) else {}
    axes, policy = saved.get("axes"), saved.get("policy")
    kept = axes if isinstance(axes, list) and len(axes) == len(PLACES) else DEFAULTS
    described = [
        _described(each, registry) or _described(default, registry) or NOTHING
        for each, default in zip(kept, DEFAULTS, strict=True)
    ]
    return described, policy if isinstance(policy, str) and policy in POLICIES else "same"


def restore_axes(page: Page, view: AxesView, saved: Any) -> Updates:
    """Updates for `view.outputs` from what the browser kept, for a page that is being opened, and for other plugins."""
    axes, policy = recall_axes(saved, page.registry)
    updates = [*axes_updates(axes, page.registry), policy, time.time()]
    if page.engine.reloads:
        for place in range(len(PLACES)):
            updates[3 * place]["choices"] = _choices(page.registry)
    return opening(dict(zip(view.outputs, updates, strict=True)))


def axes_updates(axes: Sequence[Described], registry: Registry) -> list[Any]:
    """Updates for `AxesView.controls`."""
    return [update for axis in axes for update in _updates(axis, registry)]


def _by_axis(given: Sequence[Any]) -> list[Sequence[Any]]:
    """The kind, the menu's and the typed value of each place, from those of `AxesView.inputs`."""
    return [given[at : at + 3] for at in range(0, 3 * len(PLACES), 3)]


def _described(kept: Any, registry: Registry) -> Described | None:
    """An axis from its three values; None if they make none here."""
    if not (isinstance(kept, list | tuple) and len(kept) == 3):
        return None
    kind, picked, typed = kept
    if kind in ("", None):
        return NOTHING
    if not isinstance(kind, str) or kind not in kinds(registry):
        return None
    names = menu(kind, registry)
    if names is not None:
        return Described(kind, [name for name in picked if name in names] if isinstance(picked, list) else (), "")
    return Described(kind, (), typed[:MAX_TYPED]) if isinstance(typed, str) else None


def _updates(axis: Described, registry: Registry) -> list[Any]:
    names = menu(axis.kind, registry) if axis.kind else None
    return [
        gr.update(value=axis.kind),
        gr.update(**_menu(axis, names)),
        gr.update(**_text(axis, names, registry)),
    ]


def _menu(axis: Described, names: list[str] | None) -> Mapping[str, Any]:
    return dict(choices=names or [], value=list(axis.picked), visible=bool(names))


def _text(axis: Described, names: list[str] | None, registry: Registry) -> Mapping[str, Any]:
    about = hint(axis.kind, registry) if axis.kind else ""
    return dict(value=axis.typed, placeholder=about, visible=bool(axis.kind) and not names)


def _choices(registry: Registry) -> list[tuple[str, str]]:
    return [("Nothing", ""), *((title, name) for name, title in kinds(registry).items())]


def _build_axis(page: Page, mode: str, place: int, axis: Described) -> list[gr.components.Component]:
    """What varies along one axis, and its values: from a menu, or typed."""
    registry = page.registry
    names = menu(axis.kind, registry) if axis.kind else None
    number = place + 1
    with gr.Column(elem_classes="card", min_width=240):
        kind = gr.Dropdown(
            _choices(registry),
            value=axis.kind,
            label=PLACES[place],
            elem_id=f"{mode}-axis{number}",
            interactive=True,
        )
        picked = gr.Dropdown(
            **_menu(axis, names), multiselect=True, label="Values", interactive=True, elem_id=f"{mode}-names{number}"
        )
        typed = gr.Textbox(
            **_text(axis, names, registry),
            label="Values",
            max_lines=3,
            interactive=True,
            elem_id=f"{mode}-values{number}",
        )

    def follow(kind: Any) -> list[Any]:
        registry = page.registry
        kind = kind if isinstance(kind, str) and kind in kinds(registry) else ""
        names = menu(kind, registry) if kind else None
        return _updates(Described(kind, (names or [])[:6], ""), registry)[1:]

    # Not a change: a kind that is set from elsewhere brings its values with it.
    on_choice(kind, follow, kind, [picked, typed], **QUIET)
    return [kind, picked, typed]
