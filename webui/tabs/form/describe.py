"""Describe a choice or a run for the page: the sampler's note, the plan of a run, its progress. Text and HTML."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import escape

from samplers.registry import Entry
from samplers.run import Plan
from samplers.sampler import Sampler
from samplers.schedule import noise_share
from webui.core.sampler_advice import advice
from webui.engine.events import Failed, Progress, Snapshot, StoppedEarly
from webui.engine.jobs import Job
from webui.templates import render
from weights.model_info import ModelInfo

SMALL = 128  # pixels of a side up to which pictures are small: they look better at a few times their size, as squares


def paper_link(paper: str) -> str:
    """A link to an arXiv number or an https address; any other text stays text."""
    if paper.startswith("https://"):
        return render("form", "paper_link", paper, paper)
    if paper.lower().startswith("arxiv:"):
        return render("form", "paper_link", paper, f"https://arxiv.org/abs/{paper[6:].strip()}")
    return escape(paper)


def calls_text(sampler: Sampler, options: Mapping[str, Any]) -> str:
    """The network calls a step that a sampler declares with these options, in words."""
    calls = sampler.calls_per_step(**options)
    if calls is None:
        return "as many network calls as it needs"
    each = round(calls, 1)
    return f"{each:g} network call{'s' if each != 1 else ''} a step"


def sampler_note(entry: Entry, options: Mapping[str, Any], schedule: str = "", measured: str = "") -> str:
    """A line about a sampler with these options, and what was measured of it; declarations that fail are told here.

    schedule  that the measured errors are of, see `webui.core.sampler_advice.advice`
    measured  what was measured on the model that is used, in its place
    """
    item = entry.item
    try:
        order, stochastic, calls = item.order_of(**options), item.stochastic_with(**options), calls_text(item, options)
    except Exception as error:
        return note(f"{entry.name} cannot describe itself: {error}")
    parts = [f"order {order:g}"] if order else []
    parts += [calls, "stochastic: draws fresh noise" if stochastic else "deterministic"]
    parts += ["for models distilled for it"] if item.distilled else []
    parts[0] = parts[0][:1].upper() + parts[0][1:]
    said = measured or (advice(entry.name, schedule) if entry.source.startswith("built-in/") else "")
    described = render("form", "sampler_note", parts + ([paper_link(item.paper)] if item.paper else []))
    return described + note(said) if said else described


def plan_note(plan: Plan, schedule: str, from_picture: bool = False) -> str:
    """What a run will do: its steps, network calls a picture, the noise that it starts from."""
    kept = percent(1 - noise_share(plan.sigmas[0])) if from_picture else ""
    return render("form", "plan_note", _grid_text(plan, schedule), cost_text(plan), start_text(plan), kept)


def hires_note(plan: Plan, schedule: str, size: tuple[int, int], upscaler: str) -> str:
    """What the second pass of a run will do."""
    return render("form", "hires_note", size, upscaler, _grid_text(plan, schedule), cost_text(plan), start_text(plan))


def _grid_text(plan: Plan, schedule: str) -> str:
    return "Own steps" if plan.own_grid else f"{schedule}, {steps_text(len(plan.sigmas) - 1)}"


def size_note(info: ModelInfo, width: Any, height: Any) -> str:
    """What to expect of a size at which the model's pictures do not hold together, by its card; "" for others."""
    sizes = info.card.sizes if info.card else ()
    if not sizes or {width, height} <= set(sizes):
        return ""
    return render("card", "size", info.name, sizes)


def steps_text(count: int) -> str:
    """A number of steps in words."""
    return "one step" if count == 1 else f"{count} steps"


def cost_text(plan: Plan) -> str:
    """The network calls of a run in words."""
    if plan.calls is None:
        return "as many network calls as it needs"
    return f"{plan.calls} network call{'s' if plan.calls != 1 else ''}"


def start_text(plan: Plan) -> str:
    """The noise level that a run starts from."""
    return f"{percent(noise_share(plan.sigmas[0]))} noise (sigma {plan.sigmas[0]:.3g})"


def percent(share: float) -> str:
    """A share in per cent, with a digit more near the ends."""
    return f"{100 * share:.1f} %" if share < 0.1 or share > 0.9 else f"{100 * share:.0f} %"


