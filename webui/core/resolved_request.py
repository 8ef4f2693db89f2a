"""A request on its way to the engine: defaults filled in, names and limits checked, its run planned."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from samplers.registry import Registry
from samplers.run import Plan, plan
from samplers.schedule import cut

from .limits import LOCAL, SEEDS, Limits, limit_problems
from .request import Request, RequestError
from .text import as_sentence

if TYPE_CHECKING:
    from weights.model_info import ModelInfo


@dataclass(frozen=True)
class ResolvedRequest:
    """A request with every default filled in and checked, the model that it names, and the plan of its run.

    A replay puts the recorded sigmas into the plan; the request names the schedule that they came from.
    """

    request: Request
    model_info: ModelInfo
    plan: Plan

    def with_sigmas(self, sigmas: tuple[float, ...]) -> ResolvedRequest:
        """The same run through other noise levels."""
        return replace(self, plan=replace(self.plan, sigmas=sigmas))


def resolve(
    request: Request,
    registry: Registry,
    models: Mapping[str, ModelInfo],
    default_model: str = "",
    limits: Limits = LOCAL,
) -> ResolvedRequest:
    """Fill in every default, draw the seed, check names, options, sizes and limits, and plan the run.

    default_model  the one for a request that names none; empty for the first known
    Raises RequestError. The options of the result are complete.
    """
    model_info = _model(request.model or default_model, models)
    sampler, schedule = (
        _known(registry.sampler, request.sampler),
        _known(registry.schedule, request.schedule or model_info.defaults.schedule),
    )
    update = dict(
        model=model_info.name,
        sampler=sampler.name,
        schedule=schedule.name,
        width=request.width or model_info.defaults.size,
        height=request.height or model_info.defaults.size,
        seed=random.SystemRandom().randrange(SEEDS) if request.seed == -1 else request.seed,
        options=_known(sampler.item.resolve, request.options),
        schedule_options=_known(schedule.item.resolve, request.schedule_options),
    )
    resolved = _with_aligned_sides(request.model_copy(update=update), model_info.defaults.multiple)
    if problems := limit_problems(resolved, model_info, limits):
        raise RequestError(" ".join(problems))
    if resolved.guidance_high and resolved.guidance_high <= resolved.guidance_low:
        raise RequestError(
            f"Guidance high is {resolved.guidance_high:g} and guidance low {resolved.guidance_low:g}; "
            "high must be above low, or 0 for no upper end."
        )
    if resolved.has_input and resolved.image is None:
        raise RequestError("img2img needs an input picture: upload one, or use txt2img.")
    whole = whole_plan(resolved, registry, model_info)
    return ResolvedRequest(resolved, model_info, partial_plan(whole, resolved) if resolved.has_input else whole)


def _with_aligned_sides(request: Request, multiple: int) -> Request:
    """The request with its picture extended so far that the model can make it: the later side of an axis gets more."""
    left, top, right, bottom = request.outpaint
    if not request.has_input or request.inpaint_area != "whole":
        return request
    more, below = -(left + right) % multiple, -(top + bottom) % multiple
    sides = (left, top, right + more, bottom) if right else (left + more, top, right, bottom)
    left, top, right, bottom = sides
    sides = (left, top, right, bottom + below) if bottom else (left, top + below, right, bottom)
    return request.model_copy(update={"outpaint": sides})


def whole_plan(request: Request, registry: Registry, model_info: ModelInfo) -> Plan:
    """The plan of every step of a resolved request; RequestError if its sampler or schedule cannot make one."""
    sampler, schedule = _known(registry.sampler, request.sampler), _known(registry.schedule, request.schedule)
    with _planning(request):
        return _declaring(
            plan(
                model_info.schedule,
                sampler.item,
                schedule.item,
                request.steps,
                request.options,
                request.schedule_options,
            )
        )


def partial_plan(whole: Plan, request: Request) -> Plan:
    """The part of a plan that img2img runs at the request's strength. RequestError as for `whole_plan`."""
    with _planning(request):
        return _declaring(replace(whole, sigmas=cut(whole.sigmas, request.strength, request.strength_as)))


def _declaring(made: Plan) -> Plan:
    # Both are declared by plugins: let them fail here, where the user can still change something.
    _ = made.calls, made.own_grid
    return made


@contextmanager
def planning(what: str) -> Iterator[None]:
    """Turn an error of samplers and schedules, which are plugins and may raise anything, into a RequestError.

    what  the beginning of its sentence where the error does not say enough itself
    """
    try:
        yield
    except RequestError:
        raise
    except ValueError as error:
        raise RequestError(as_sentence(str(error))) from None
    except Exception as error:
        raise RequestError(f"{what}: {type(error).__name__}: {error}.") from error


def _planning(request: Request) -> AbstractContextManager[None]:
    return planning(f"Sampler {request.sampler} with schedule {request.schedule} cannot plan {request.steps} steps")


def _model(name: str, models: Mapping[str, ModelInfo]) -> ModelInfo:
    if not models:
        raise RequestError("No model was found; put a .safetensors file or a diffusers folder into weights/.")
    name = name or next(iter(models))
    if name not in models:
        raise RequestError(f"Unknown model {name!r}; known are {', '.join(models)}.")
    return models[name]


def _known(look_up: Callable[[Any], Any], wanted: Any) -> Any:
    try:
        return look_up(wanted)
    except ValueError as error:
        raise RequestError(as_sentence(str(error))) from None
