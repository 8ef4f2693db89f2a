"""The plans of a resolved request's passes. What plugins raise becomes a RequestError that says what to change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from samplers.registry import Registry
from samplers.run import Plan, plan
from samplers.schedule import cut

from .request import Request, RequestError
from .text import as_sentence

if TYPE_CHECKING:
    from weights.model_info import ModelInfo


def whole_plan(request: Request, registry: Registry, model_info: ModelInfo) -> Plan:
    """The plan of every step of a resolved request; RequestError if its sampler or schedule cannot make one."""
    sampler, schedule = known(registry.sampler, request.sampler), known(registry.schedule, request.schedule)
    options = request.options, request.schedule_options
    with _planning(request):
        return _declaring(plan(model_info.schedule, sampler.item, schedule.item, request.steps, *options))


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


def known(look_up: Callable[[Any], Any], wanted: Any) -> Any:
    """What `look_up` finds; RequestError in place of its ValueError."""
    try:
        return look_up(wanted)
    except ValueError as error:
        raise RequestError(as_sentence(str(error))) from None
