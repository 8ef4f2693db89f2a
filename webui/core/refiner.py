"""The refiner of a run: which steps are its own, and which it cannot take part in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from samplers.run import Plan
from samplers.schedule import handover, latest_handover

from .limits import refiner_problems
from .request import Request, RequestError

if TYPE_CHECKING:
    from weights.model_info import ModelInfo


def check_refiner(request: Request, refiner: ModelInfo, model: ModelInfo, plans: Sequence[Plan]) -> None:
    """Raises RequestError for a refiner that cannot go on with a resolved request, or would have no step in it.

    plans  of the passes that `model` draws
    """
    if problems := refiner_problems(request, refiner, model):
        raise RequestError(" ".join(problems))
    check_refiner_steps(plans, model, request.refiner_switch)


def check_refiner_steps(plans: Sequence[Plan], model: ModelInfo, switch: float) -> None:
    """Raises RequestError where a refiner would have no step in the passes that `model` draws."""
    if not any(refined_steps(plan, model, switch) for plan in plans):
        raise RequestError(_too_late(plans[0], model, switch))


def refined_text(plan: Plan, model: ModelInfo, switch: float) -> str:
    """The steps of a refiner in words."""
    count, steps = refined_steps(plan, model, switch), len(plan.sigmas) - 1
    if plan.own_grid:
        return "the end of the run"
    return "the last step" if count == 1 else f"the last {count} of {steps} steps" if count < steps else "all steps"


def refined_steps(plan: Plan, model: ModelInfo, switch: float) -> int:
    """How many steps of a pass of `model` begin below the noise level at which a refiner takes over."""
    level = handover(model.schedule, switch)
    return sum(sigma < level for sigma in plan.sigmas[:-1])


def _too_late(plan: Plan, model: ModelInfo, switch: float) -> str:
    latest = latest_handover(model.schedule, plan.sigmas[-2])
    lower = f"at most {latest:g}, or more steps" if latest > 0 else "more steps"
    return (
        f"Refiner switch is {switch:g}, and the last of the {len(plan.sigmas) - 1} steps begins before that, so that "
        f"the refiner would draw nothing; choose {lower}."
    )
