"""A worker in a process of its own, and the program's end of the pipe to it."""

from __future__ import annotations

import logging
import logging.handlers
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess

import torch

from .remote_messages import End, Logged, Message
from .worker_host import WorkerHost, WorkerSetup

VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"
LOWER_PRIORITY = 5  # by which a worker on the cores that also serve the page comes after it
PRELOADED = ("diffusers", "transformers")  # what opening a model imports, and takes seconds


def _processes() -> BaseContext:
    """How worker processes are made.

    On Linux a server that has only imported packages forks them: a worker that is started anew is there at once, and
    all share that memory. Elsewhere each is a fresh Python.
    """
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, *PRELOADED])
    return context


class ProcessChannel:
    """The program's end of a worker process, which it starts."""

    def __init__(self, setup: WorkerSetup, device: str):
        context = _processes()
        self._pipe, other = context.Pipe()
        self._sending = threading.Lock()
        self._process: BaseProcess = context.Process(  # type: ignore[attr-defined]  # every context has it
            target=run_worker, args=(other, setup, device), name=f"sigmalab-{device}", daemon=True
        )
        self._process.start()
        # With an end of its own here, the pipe would not tell that the process has ended.
        other.close()

    @property
    def pid(self) -> int | None:
        """Of the process."""
        return self._process.pid

    def send(self, message: Message) -> None:
        """Send a message. Raises OSError if the process has ended."""
        data = pickle.dumps(message)
        with self._sending:
            self._pipe.send_bytes(data)

    def receive(self) -> Message:
        """The next message; waits for it. Raises EOFError or OSError once the process has ended."""
        message: Message = pickle.loads(self._pipe.recv_bytes())
        return message

    def close(self, timeout: float) -> None:
        """Wait for the process to end, and end it if it does not."""
        self._process.join(timeout)
        if self._process.is_alive():
            self.kill()
            self._process.join(5)

    def kill(self) -> None:
        """End the process now, whatever it does."""
        self._process.kill()

    def why_ended(self) -> str:
        """How the process ended, in a sentence."""
        self._process.join(5)
        code = self._process.exitcode
        if code == -9:
            return "It was killed, as systems do with programs when memory is short."
        if code is not None and code < 0:
            return f"It was ended by the signal {signal.Signals(-code).name}."
        return f"It ended with the status {code}."


def run_worker(pipe: Connection, setup: WorkerSetup, device: str) -> None:
    """The main function of a worker process; it ends with the program, or when the program says so."""
    # Ctrl+C reaches all processes of a terminal; the program decides what ends when.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    kind = show_one_gpu(device)
    if kind == "cpu" and hasattr(os, "nice"):
        os.nice(LOWER_PRIORITY)
    if setup.threads:
        torch.set_num_threads(setup.threads)
    sending = threading.Lock()

    def send(message: Message) -> None:
        data = pickle.dumps(message)
        try:
            with sending:
                pipe.send_bytes(data)
        except OSError:
            os._exit(1)  # nobody is there any more

    logging.getLogger().addHandler(LogSender(send))
    logging.getLogger().setLevel(logging.INFO)
    setup = replace(setup, settings=replace(setup.settings, device=kind))
    host = WorkerHost(setup, send, lambda: os._exit(3))
    try:
        while not isinstance(message := pickle.loads(pipe.recv_bytes()), End):
            host.receive(message)
    except (EOFError, OSError):
        os._exit(1)
    host.close()
    # A sampler that does not end must not keep the process.
    os._exit(0)


def show_one_gpu(device: str) -> str:
    """Let CUDA see only the GPU of a device such as "cuda:1", and return the kind of the device, "cuda".

    What this process then calls "cuda" is that GPU, so that nothing else has to know which one it is; CUDA takes no
    memory of the others.
    """
    kind, _, number = device.partition(":")
    if kind == "cuda" and number:
        visible = [each for each in os.environ.get(VISIBLE_GPUS, "").split(",") if each]
        os.environ[VISIBLE_GPUS] = visible[int(number)] if int(number) < len(visible) else number
    return kind


class LogSender(logging.handlers.QueueHandler):
    """Sends what is logged to the program."""

    def __init__(self, send: Callable[[Message], None]):
        super().__init__(send)  # type: ignore[arg-type]  # `enqueue` alone uses the queue
        self._send = send

    def enqueue(self, record: logging.LogRecord) -> None:
        """Send a record that can be pickled."""
        self._send(Logged(record))
