"""What the page says about a choice: the sampler's note, the plan of a run, how far a run is. Pure text and HTML.

Names, help texts and papers come from plugins, so everything is escaped on its way into HTML.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from html import escape
from typing import Any

from samplers.registry import Entry
from samplers.run import Plan
from samplers.sampler import Sampler
from samplers.schedule import noise_share
from webui.engine.events import Failed, Progress, Snapshot, StoppedEarly

GRID = (*(float(sigma) for sigma in range(20, 0, -1)), 0.0)  # 20 steps, to count calls on


def paper_link(paper: str) -> str:
    """A link to an arXiv number or an https address; any other text as it is."""
    shown = escape(paper)
    if paper.startswith("https://"):
        return f'<a href="{shown}" target="_blank" rel="noopener noreferrer">{shown}</a>'
    if paper.lower().startswith("arxiv:"):
        return f'<a href="https://arxiv.org/abs/{escape(paper[6:].strip())}" target="_blank" rel="noopener noreferrer">{shown}</a>'
    return shown


def calls_text(sampler: Sampler, options: Mapping[str, Any]) -> str:
    """The network calls of a step that a sampler declares with these options, in words."""
    calls = sampler.count_calls(GRID, **options)
    if calls is None:
        return "as many network calls as it needs"
    # Two calls a step are often one less in all: the step to sigma 0 needs no second one.
    each = round(calls / (len(GRID) - 1), 1)
    return f"{each:g} network call{'s' if each != 1 else ''} a step"


def sampler_note(entry: Entry, options: Mapping[str, Any]) -> str:
    """One line about a sampler with these options; a plugin whose declarations fail says so here."""
    item = entry.item
    try:
        order, stochastic, calls = item.order_of(**options), item.stochastic_with(**options), calls_text(item, options)
    except Exception as error:
        return f"<p class='note'>{escape(entry.name)} cannot describe itself: {escape(str(error))}</p>"
    parts = [f"order {order:g}"] if order else []
    parts += [calls, "stochastic: draws fresh noise" if stochastic else "deterministic"]
    parts[0] = parts[0][:1].upper() + parts[0][1:]
    shown = [escape(part) for part in parts] + ([paper_link(item.paper)] if item.paper else [])
    return f"<p class='note'>{' · '.join(f'<span>{part}</span>' for part in shown)}</p>"


def plan_note(plan: Plan, schedule: str, from_picture: bool = False) -> str:
    """What a run will do, before it is run: its grid, network calls a picture, and the noise that it starts from."""
    calls = plan.calls
    cost = (
        f"{calls} network call{'s' if calls != 1 else ''}" if calls is not None else "as many network calls as it needs"
    )
    share = noise_share(plan.sigmas[0])
    start = f"{percent(share)} noise (sigma {plan.sigmas[0]:.3g})"
    grid = "Own steps" if plan.own_grid else f"{escape(schedule)}, {_steps(len(plan.sigmas) - 1)}"
    kept = f"; {percent(1 - share)} of the variance is your picture" if from_picture else ""
    return f"<p class='note'>{grid}: <strong>{cost}</strong> a picture, starting at <strong>{start}</strong>{kept}</p>"


def _steps(count: int) -> str:
    return "one step" if count == 1 else f"{count} steps"


def percent(share: float) -> str:
    """A share in per cent, with a digit more near the ends."""
    return f"{100 * share:.1f} %" if share < 0.1 or share > 0.9 else f"{100 * share:.0f} %"


def seconds_text(seconds: float) -> str:
    """A duration as people say it."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def stage(snapshot: Snapshot | None, small: bool = False) -> str:
    """The live picture and its bar; empty when nothing runs. A small one shows its pixels."""
    if snapshot is None or snapshot.outcome:
        return ""
    progress = snapshot.progress
    if progress is not None and progress.preview:
        data = base64.b64encode(progress.preview).decode("ascii")
        picture = f'<img src="data:image/jpeg;base64,{data}" alt="Preview of the denoised estimate">'
    else:
        picture = '<div class="grain" aria-hidden="true"></div>'
    return f'<figure class="stage{" pixels" if small else ""}">{picture}{_bar(progress)}</figure>'


