"""Words for events that failed with an error of the program: Gradio answers `{"error": null}`, which says nothing."""

from __future__ import annotations

import json
import re

from starlette.types import ASGIApp, Message, Receive, Scope, Send

RUN = re.compile(r"^/gradio_api/(run|api)/")
TEXT = "The server met an error of its own; its log says which."
# As it is in an answer, in a stream of messages and in the stream of one call; no text of a user can contain them.
SILENT = (b'{"error":null}', b'{"error": null}')
FAILED = (b'"success":false', b"event: error")
WORDS = json.dumps({"error": TEXT}).encode()


class FailedEvents:
    """ASGI middleware that puts words into the answers to events whose error has none.

    Gradio gives the words of a gr.Error only, or those of every error, with paths of the machine in them.
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

        await self._app(scope, receive, send_words)


async def _send_whole(start: Message, message: Message, send: Send) -> None:
    body = with_words(message.get("body", b""))
    headers = [each for each in start["headers"] if each[0] != b"content-length"]
    await send({**start, "headers": [*headers, (b"content-length", b"%d" % len(body))]})
    await send({**message, "body": body})


def with_words(body: bytes) -> bytes:
    """An answer, or a part of a stream, with words for each error that has none."""
    for silent in SILENT:
        body = body.replace(silent, WORDS)
    return body
