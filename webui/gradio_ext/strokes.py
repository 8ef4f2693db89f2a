"""Strokes on a gr.ImageEditor, which the browser sends as files before the event that takes them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.datastructures import Headers
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from .files import uploaded
from .json_bodies import resend_body

# Where a component's own function is called: with JSON, and with a file for the strokes of an editor.
COMPONENT = re.compile(r"^/gradio_api/component_server/?$")
MOST_LAYERS = 4
MOST_BYTES = 64 * 1024 * 1024  # of strokes whose event has not come yet


class Strokes:
    """ASGI middleware for files of an editor: keeps its layers, and of those only so many; the rest is known already.

    The browser sends layers, the background and both together. Gradio 6.31 keeps them for ever if their event does not
    come, and makes room for as many layers as the number of one says.
    """

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await Request(scope, receive).body()
            form = await Request(scope, resend_body(body)).form(max_files=1, max_fields=10)
        except ClientDisconnect:
            return
        except (MultiPartException, ValueError, KeyError):
            form = None
        if form is not None and form.get("type") in ("background", "composite"):
            await JSONResponse(None)(scope, receive, send)
            return
        layer = form and form.get("index")
        if not (isinstance(layer, str) and layer in map(str, range(MOST_LAYERS))):
            await JSONResponse({"detail": "These are no strokes on a mask; reload the page."}, 422)(
                scope, receive, send
            )
            return
        await self._app(scope, resend_body(body, receive), send)
        for block in scope["app"].get_blocks().blocks.values():
            if isinstance(block, gr.ImageEditor):
                _forget_oldest(block)


def is_file(scope: Scope) -> bool:
    """Whether a request brings a file of an editor, for `Strokes`."""
    kind = Headers(scope=scope).get("content-type", "").lower()
    return COMPONENT.match(scope["path"]) is not None and kind.startswith("multipart/form-data")


def layers_of(editor: gr.ImageEditor, value: Any) -> Sequence[bytes | Path]:
    """The layers, PNG each, of a value of an editor, for an event that gets it `RAW`. Raises RequestError.

    The browser sends them by the value's id, or as uploaded files.
    """
    if not isinstance(value, Mapping):
        return []
    name, files = value.get("id"), value.get("layers")
    blobs = editor.blob_storage.pop(name, None) if isinstance(name, str) else None
    if blobs:
        return [layer for layer in blobs.layers if layer is not None]
    return [uploaded(file) for file in files[:MOST_LAYERS]] if isinstance(files, list) else []


def _forget_oldest(editor: gr.ImageEditor) -> None:
    sizes = {
        name: sum(len(layer or b"") for layer in blobs.layers) for name, blobs in list(editor.blob_storage.items())
    }
    surplus = sum(sizes.values()) - MOST_BYTES
    for name, size in sizes.items():
        if surplus > 0:
            editor.blob_storage.pop(name, None)
            surplus -= size