def _bar(progress: Progress | None) -> str:
    done = _share(progress)
    if done is None:
        return '<div class="bar" role="progressbar" aria-label="Progress"><i class="unknown"></i></div>'
    value = round(100 * done)
    return (
        f'<div class="bar" role="progressbar" aria-label="Progress" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{value}"><i style="width:{value}%"></i></div>'
    )


def _share(progress: Progress | None) -> float | None:
    if progress is None:
        return None
    if progress.total_calls:
        return min(1.0, progress.calls / progress.total_calls)
    return None


def message(snapshot: Snapshot | None) -> str:
    """One line under the picture: where a run is, or how it ended."""
    if snapshot is None:
        return line("Nothing made yet. Write a prompt and press Generate.")
    outcome, made = snapshot.outcome, len(snapshot.pictures)
    if isinstance(outcome, Failed):
        kept = f" What was finished before it, {_pictures(made)}, is kept." if made else ""
        return problem(f"{outcome.message}{kept}")
    if isinstance(outcome, StoppedEarly):
        return line(
            f"Stopped. {_pictures(made).capitalize()} finished before it."
            if made
            else "Stopped before a picture was finished."
        )
    if outcome:
        return line(summary(outcome.info))
    if snapshot.progress is None:
        ahead = snapshot.position or 0
        return line(f"Waiting: {ahead} job{'s' if ahead != 1 else ''} ahead of this one" if ahead else "Starting")
    return line(running(snapshot.progress))


def summary(info: Mapping[str, Any]) -> str:
    """A finished run in a line."""
    seeds = info.get("seeds") or []
    seed = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]} to {seeds[-1]}" if seeds else ""
    calls = info.get("nfe")
    parts = [
        f"{_pictures(len(seeds)).capitalize()} in {seconds_text(info.get('seconds', 0.0))}",
        f"{calls:g} network calls{' each' if len(seeds) > 1 else ''}" if calls is not None else "",
        f"{info.get('sampler', '')}, {info.get('schedule', '')}".strip(", "),
        seed,
    ]
    return " · ".join(part for part in parts if part)


def running(progress: Progress) -> str:
    """How far a run is, in a line."""
    text = progress.text or f"step {progress.step}"
    calls = f"{progress.calls} of {progress.total_calls}" if progress.total_calls else f"{progress.calls}"
    parts = [text[:1].upper() + text[1:], f"network call {calls}" if progress.calls else ""]
    if progress.remaining is not None:
        parts.append(f"about {seconds_text(max(1.0, progress.remaining))} left")
    elif progress.calls:
        parts.append(f"{seconds_text(progress.seconds)} so far")
    return " · ".join(part for part in parts if part)


def _pictures(count: int) -> str:
    return "one picture" if count == 1 else f"{count} pictures"


def line(text: str) -> str:
    """A plain line of the message area."""
    return f"<p class='line' role='status'>{escape(text)}</p>"


def problem(text: str) -> str:
    """An error in the message area; it stays until the next run."""
    return f"<p class='line problem' role='alert'>{escape(text)}</p>"


def fitted(
    jpeg: bytes | None,
    size: tuple[int, int] = (0, 0),
    target: tuple[int, int] = (0, 0),
    fit: str = "",
    problem: str = "",
) -> str:
    """The input of img2img as the run will see it, and in words what was done to it."""
    if problem:
        return f"<p class='note problem' role='alert'>{escape(problem)}</p>"
    if jpeg is None:
        return "<div class='fitted'><div class='nothing'></div><p class='note'>What the run will see appears here.</p></div>"
    same = size[0] * target[1] == size[1] * target[0]
    how = "scaled" if same else {"crop": "cropped", "pad": "padded with white", "stretch": "stretched"}[fit]
    data = base64.b64encode(jpeg).decode("ascii")
    text = f"Used: {target[0]} × {target[1]}, {how} from {size[0]} × {size[1]}"
    return f"<div class='fitted'><img src='data:image/jpeg;base64,{data}' alt='{text}'><p class='note'>{text}</p></div>"
