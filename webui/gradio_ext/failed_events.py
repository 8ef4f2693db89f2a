"""Words for events that failed with an error of the program: Gradio answers `{"error": null}`, which says nothing."""

from __future__ import annotations

import json
import re

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

RUN = re.compile(r"^/gradio_api/(run|api)/")
TEXT = "The server met an error of its own; its log says which."
UNKNOWN = "There is no such call; its answer may have been fetched already."
WORDS = json.dumps({"error": TEXT}).encode()
# In an answer, in a stream of messages, in the stream of one call; and what a stream says that does not exist. No text
# of a user can contain these quotes.
SILENT = {
    b'{"error":null}': WORDS,
    b'{"error": null}': WORDS,
    b'"message":"404: Not Found"': json.dumps({"message": UNKNOWN}).encode()[1:-1],
    b'data: "404: Not Found"': f'data: "{UNKNOWN}"'.encode(),
}
FAILED = (b'"success":false', b"event: error")


class FailedEvents:
    """ASGI middleware that puts words into the answers to events whose error has none.

    Gradio gives the words of a gr.Error only, or those of every error, with paths of the machine in them. A stream that
    does not exist it breaks off, with a traceback in the log.
    """

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        failed: Message | None = None
        streaming = False

        async def send_words(message: Message) -> None:
            nonlocal failed, streaming
            if message["type"] == "http.response.start":
                kind = dict(message["headers"]).get(b"content-type", b"")
                streaming = kind.startswith(b"text/event-stream")
                if message["status"] == 500 and RUN.match(scope["path"]):
                    # It says how long the body is, which is not known yet.
                    failed = message
                    return
            elif failed:
                await _send_whole(failed, message, send)
                return
            elif streaming and any(mark in message.get("body", b"") for mark in FAILED):
                message = {**message, "body": with_words(message["body"])}
            await send(message)

        try:
            await self._app(scope, receive, send_words)
        except (HTTPException, RuntimeError) as error:
            # Starlette raises a RuntimeError from an error that it has an answer for but cannot send any more.
            if not streaming or not (isinstance(error, HTTPException) or isinstance(error.__cause__, HTTPException)):
                raise
            await send({"type": "http.response.body", "body": b""})


async def _send_whole(start: Message, message: Message, send: Send) -> None:
    body = with_words(message.get("body", b""))
    headers = [each for each in start["headers"] if each[0] != b"content-length"]
    await send({**start, "headers": [*headers, (b"content-length", b"%d" % len(body))]})
    await send({**message, "body": body})


def with_words(body: bytes) -> bytes:
    """An answer, or a part of a stream, with words for each error that has none."""
    for silent, words in SILENT.items():
        body = body.replace(silent, words)
    return body
