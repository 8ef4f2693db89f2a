"""`python launch.py replay FILE...`: draw pictures from their metadata and compare, one line for each."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from .core.request import RequestError
from .engine.engine import Engine
from .engine.events import Failed, StoppedEarly
from .engine.plugin_reloading import find_plugins
from .engine.replay import any_recipe, into, submit_recipe
from .engine.replay_verdict import Verdict, compare
from .settings import Settings


class ReplayFailed(RequestError):
    """A picture that could not be drawn; the text says why."""


def replay_files(
    settings: Settings,
    files: Sequence[Path],
    one_at_a_time: bool = False,
    image: Path | None = None,
    mask: Path | None = None,
) -> int:
    """Replay files and print a line for each; returns 0 if all are bit-equal, else 1.

    image, mask  the input picture of img2img and its mask, where outputs/inputs/ does not have them
    """
    registry = find_plugins(settings)
    engine = Engine(registry, settings)
    engine.start()
    equal = True
    try:
        for file in files:
            try:
                verdict = replay_file(engine, file, one_at_a_time, image, mask)
                print(f"{file}: {verdict}", flush=True)
                equal = equal and verdict.equal
            except RequestError as error:
                print(f"{file}: {error}", flush=True)
                equal = False
    finally:
        engine.close()
    return 0 if equal else 1


def replay_file(
    engine: Engine, file: Path, one_at_a_time: bool = False, image: Path | None = None, mask: Path | None = None
) -> Verdict:
    """Draw one picture in a temporary folder and compare. Raises RequestError, however it fails."""
    with tempfile.TemporaryDirectory(prefix="sigmalab-replay-") as folder:
        wanted = into(any_recipe(file, engine, one_at_a_time, image, mask), Path(folder))
        job = submit_recipe(engine, wanted)
        outcome = job.wait()
        if isinstance(outcome, Failed):
            raise ReplayFailed(outcome.message)
        if isinstance(outcome, StoppedEarly):
            raise ReplayFailed("The replay was stopped.")
        return compare(file, job.pictures[wanted.index].path, wanted)
