"""`python launch.py calibrate`: fit a sampler to a model, a line for each number of network calls."""

from __future__ import annotations

import argparse
import json
import sys

from .core.request import Request, RequestError, read
from .engine.calibration import Calibrated, make_calibration
from .engine.engine import Engine
from .engine.events import Failed, PartialResult
from .engine.jobs import Job
from .engine.plugin_reloading import find_plugins
from .progress_bar import events_beside_bar
from .settings import Settings

KEPT, NONE_KEPT, REFUSED, INTERRUPTED = 0, 1, 2, 130


def calibrate_sampler(settings: Settings, flags: argparse.Namespace) -> int:
    """Calibrate as a command line asks for, print what came of it and return the exit status."""
    registry = find_plugins(settings)
    engine = Engine(registry, settings)
    engine.start()
    try:
        job = engine.submit_task(
            make_calibration(
                engine,
                _request(flags),
                flags.sampler,
                flags.schedule,
                flags.calls,
                _prompts(flags),
                flags.pictures,
                flags.again,
            )
        )
        found = _watch(job, flags.json)
        if isinstance(job.outcome, Failed):
            raise RequestError(job.outcome.message)
    except RequestError as error:
        print(f"sigmalab: {error}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        engine.close()
    if flags.json:
        print(json.dumps([one.calibration.model_dump(mode="json") | {"kept": one.kept} for one in found], indent=2))
    return KEPT if any(one.kept for one in found) else NONE_KEPT


def sentence(one: Calibrated) -> str:
    """What came of a number of calls, in words."""
    made = one.calibration
    what = f"{made.steps} calls of {made.schedule}, guidance {made.guidance:g}: {made.error:.4f}"
    beside = f"the best of the others, {made.best.name}, {made.best.error:.4f}"
    return f"{what}; {beside}; {'kept' if one.kept else 'not kept'}"


def _request(flags: argparse.Namespace) -> Request:
    width, height = flags.size
    fields = dict(model=flags.model, width=width, height=height)
    return read(fields if flags.guidance is None else fields | {"guidance": flags.guidance})


def _prompts(flags: argparse.Namespace) -> list[str]:
    if flags.prompts is None:
        return []
    try:
        return [line.strip() for line in flags.prompts.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{flags.prompts} cannot be read: {error}") from None


def _watch(job: Job, quiet: bool) -> list[Calibrated]:
    found: list[Calibrated] = []
    for event in events_beside_bar(job, quiet):
        if isinstance(event, PartialResult):
            found.append(event.value)
            if not quiet:
                print(sentence(event.value), flush=True)
    return found
