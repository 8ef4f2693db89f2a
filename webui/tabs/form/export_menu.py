"""The small menu beside Download: in which file format a picture leaves, always with its settings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from webui.core.export import FORMATS, convert
from webui.core.request import RequestError
from webui.gradio_ext.files import served_bytes
from webui.gradio_ext.gradio_events import QUIET


def format_menu(mode: str) -> gr.Dropdown:
    """The menu."""
    return gr.Dropdown(
        list(FORMATS),
        value="PNG",
        label="File format",
        show_label=False,
        container=False,
        interactive=True,
        scale=0,
        min_width=96,
        filterable=False,
        elem_id=f"{mode}-format",
        elem_classes="format",
    )


def connect_format(menu: gr.Dropdown, result: Any) -> None:
    """Keep what `result` offers for download in the format of the menu."""
    parts = [result.made, result.chosen]
    triggers = [menu.change, *(part.change for part in parts)]
    gr.on(triggers, _download, [menu, *parts], result.download, trigger_mode="always_last", **QUIET)


def _download(kind: str, made: Sequence[tuple[str, int]], chosen: int) -> Any:
    if not made:
        return gr.skip()
    file = made[chosen if 0 <= chosen < len(made) else 0][0]
    if kind == "PNG":
        return gr.update(value=file)
    try:
        name, data = convert(Path(file), kind)
        return gr.update(value=served_bytes(data, name))
    except RequestError as error:
        gr.Warning(str(error))
        return gr.update(value=file)
