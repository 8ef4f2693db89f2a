"""The connection to a worker of another process or machine, through one life of it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Protocol

from weights.model_info import ModelInfo

from .remote_messages import CallOnHead, Condition, Describe, Message, Returned, Told

log = logging.getLogger(__name__)


class Channel(Protocol):
    """The program's end of the connection to a worker; see `webui.engine.worker_process.ProcessChannel`."""

    def send(self, message: Message) -> None:
        """Send a message. Raises OSError if the worker has ended."""
        ...

    def receive(self) -> Message:
        """The next message; waits for it. Raises EOFError or OSError once the worker has ended."""
        ...

    def close(self, timeout: float) -> None:
        """Wait for the worker to end, and end it if it does not."""
        ...

    def kill(self) -> None:
        """End the worker now, whatever it does."""
        ...

    def why_ended(self) -> str:
        """How the worker ended, in a sentence."""
        ...


class WorkerLink:
    """One life of a worker: its channel, what it tells about orders, and when it last told anything."""

    def __init__(self, channel: Channel, on_message: Callable[[Message], None], on_end: Callable[[], None]):
        self.channel, self._on_message, self._on_end = channel, on_message, on_end
        self.inbox: SimpleQueue[Told | None] = SimpleQueue()
        self.ready, self.ended = threading.Event(), threading.Event()
        self.heard = time.monotonic()
        self._models: dict[ModelInfo, int] = {}
        threading.Thread(target=self._read, name="sigmalab-reader", daemon=True).start()

    def send(self, message: Message) -> None:
        """Send a message; to a worker that has ended, nothing is sent."""
        try:
            self.channel.send(message)
        except OSError:
            pass

    def number_of(self, info: ModelInfo) -> int:
        """The number of a model for `remote_messages.encode`; the worker is told what it means before it is used."""
        if info not in self._models:
            self._models[info] = len(self._models)
            self.send(Describe(self._models[info], info))
        return self._models[info]

    @property
    def silent(self) -> float:
        """Seconds since the last message."""
        return time.monotonic() - self.heard

    def _read(self) -> None:
        try:
            while True:
                message = self.channel.receive()
                self.heard = time.monotonic()
                if isinstance(message, Told):
                    self.inbox.put(message)
                elif isinstance(message, CallOnHead):
                    # It may write to a disk; what the worker says meanwhile is heard all the same.
                    threading.Thread(target=self._call, args=(message,), name="sigmalab-head", daemon=True).start()
                else:
                    self._on_message(message)
                    if isinstance(message, Condition):
                        self.ready.set()
        except (EOFError, OSError):
            pass
        except Exception:
            log.exception("what a worker says cannot be read")
            self.channel.kill()
        finally:
            self.ended.set()
            self.ready.set()
            self.inbox.put(None)
            self._on_end()

    def _call(self, asked: CallOnHead) -> None:
        """Call what the worker asks for, and answer."""
        try:
            self.send(Returned(asked.number, asked.call()))
        except Exception as error:
            try:
                self.send(Returned(asked.number, error=error))
            except Exception:
                # It cannot be pickled.
                self.send(Returned(asked.number, error=RuntimeError(f"{type(error).__name__}: {error}")))
