"""Paint, upload or invert the mask of an inpainting, and extend a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component
from PIL import Image, ImageChops, ImageOps

from webui.core.images import PictureError, broken, decoding, open_small, open_untrusted, png_bytes
from webui.core.inpainting import open_mask
from webui.core.limits import LOCAL, Limits
from webui.core.request import RequestError
from webui.gradio_ext.files import served_bytes, uploaded
from webui.gradio_ext.gradio_events import QUIET, RAW, Updates, on_change
from webui.gradio_ext.strokes import layers_of

from .controls import as_text, build_upload
from .describe import note
from .page_context import Page

EDITOR_SIDE = 1024  # pixels; phones run out of memory on larger pictures, and a mask needs no more
SMALL_SIDE = 512  # up to which small pictures are enlarged: brushes have sizes for large ones
PAINT = (31, 156, 136)  # the page's own green
NO_SIDES = (0, 0, 0, 0)
# What comes from elsewhere unfolds the painter. It is decided in the browser, at once: an answer of the server's might
# come after the visitor has folded it.
UNFOLD = "(mask, sides, wanted) => !wanted && (mask || /[1-9]/.test(sides)) ? true : {__type__: 'update'}"


@dataclass(frozen=True, eq=False)
class MaskPainter:
    """The parts of the painter; `mask` is the control of the request's field."""

    wanted: gr.Checkbox
    box: gr.Column
    mask: gr.Image
    editor: gr.ImageEditor
    invert: gr.Button
    clear: gr.Button
    said: gr.HTML


def build_mask_painter(mode: str) -> MaskPainter:
    """Build the painter, folded."""
    wanted = gr.Checkbox(
        False,
        label="Inpaint",
        info="Redraw a part of the picture, or extend it",
        elem_id=f"{mode}-inpaint",
        interactive=True,
    )
    with gr.Column(visible=False, elem_classes="painter", elem_id=f"{mode}-painter") as box:
        editor = gr.ImageEditor(
            type="pil",
            layers=False,
            brush=gr.Brush(colors=[f"rgb{PAINT}"], color_mode="fixed"),
            transforms=(),
            sources=(),
            label="Paint over what is to be redrawn",
            height=380,
            elem_id=f"{mode}-editor",
            buttons=["fullscreen"],
            interactive=True,
        )
        with gr.Row(elem_classes="mask"):
            mask = build_upload(f"{mode}-mask", "Mask: white is redrawn", 120, min_width=120, scale=2)
            with gr.Column(min_width=90, scale=1):
                invert = gr.Button("Invert", size="sm", elem_id=f"{mode}-mask-invert", min_width=80)
                clear = gr.Button("Clear", size="sm", elem_id=f"{mode}-mask-clear", min_width=80)
        said = gr.HTML(elem_id=f"{mode}-mask-note")
    return MaskPainter(wanted, box, mask, editor, invert, clear, said)


