"""A page on toy models for the tests of the page: served for real, on a free port, as slow as a test wants it."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import gradio as gr
import pytest
from conftest import ToyModel, toy
from PIL import Image

from webui.app import open_page, signed_in_account
from webui.core.accounts import Accounts
from webui.engine.engine import Engine
from webui.page import build_page
from webui.settings import Settings
from weights.card import Addition, Card, Example

TICK = 0.05
# Of the model "other".
CARD = Card(
    draws="two things",
    familiar=("cat face", "rocket"),
    words={"kitten": ("cat face",)},
    sizes=(64,),
    additions=(Addition(label="Ground", phrase=" on a {} background", choices=("blue", "red")),),
    examples=(Example(prompt="cat face", picture="cat.png"),),
)


class Pace:
    """What a network call costs, in seconds; a change counts for the call that is being made, too."""

    def __init__(self):
        self.fast()

    def fast(self) -> None:
        """As fast as the toy model is, from now on."""
        self.seconds, self.calls, self.turning, self.later = 0.0, 0, None, 0.0

    def slow_after(self, calls: int, seconds: float = 600.0) -> None:
        """Let so many calls through, then take so long; by default until `fast` is called."""
        self.turning, self.later = self.calls + calls, seconds

    def __call__(self, sigma: float) -> None:
        if self.calls == self.turning:
            self.seconds = self.later
        self.calls += 1
        begun = time.monotonic()
        while time.monotonic() - begun < self.seconds:
            time.sleep(min(TICK, self.seconds))


@dataclass(eq=False)
class Served:
    """A running page: its address, Gradio's blocks, its engine and the pace of its model."""

    url: str
    page: gr.Blocks
    engine: Engine
    pace: Pace
    outputs: Path


@contextmanager
def served(registry, folder: Path, auth=None, auth_file=None, page_settings=(), **engine_arguments) -> Iterator[Served]:
    """Serve a page on toy models with all its files under `folder`."""
    accounts = Accounts(auth_file) if auth_file else None
    pace = Pace()
    with pytest.MonkeyPatch.context() as patch:
        # Gradio's copies of pictures would else be left in the machine's temporary folder.
        patch.setenv("GRADIO_TEMP_DIR", str(folder / "cache"))
        settings = Settings(
            root=folder,
            port=free_port(),
            outputs=folder / "outputs",
            model="toy",
            auth=auth,
            auth_file=auth_file,
            open_browser=False,
            **dict(page_settings),
        )
        models = {"toy": toy(), "other": replace(toy("other"), card=CARD, card_file=folder / "card.json")}
        Image.new("RGB", (8, 8), "teal").save(folder / "cat.png")
        engine = Engine(
            registry,
            settings,
            lambda found, device: ToyModel(found, pace),
            lambda path: models,
            account_of=partial(signed_in_account, accounts),
            **engine_arguments,
        )
        page = build_page(engine)
        url = open_page(page, engine, accounts)
        engine.warm_up()
        try:
            yield Served(url.rstrip("/"), page, engine, pace, settings.outputs)
        finally:
            pace.fast()
            engine.close()
            page.server.force_exit = True  # else it waits for seconds for clients that keep a connection
            page.close(verbose=False)


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def idle(engine: Engine, seconds: float = 20.0) -> None:
    """Wait until the engine has nothing to do."""
    end = time.monotonic() + seconds
    while engine.queue.running or engine.queue.waiting:
        assert time.monotonic() < end, "the engine is still at work"
        time.sleep(0.02)


def gathered(dependencies: list) -> dict[int, list[int]]:
    """The components whose values an event of the server's gets of page.js, by the event's number, see `gather`."""
    alone, found = {each["id"]: each for each in dependencies if not each["backend_fn"]}, {}
    for each in dependencies:
        if source := re.search(r"sigmalab\.given\((\d+)\)", str(each["js"])):
            giver = alone[int(source[1])]
            # A menu's name comes first, to compare it with the one before.
            found[each["id"]] = giver["inputs"]["chosen(" in str(giver["js"]) :]
    return found


CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
