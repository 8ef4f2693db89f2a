"""Bodies of requests that one middleware has read, for the next."""

from __future__ import annotations

from starlette.types import Message, Receive


def resend_body(body: bytes, receive: Receive | None = None) -> Receive:
    """What receives a body that has been read once more, and then what `receive` does; without it, the end."""
    given: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        if given or receive is None:
            return given.pop() if given else {"type": "http.disconnect"}
        return await receive()

    return receive_again