def connect_mask_painter(
    painter: MaskPainter, image: Component, settings: gr.Column, sides: Component, page: Page
) -> None:
    """Wire a painter.

    image     the upload of the picture that is painted on
    settings  those of inpainting, which fold with the painter
    sides     the control of how far the picture is extended
    page      whose engine says how large a picture may be
    """
    mask, editor, said = painter.mask, painter.editor, painter.said

    def fold(wanted: Any, image: Any, painted: Any) -> Updates:
        # What is folded away does not count. The painter is hidden and not removed: Gradio's editor asks itself for
        # the strokes a moment after the last one, and fails if it is gone by then.
        folded = show(wanted, image, painted) if wanted else {mask: None, sides: as_text(NO_SIDES), said: ""}
        return {
            painter.box: gr.update(visible=bool(wanted) or "hidden"),
            settings: gr.update(visible=bool(wanted)),
        } | folded

    def show(wanted: Any, image: Any, mask: Any) -> Updates:
        if not wanted:
            return {said: ""}
        try:
            return {
                editor: canvas_of(image, mask, page.engine.limits),
                said: "" if image else note("Upload the input picture first."),
            }
        except RequestError as error:
            return {editor: None, said: note(str(error), problem=True)}

    def paint(value: Any, wanted: Any) -> Updates:
        if not wanted:
            return {mask: None, said: ""}
        try:
            painted = mask_of(layers_of(editor, value))
            return {mask: None if painted is None else served_bytes(painted, "mask.png"), said: ""}
        except RequestError as error:
            return {said: note(str(error), problem=True)}

    def inverted(image: Any, mask: Any) -> Updates:
        try:
            limits = page.engine.limits
            turned = served_bytes(inverted_mask(image, mask, limits), "mask.png")
            return {painter.mask: turned, editor: canvas_of(image, {"path": turned}, limits), said: ""}
        except RequestError as error:
            return {said: note(str(error), problem=True)}

    seen = [painter.wanted, image, mask]
    for control in (mask, sides):
        control.change(None, [mask, sides, painter.wanted], painter.wanted, js=UNFOLD, trigger_mode="multiple", **QUIET)
    on_change([painter.wanted], fold, seen, [painter.box, settings, mask, sides, editor, said], **QUIET)
    on_change([image], show, seen, [editor, said], **QUIET)
    mask.upload(show, seen, [editor, said], **QUIET, **RAW)
    mask.clear(show, seen, [editor, said], **QUIET, **RAW)
    painted = editor.input(paint, [editor, painter.wanted], [mask, said], trigger_mode="always_last", **QUIET, **RAW)
    # A stroke's mask may come after the painter was folded, and would count unseen.
    painted.then(None, painter.wanted, mask, js="(wanted) => wanted ? {__type__: 'update'} : null", **QUIET)
    painter.invert.click(inverted, [image, mask], [mask, editor, said], **QUIET, **RAW)
    painter.clear.click(
        lambda wanted, image: {mask: None, **show(wanted, image, None)}, seen[:2], [mask, editor, said], **QUIET, **RAW
    )


def canvas_of(image: Any, mask: Any, limits: Limits = LOCAL) -> dict[str, Any] | None:
    """The editor's value for an uploaded picture, scaled down, and its mask if there is one. Raises RequestError."""
    if not image:
        return None
    picture, size = open_small(uploaded(image), EDITOR_SIDE // 2, limits)
    picture.thumbnail((EDITOR_SIDE, EDITOR_SIDE))
    if enlarge := SMALL_SIDE // max(size):
        picture = picture.resize((size[0] * enlarge, size[1] * enlarge), Image.Resampling.NEAREST)
    layers = []
    if mask:
        with decoding():
            alpha = open_mask(uploaded(mask), size, limits).resize(picture.size)
        layer = Image.new("RGBA", picture.size, (*PAINT, 0))
        layer.putalpha(alpha)
        layers.append(layer)
    return dict(background=picture, layers=layers, composite=None)


def mask_of(layers: Sequence[bytes | Path]) -> bytes | None:
    """PNG of what is painted on the editor's layers, white on black; None if nothing is. Raises PictureError."""
    painted: Image.Image | None = None
    for layer in layers:
        with decoding(), open_untrusted(BytesIO(layer) if isinstance(layer, bytes) else layer) as image:
            if max(image.size) > EDITOR_SIDE:
                raise PictureError(f"What is painted is larger than {EDITOR_SIDE} pixels; open the picture again.")
            with broken("mask"):
                alpha = image.convert("RGBA").getchannel("A")
        if painted is not None and alpha.size != painted.size:
            raise PictureError("What is painted has layers of several sizes; open the picture again.")
        painted = alpha if painted is None else ImageChops.lighter(painted, alpha)
    if painted is None or painted.getbbox() is None:
        return None
    # A brush is not quite opaque, and what is painted is to be free from the first step on.
    return png_bytes(painted.point(lambda value: 255 if value > 127 else 0))


def inverted_mask(image: Any, mask: Any, limits: Limits = LOCAL) -> bytes:
    """PNG of the inverted mask of an uploaded picture; without a mask, everything is painted. Raises RequestError."""
    if not image:
        raise RequestError("Upload the input picture first.")
    _, size = open_small(uploaded(image), 1, limits)
    with decoding():
        before = open_mask(uploaded(mask), size, limits) if mask else Image.new("L", size)
        before.thumbnail((EDITOR_SIDE, EDITOR_SIDE))
    return png_bytes(ImageOps.invert(before))
