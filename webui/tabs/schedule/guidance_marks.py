"""Where guidance acts in a run: a mark at the network calls that are guided, and the same in words."""

from __future__ import annotations

from collections.abc import Sequence

from samplers.levels import DryRun
from webui.core.request import Request
from webui.engine.run_preview import RunPreview

from .curves import Curve, between


def asked(made: RunPreview, rehearsed: DryRun | None) -> tuple[tuple[float, float], ...] | None:
    """(place, sigma) of the network calls of a run, places counted in its steps; None for an adaptive sampler.

    Of a run too long to be rehearsed it is where each step starts.
    """
    if rehearsed:
        return tuple((call.place, call.sigma) for call in rehearsed.calls)
    if made.run.calls is None:
        return None
    return tuple((float(step), sigma) for step, sigma in enumerate(made.run.sigmas[:-1]))


def guided_curve(
    request: Request, places: Sequence[float], calls: Sequence[tuple[float, float]], of: str = ""
) -> list[Curve]:
    """The mark of the guided calls on a curve whose points stand at `places`; empty where no call is guided.

    of  whose guidance it is, where several are drawn
    """
    guided = [(between(places, place), sigma) for place, sigma in calls if request.guidance_at(sigma) != 1]
    if not guided:
        return []
    where, sigmas = zip(*guided, strict=True)
    return [Curve(f"Guidance {request.guidance:g}{f', {of}' if of else ''}", where, sigmas, "guided")]


def guidance_note(request: Request, sigmas: Sequence[float] | None, steps: int) -> str:
    """Where guidance acts, in a sentence.

    sigmas  of the network calls, in order; None where only the run will tell
    steps   of the run
    """
    scale, reach = request.guidance, _reach(request)
    if scale == 1:
        return "Guidance scale 1 is no guidance: no step asks for the estimate without the prompt."
    does = f"Guidance {scale:g} acts" if scale else "Guidance 0, which ignores the prompt, acts"
    if sigmas is None:
        return f"{does} wherever this sampler asks{f' at {reach}' if reach else ''}."
    guided, every = sum(request.guidance_at(sigma) != 1 for sigma in sigmas), len(sigmas)
    what = "step" if every == steps else "network call"
    if not guided:
        return f"{does} nowhere: no {what} of this run is at {reach}."
    many = (
        f"all {every} {what}s"
        if guided == every > 1
        else f"the one {what}"
        if every == 1
        else f"{guided} of {every} {what}s"
    )
    return f"{does} in {many}{f' ({reach})' if reach else ''}."


def _reach(request: Request) -> str:
    """The sigmas that are guided, in words; empty for all of them."""
    low, high = request.guidance_low, request.guidance_high
    if low and high:
        return f"sigma {low:g} to {high:g}"
    return f"sigma above {low:g}" if low else f"sigma up to {high:g}" if high else ""