def seconds_text(seconds: float) -> str:
    """A duration in seconds or minutes."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def stage(snapshot: Snapshot | None, small: bool = False) -> str:
    """The live preview and its progress bar; the last preview alone once a run has ended; "" if there is none.

    small  whether the picture is so small that it looks better at a few times its size
    """
    progress = snapshot.progress if snapshot else None
    preview = progress.preview if progress else None
    if snapshot is None or (snapshot.outcome and not preview):
        return ""
    total = progress.total_calls if progress else None
    done = min(100, round(100 * progress.calls / total)) if progress and total else None
    return render("form", "stage", preview, small, done, snapshot.outcome is None, bool(snapshot.pictures))


def message(snapshot: Snapshot | None, invitation: str = "Nothing made yet. Write a prompt and press Generate.") -> str:
    """One line below the picture: the progress of a run, or its outcome; an invitation where there is no job."""
    if snapshot is None:
        return said(invitation)
    outcome, made = snapshot.outcome, len(snapshot.pictures)
    if isinstance(outcome, Failed):
        kept = f" What was finished before it, {pictures_text(made)}, is kept." if made else ""
        return problem(f"{outcome.message}{kept}")
    if isinstance(outcome, StoppedEarly):
        return said(
            f"Stopped. {pictures_text(made).capitalize()} finished before it."
            if made
            else f"Stopped{_where(snapshot.progress)} before a picture was finished."
        )
    if outcome:
        return said(summary(outcome.info))
    if snapshot.progress is None:
        ahead = snapshot.position or 0
        soon = f", about {seconds_text(snapshot.wait)}" if snapshot.wait else ""
        return said(f"Waiting: {ahead} job{'s' if ahead != 1 else ''} ahead of this one{soon}" if ahead else "Starting")
    return render("messages", "progress", running(snapshot.progress))


def ahead_text(job: Job) -> str:
    """How many jobs are ahead of a waiting one, in words."""
    return f"{job.snapshot().position or 0} ahead"


def _where(progress: Progress | None) -> str:
    if progress is None or not progress.step:
        return ""
    return f" at step {progress.step}{f' of {progress.steps}' if progress.steps else ''}"


def summary(info: Mapping[str, Any]) -> str:
    """A finished run in a line."""
    if info.get("mode") == "upscale":
        size = f"{info['width']} × {info['height']}"
        return f"Enlarged to {size} in {seconds_text(info['seconds'])} · {info['upscaler']}"
    seeds, variations = info.get("seeds") or [], info.get("variation_seeds") or []
    calls = info.get("nfe")
    parts = [
        f"{pictures_text(len(seeds)).capitalize()} in {seconds_text(info.get('seconds', 0.0))}",
        f"{calls:g} network calls{' each' if len(seeds) > 1 else ''}{_guided(info)}" if calls is not None else "",
        f"{info.get('sampler', '')}, {info.get('schedule', '')}".strip(", "),
        _numbers("seed", seeds[:1] if variations else seeds),
        _numbers("variation seed", variations),
    ]
    return " · ".join(part for part in parts if part)


def _guided(info: Mapping[str, Any]) -> str:
    """How many of the calls computed both estimates of guidance, where some did not."""
    each, calls = info.get("evaluations_each") or [0], info.get("nfe_each") or [1]
    both, every = sum(each) - sum(calls), sum(calls)
    return f", {both / len(calls):g} of them guided" if 0 < both < every else ""


def _numbers(name: str, numbers: Sequence[int]) -> str:
    if not numbers:
        return ""
    return f"{name} {numbers[0]}" if len(numbers) == 1 else f"{name}s {numbers[0]} to {numbers[-1]}"


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


def pictures_text(count: int) -> str:
    """A number of pictures in words."""
    return "one picture" if count == 1 else f"{count} pictures"


def note(text: str, problem: bool = False) -> str:
    """A note beside a control; in the colour of an error if `problem`."""
    return render("messages", "note", text, problem)


def said(text: str) -> str:
    """A line of a form's message area that page.js has screen readers say."""
    return render("messages", "said", text)


def line(text: str) -> str:
    """A line of the message area."""
    return render("messages", "line", text)


def problem(text: str) -> str:
    """An error in the message area."""
    return render("messages", "problem", text)


def fitted(
    jpeg: bytes | None,
    size: tuple[int, int] = (0, 0),
    target: tuple[int, int] = (0, 0),
    fit: str = "",
    problem: str = "",
) -> str:
    """The input picture of img2img as the run will see it, and how it was made to fit."""
    if problem:
        return render("form", "fitted_problem", problem)
    if jpeg is None:
        return render("form", "fitted", None, "What the run will see appears here.")
    same = size[0] * target[1] == size[1] * target[0]
    how = "scaled" if same else {"crop": "cropped", "pad": "padded with white", "stretch": "stretched"}[fit]
    text = f"Used: {target[0]} × {target[1]}, {how} from {size[0]} × {size[1]}"
    return render("form", "fitted", jpeg, text, max(target) <= SMALL)
