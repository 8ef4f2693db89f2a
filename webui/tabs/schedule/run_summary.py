"""What the Schedule tab says in words: the facts of a run, the two meanings of strength, a list as text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from samplers.levels import DryRun
from samplers.run import Plan
from samplers.schedule import noise_share
from webui.core.request import RequestError
from webui.engine.run_preview import RunPreview
from webui.tabs.form.describe import cost_text, note, percent, start_text, steps_text
from webui.templates import render

MEANINGS = {"steps": "as a share of the steps", "noise": "as a level of noise"}


def facts(
    made: RunPreview, rehearsed: DryRun | None, by_meaning: Mapping[str, Plan], guidance: str = "", trouble: str = ""
) -> str:
    """What the run will cost and where it starts, and the same for the other meaning of strength.

    by_meaning  the plan at this strength for each of MEANINGS
    guidance    the sentence about where guidance acts
    trouble     why the inner calls are not known, if they are not
    """
    steps = "its own steps" if made.run.own_grid else steps_text(len(made.run.sigmas) - 1)
    cost = cost_text(made.run)
    parts = [
        render("schedule", "facts", cost[:1].upper() + cost[1:], made.model_info.name, steps, start_text(made.run)),
        note(trouble or asks(made.run, rehearsed), problem=bool(trouble)),
    ]
    if guidance:
        parts.append(note(guidance))
    if made.request.strength < 1:
        parts.append(_strengths(made, by_meaning))
    return "".join(parts)


def asks(plan: Plan, rehearsed: DryRun | None) -> str:
    """Where a sampler asks the network, beside the levels of its list."""
    if plan.calls is None:
        return (
            "An adaptive sampler goes where the network leads it: its own steps are drawn after a run, "
            "by loading its picture."
        )
    if rehearsed is None:
        return "The calls between the levels are not drawn for so many steps."
    levels, sigmas = plan.sigmas[:-1], [call.sigma for call in rehearsed.calls]
    if plan.own_grid:
        return "This sampler makes its own steps between the first and the last sigma; they are what is drawn."
    if sigmas == list(levels):
        return "It asks the network once a step, at the sigmas of the list themselves."
    raised = [asked for asked, level in zip(_firsts(rehearsed), levels, strict=False) if asked > level * (1 + 1e-6)]
    said = f"The rings are its {len(sigmas)} network calls, each at the sigma where it really asks."
    if raised:
        said += f" Noise is added before {len(raised)} of the {len(levels)} steps, so they ask above the list, "
        said += f"first at sigma {raised[0]:.4g}."
    return said


def _firsts(rehearsed: DryRun) -> list[float]:
    """The first sigma that each step asks at."""
    first: dict[int, float] = {}
    for call in rehearsed.calls:
        first.setdefault(int(call.place), call.sigma)
    return list(first.values())


def _strengths(made: RunPreview, by_meaning: Mapping[str, Plan]) -> str:
    rows = []
    for meaning, plan in by_meaning.items():
        calls = "as it needs" if plan.calls is None else f"{plan.calls}"
        cells = (MEANINGS[meaning].capitalize(), calls, percent(noise_share(plan.sigmas[0])), f"{plan.sigmas[0]:.3g}")
        rows.append((meaning == made.request.strength_as, cells))
    columns = (f"Strength {made.request.strength:g}", "Calls", "Noise", "Sigma")
    return render("tables", "strengths", columns, rows)


def list_text(sigmas: Sequence[float]) -> str:
    """A list of sigmas as text, every number so that reading it gives the same one."""
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
