"""The parts of the tab History."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr
from gradio.blocks import Block

from webui.gradio_ext.gradio_events import signal
from webui.tabs.form.controls import build_gallery, small_button

POLL = 2.0  # seconds between refreshes while the index is being filled
ANY = [("Any", "")]


@dataclass(frozen=True, eq=False)
class HistoryWidgets:
    """The tab's parts.

    shown   the pictures of the page, a list of HistoryEntry; `chosen` is the index of one
    large   the chosen picture, with its recipe in `recipe`; both are in `panel`
    gone    the file of the picture that was deleted last, which `undo` brings back
    place   (filters, cursors): the ids before which the pages up to this one start
    turned  a new number with each change of `place`; a hidden number, since the event of a state can get lost
    """

    prompt: gr.Textbox
    sampler: gr.Dropdown
    model: gr.Dropdown
    hearts: gr.Checkbox
    cells: gr.Checkbox
    note: gr.HTML
    gallery: gr.Gallery
    panel: gr.Column
    large: gr.Image
    recipe: gr.HTML
    heart: gr.Button
    delete: gr.Button
    undo: gr.Button
    gone: gr.State
    newer: gr.Button
    older: gr.Button
    picked: gr.HTML
    info: gr.Button
    send: dict[str, gr.Button]
    shown: gr.State
    place: gr.State
    chosen: gr.State
    turned: gr.Number
    timer: gr.Timer

    @property
    def inputs(self) -> list[gr.components.Component]:
        """The values that choose the pictures."""
        return [self.prompt, self.sampler, self.model, self.hearts, self.cells, self.place]

    @property
    def outputs(self) -> list[Block]:
        """The outputs of a refresh."""
        return [
            self.sampler,
            self.model,
            self.note,
            self.gallery,
            self.newer,
            self.older,
            self.panel,
            self.shown,
            self.chosen,
            self.timer,
        ]


def build_widgets() -> HistoryWidgets:
    """Build them."""
    with gr.Row(elem_classes="filters"):
        prompt = gr.Textbox(
            label="Prompt has",
            placeholder="words, or how they begin",
            max_lines=1,
            elem_id="history-prompt",
            scale=3,
            min_width=200,
        )
        sampler, model = (
            gr.Dropdown(
                ANY, value="", label=name.capitalize(), elem_id=f"history-{name}", interactive=True, min_width=130
            )
            for name in ("sampler", "model")
        )
        hearts = gr.Checkbox(False, label="With a heart", elem_id="history-hearts", container=False, min_width=110)
        cells = gr.Checkbox(False, label="Lab's cells too", elem_id="history-cells", container=False, min_width=120)
    with gr.Row(elem_classes="told"):
        note = gr.HTML(elem_id="history-note")
        undo = small_button("Bring it back", "history-undo", visible=False)
    with gr.Row(elem_classes="album"):
        gallery = build_gallery("history-gallery", "pictures", columns=6, allow_preview=False)
        with gr.Column(visible=False, elem_id="history-panel", elem_classes="large-view", min_width=0) as panel:
            large = gr.Image(
                show_label=False,
                type="filepath",
                interactive=False,
                buttons=["download", "fullscreen"],
                elem_id="history-large",
            )
            picked = gr.HTML(elem_id="history-picked", elem_classes="picked")
            with gr.Row(elem_classes="actions", elem_id="history-actions"):
                heart = small_button("Heart", "history-heart")
                send = {mode: small_button(mode, f"history-to-{mode}") for mode in ("txt2img", "img2img")}
                info = small_button("Info", "history-info")
                delete = small_button("Delete", "history-delete")
            recipe = gr.HTML(elem_id="history-recipe")
    with gr.Row(elem_classes="turn"):
        newer = small_button("Newer", "history-newer", visible=False, min_width=90)
        older = small_button("Older", "history-older", visible=False, min_width=90)
    states = gr.State([]), gr.State(None), gr.State(0)
    return HistoryWidgets(
        prompt,
        sampler,
        model,
        hearts,
        cells,
        note,
        gallery,
        panel,
        large,
        recipe,
        heart,
        delete,
        undo,
        gr.State(None),
        newer,
        older,
        picked,
        info,
        send,
        *states,
        signal(),
        gr.Timer(POLL, active=False),
    )
