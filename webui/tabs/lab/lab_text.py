"""Texts of the Lab: the status of a tool, how it ended, and the cost of a grid."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from webui.engine.events import Failed, Progress, Snapshot, StoppedEarly
from webui.tabs.form.describe import line, problem, running, seconds_text
from webui.templates import render

from .compare import Cost


def status(snapshot: Snapshot | None, idle: str, finished: Callable[[Mapping[str, Any]], str]) -> str:
    """The status line of a tool, with a bar and the latest preview while it works.

    idle      the text before the first run
    finished  the sentence about a run from its info, also after Stop
    """
    if snapshot is None:
        return line(idle)
    outcome = snapshot.outcome
    if isinstance(outcome, Failed):
        kept = " What was finished before it is kept." if snapshot.parts else ""
        return problem(f"{outcome.message}{kept}")
    if isinstance(outcome, StoppedEarly):
        kept = "what was finished is kept" if snapshot.parts else "nothing was finished before it"
        return line(f"Stopped; {kept}. {finished(outcome.info) if len(outcome.info) > 1 else ''}".strip())
    if outcome:
        return line(finished(outcome.info))
    if snapshot.progress is None:
        ahead = snapshot.position or 0
        return render("lab", "waiting", f"Waiting: {_many(ahead, 'job')} ahead of this one" if ahead else "Starting")
    return render(
        "lab", "at_work", running(snapshot.progress), snapshot.progress.preview, percent_done(snapshot.progress)
    )


def percent_done(progress: Progress) -> int | None:
    """Per cent of the work that is done; None where it is not known."""
    share = _share(progress)
    return None if share is None else round(100 * min(1.0, share))


def _share(progress: Progress) -> float | None:
    """The share of calls where they are known; else of the time, or of the steps of work without calls."""
    if progress.total_calls:
        return progress.calls / progress.total_calls
    if progress.remaining is not None and progress.seconds > 0:
        return progress.seconds / (progress.seconds + progress.remaining)
    return progress.step / progress.steps if progress.steps and not progress.calls else None


def cost_text(cost: Cost, impossible: int) -> str:
    """The cost of a grid in a sentence."""
    if not cost.cells:
        text = f"All {cost.there} cells are there already: nothing has to be made."
    else:
        parts = [_many(cost.cells, "picture"), _calls(cost.calls, cost.uncounted, "cell")]
        if cost.seconds is not None:
            parts.append(f"about {seconds_text(max(1.0, cost.seconds))}")
        text = f"To make: {', '.join(parts)}."
        if cost.there:
            text += f" {_many(cost.there, 'cell')} made before {'is' if cost.there == 1 else 'are'} taken."
    if impossible:
        text += f" {_many(impossible, 'cell')} cannot be made and will say why."
    return text


def ahead_text(what: str, counts: Sequence[int | None], call: str = "network call") -> str:
    """The calls of runs that have not started, in a sentence.

    counts  the calls of each run; None for an adaptive sampler, whose calls are not known before
    """
    return f"{what}: {_calls(sum(count or 0 for count in counts), counts.count(None), 'run', call)}."


def compared(info: Mapping[str, Any]) -> str:
    """A finished grid in a sentence."""
    parts = [f"{_many(info['made'], 'picture')} made in {seconds_text(info['seconds'])}"]
    if info["reused"]:
        parts.append(f"{info['reused']} made before")
    return " · ".join([*parts, _many(info["calls"], "network call"), f"seed {info['seed']} stays in the settings"])


def _calls(known: int, uncounted: int, what: str, call: str = "network call") -> str:
    if not uncounted:
        return _many(known, call)
    counted = f"{_many(known, call)} and " if known else ""
    need = "it needs" if uncounted == 1 else "they need"
    return f"{counted}as many as {need} for {_many(uncounted, f'adaptive {what}')}"


def _many(count: float, what: str) -> str:
    return f"{count:g} {what}{'s' if count != 1 else ''}" if count < 1e6 else f"{count:.0f} {what}s"
