"""What the Schedule tab says in words: the facts of a run, the two meanings of strength, a list as text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from samplers.levels import DryRun
from samplers.run import Plan
from samplers.schedule import noise_share
from webui.core.request import RequestError
from webui.engine.run_preview import RunPreview
from webui.tabs.form.describe import percent

MEANINGS = {"steps": "as a share of the steps", "noise": "as a level of noise"}


def facts(
    made: RunPreview, rehearsed: DryRun | None, by_meaning: Mapping[str, Plan], guidance: str = "", trouble: str = ""
) -> str:
    """What the run will cost and where it starts, and the same for the other meaning of strength.

    by_meaning  the plan at this strength for each of MEANINGS
    guidance    the sentence about where guidance acts
    trouble     why the inner calls are not known, if they are not
    """
    parts = [f"<p class='note facts'>{_cost(made.run, made.found.name)}</p>"]
    note = trouble or asks(made.run, rehearsed)
    parts.append(f"<p class='note{' problem' if trouble else ''}'>{escape(note)}</p>")
    if guidance:
        parts.append(f"<p class='note'>{escape(guidance)}</p>")
    if made.request.strength < 1:
        parts.append(_strengths(made, by_meaning))
    return "".join(parts)


def asks(plan: Plan, rehearsed: DryRun | None) -> str:
    """Where a sampler asks the network, beside the levels of its list."""
    if plan.calls is None:
        return "An adaptive sampler goes where the network leads it: its own steps are drawn after a run, by loading its picture."
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
        said += f" Noise is added before {len(raised)} of the {len(levels)} steps, so they ask above the list, first at sigma {raised[0]:.4g}."
    return said


def _firsts(rehearsed: DryRun) -> list[float]:
    """The first sigma that each step asks at."""
    first: dict[int, float] = {}
    for call in rehearsed.calls:
        first.setdefault(int(call.place), call.sigma)
    return list(first.values())


def _cost(plan: Plan, model: str) -> str:
    calls = "As many network calls as it needs" if plan.calls is None else _calls(plan.calls)
    count = len(plan.sigmas) - 1
    steps = "its own steps" if plan.own_grid else "one step" if count == 1 else f"{count} steps"
    return f"<strong>{calls}</strong> on {escape(model)}, {steps}, starting at <strong>{_start(plan)}</strong>"


def _start(plan: Plan) -> str:
    return f"{percent(noise_share(plan.sigmas[0]))} noise (sigma {plan.sigmas[0]:.3g})"


def _calls(calls: int) -> str:
    return "One network call" if calls == 1 else f"{calls} network calls"


def _strengths(made: RunPreview, by_meaning: Mapping[str, Plan]) -> str:
    rows = []
    for meaning, plan in by_meaning.items():
        chosen = " class='chosen' aria-current='true'" if meaning == made.request.strength_as else ""
        calls = "as it needs" if plan.calls is None else f"{plan.calls}"
        cells = (MEANINGS[meaning].capitalize(), calls, percent(noise_share(plan.sigmas[0])), f"{plan.sigmas[0]:.3g}")
        tags = "".join(f"<td>{cell}</td>" for cell in cells)
        rows.append(f"<tr{chosen}>{tags}</tr>")
    head = "".join(
        f"<th scope='col'>{title}</th>" for title in (f"Strength {made.request.strength:g}", "Calls", "Noise", "Sigma")
    )
    return f"<table class='strengths'><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


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
