"""Texts of the Schedule tab: the facts of a run, where guidance acts, both meanings of strength, a list of sigmas."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from samplers.levels import DryRun
from samplers.run import Plan
from samplers.schedule import noise_share
from webui.core.request import Request, RequestError
from webui.engine.run_preview import RunPreview
from webui.tabs.form.describe import cost_text, note, percent, start_text, steps_text
from webui.templates import render

MEANINGS = {"steps": "as a share of the steps", "noise": "as a level of noise"}


def facts(
    preview: RunPreview, dry_run: DryRun | None, by_meaning: Mapping[str, Plan], guidance: str = "", trouble: str = ""
) -> str:
    """The cost of a run and where it starts; below strength 1 also for the other meaning of strength.

    by_meaning  the plan at this strength for each of MEANINGS
    guidance    the sentence about where guidance acts
    trouble     why the calls inside the steps are not known, if they are not
    """
    steps = "its own steps" if preview.run.own_grid else steps_text(len(preview.run.sigmas) - 1)
    cost = cost_text(preview.run)
    parts = [
        render(
            "schedule", "facts", cost[:1].upper() + cost[1:], preview.model_info.name, steps, start_text(preview.run)
        ),
        note(trouble or calls_note(preview.run, dry_run), problem=bool(trouble)),
    ]
    if preview.second:
        more = f"{cost_text(preview.second)} more, starting at {start_text(preview.second)}"
        parts.append(note(f"The second pass enlarges the picture: {more}."))
    if guidance:
        parts.append(note(guidance))
    if preview.request.strength < 1:
        parts.append(_strengths(preview, by_meaning))
    return "".join(parts)


def calls_note(plan: Plan, dry_run: DryRun | None) -> str:
    """Where a sampler calls the network, compared with the levels of its list."""
    if plan.calls is None:
        return "An adaptive sampler chooses its steps during the run: load a finished picture to draw them."
    if dry_run is None:
        return "The calls between the levels are not drawn for so many steps."
    levels, sigmas = plan.sigmas[:-1], [call.sigma for call in dry_run.calls]
    if plan.own_grid:
        return "This sampler makes its own steps between the first and the last sigma; they are what is drawn."
    if sigmas == list(levels):
        return "It calls the network once a step, at the sigmas of the list themselves."
    raised = [sigma for sigma, level in zip(_firsts(dry_run), levels, strict=False) if sigma > level * (1 + 1e-6)]
    text = f"The rings are its {len(sigmas)} network calls, each at its real sigma."
    if raised:
        text += (
            f" Noise is added before {len(raised)} of the {len(levels)} steps, so their calls are above the list, "
            f"first at sigma {raised[0]:.4g}."
        )
    return text


def _firsts(dry_run: DryRun) -> list[float]:
    """The sigma of the first call of each step."""
    first: dict[int, float] = {}
    for call in dry_run.calls:
        first.setdefault(int(call.place), call.sigma)
    return list(first.values())


def guidance_note(request: Request, sigmas: Sequence[float] | None, steps: int) -> str:
    """A sentence about where guidance acts.

    sigmas  of the network calls, in order; None for an adaptive sampler
    steps   of the run
    """
    scale, reach = request.guidance, _reach(request)
    if scale == 1:
        return "Guidance scale 1 is no guidance: no step computes the estimate without the prompt."
    does = f"Guidance {scale:g} acts" if scale else "Guidance 0, which ignores the prompt, acts"
    if sigmas is None:
        return f"{does} at every call of this sampler{f' at {reach}' if reach else ''}."
    guided, every = sum(request.guidance_at(sigma) != 1 for sigma in sigmas), len(sigmas)
    what = "step" if every == steps else "network call"
    if not guided:
        return f"{does} nowhere: no {what} of this run is at {reach}."
    if every == 1:
        count = f"the one {what}"
    else:
        count = f"all {every} {what}s" if guided == every else f"{guided} of {every} {what}s"
    return f"{does} in {count}{f' ({reach})' if reach else ''}."


def _reach(request: Request) -> str:
    """The sigmas that are guided, in words; empty for all of them."""
    low, high = request.guidance_low, request.guidance_high
    if low and high:
        return f"sigma {low:g} to {high:g}"
    return f"sigma above {low:g}" if low else f"sigma up to {high:g}" if high else ""


def _strengths(preview: RunPreview, by_meaning: Mapping[str, Plan]) -> str:
    rows = []
    for meaning, plan in by_meaning.items():
        calls = "as it needs" if plan.calls is None else f"{plan.calls}"
        cells = (MEANINGS[meaning].capitalize(), calls, percent(noise_share(plan.sigmas[0])), f"{plan.sigmas[0]:.3g}")
        rows.append((meaning == preview.request.strength_as, cells))
    columns = (f"Strength {preview.request.strength:g}", "Calls", "Noise", "Sigma")
    return render("tables", "strengths", columns, rows)


def list_text(sigmas: Sequence[float]) -> str:
    """A list of sigmas as text that reads back to the same numbers."""
    return ", ".join(repr(float(sigma)) if sigma else "0" for sigma in sigmas)


def custom_settings(text: Any) -> tuple[str, int]:
    """A pasted list as the `numbers` of the schedule Custom, and how many steps it makes.

    The numbers are checked by the schedule itself. Raises RequestError where there is none.
    """
    words = [word for word in re.split(r"[\s,;()\[\]]+", str(text or "")) if word]
    if len(words) > 1 and _is_zero(words[-1]):
        words.pop()
    if not words:
        raise RequestError("There is no list; paste sigmas, highest first, like 14.6, 3.9, 1.4, 0.4.")
    return ", ".join(words), len(words)


def _is_zero(word: str) -> bool:
    try:
        return float(word) == 0
    except ValueError:
        return False
