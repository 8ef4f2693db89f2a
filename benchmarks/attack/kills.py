"""Kill the page while it draws, again and again in one folder: what was finished must be whole."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
from PIL import Image

from webui.core.storage import LEFTOVER_AGE
from webui.tabs.history.history_store import History

from .server import Page

COUNT = 8  # pictures of a call
ROUND = 10  # cases between two looks at the index
LONGEST = 3.0  # seconds from a call to the kill, at most; the first guess


def kills(page: Page, numbers: range) -> Iterator[tuple[int, list[str], dict[str, float]]]:
    """Each case draws eight pictures, from words or from a picture, and kills the page at a random moment."""
    seen: set[Path] = set()
    cut, longest, recent = 0, LONGEST, deque[int](maxlen=ROUND)
    for number in numbers:
        chance = page.chance("kills", number)
        # Without it the model would still be loading when the page is killed.
        told = page.draw(prompt="red apple", steps=1)
        findings = [] if "event: complete" in told else [f"case {number}: the first picture: {told[-300:]!r}"]
        begun = time.time()
        fields = dict(prompt="red apple", steps=chance.choice([1, 2, 5]), count=COUNT)
        if chance.random() < 0.3 and seen:
            _start(page, "img2img", image=_upload(page, chance.choice(sorted(seen))), **fields)
        else:
            _start(page, "txt2img", **fields)
        time.sleep(chance.uniform(0, longest))
        page.kill()
        before = len(seen)
        findings += [f"case {number}: {told}" for told in _broken(page, seen)]
        # But for the first of them. The next kill comes later if there were none, and earlier if there were all.
        made = len(seen) - before - 1
        cut += 0 < made < COUNT
        recent.append(made)
        longest *= 1.3 if made <= 0 else 0.9 if made < COUNT else 0.7
        # As if the next start came later, for half of them.
        if chance.random() < 0.5:
            for left in _leftovers(page):
                os.utime(left, (begun - 2 * LEFTOVER_AGE,) * 2)
        page.start()
        old = [left for left in _leftovers(page) if time.time() - left.stat().st_mtime > LEFTOVER_AGE]
        findings += [f"case {number}: leftover {left.name}" for left in old]
        if number % ROUND == ROUND - 1:
            findings += [f"case {number}: {told}" for told in _missing(page)]
            findings += [] if any(recent) else [f"case {number}: no picture was made in the last {len(recent)}"]
        yield 1, findings, {"pictures": len(seen), "killed between two pictures": cut}


def _start(page: Page, endpoint: str, **fields: object) -> None:
    """Begin a call and listen to it: one that nobody listens to is ended."""

    def listen() -> None:
        # The page is killed and its client closed meanwhile.
        with suppress(httpx.HTTPError, httpx.StreamError, RuntimeError):
            page.draw(endpoint, **fields)

    threading.Thread(target=listen, daemon=True).start()


def _upload(page: Page, path: Path) -> dict:
    with open(path, "rb") as file:
        (stored,) = page.client.post("/gradio_api/upload", files={"files": file}).json()
    return {"path": stored, "meta": {"_type": "gradio.FileData"}}


def _leftovers(page: Page) -> list[Path]:
    return [*page.outputs.glob(".*.part"), *page.outputs.glob("*/.*.part")]


def _broken(page: Page, seen: set[Path]) -> Iterator[str]:
    """Pictures that were there and are gone, and new ones that cannot be read."""
    now = set(page.outputs.glob("*/*.png"))
    yield from (f"{path.name} is gone" for path in seen - now)
    for path in now - seen:
        try:
            with Image.open(path) as picture:
                picture.load()
                # The end of its file, which the decoder need not have read.
                if not path.read_bytes().endswith(b"IEND\xaeB`\x82"):
                    yield f"{path.name} has no end"
        except (OSError, SyntaxError) as error:
            yield f"{path.name} is broken: {error}"
    seen |= {path for path in now if path.parent.name != "inputs"}


def _missing(page: Page) -> Iterator[str]:
    """Pictures that History does not find."""
    history = History(page.outputs)
    if not history.refresh(60) or history.problem:
        yield f"the index is not up to date: {history.problem}"
    pictures = [path for path in page.outputs.glob("*/*.png") if path.parent.name != "inputs"]
    found = len(history.find(limit=len(pictures) + 1))
    if found != len(pictures):
        yield f"History finds {found} of {len(pictures)} pictures"
