"""The models that draw the passes of a run, and the denoisers that they make of a request."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from samplers.sampler import Denoise
from samplers.schedule import handover
from samplers.wrappers import Refined
from webui.core.request import Request
from webui.core.resolved_request import ResolvedRequest
from weights.model import Model
from weights.model_info import ModelError
from weights.prompt_schedule import Clock
from weights.prompt_syntax import without_tags

from .events import Progress
from .job_context import JobContext
from .run_environment import check_digest
from .start_latents import check_latents, check_refiner_latents

FIRST_ALONE = "A LoRA does not fit the model of the second pass, and acted on the first pass alone."
NOT_REFINED = "A LoRA does not fit the refiner, which went on without it."


@dataclass(frozen=True, eq=False)
class PassModels:
    """The opened models of a resolved request.

    first    draws the passes
    second   draws the second pass; `first` unless the request names another
    refiner  goes on below the noise level where the request hands over, in the passes that `first` draws; None without
    """

    first: Model
    second: Model
    refiner: Model | None = None

    @property
    def others(self) -> Mapping[str, Model]:
        """Those beside `first`, by name."""
        return {each.name: each for each in (self.second, self.refiner) if each is not None and each is not self.first}

    def denoisers(
        self, resolved: ResolvedRequest, request: Request, guided: Callable[[Request, Model, Clock], Denoise]
    ) -> tuple[list[Denoise], list[str]]:
        """(the denoiser of each pass, sentences about what could not take part).

        request  that of the picture
        guided   makes a denoiser of a request on a model
        """
        made: list[Denoise] = []
        notes: list[str] = []
        for clock, model in zip(resolved.clocks, (self.first, self.second), strict=False):
            own = model is self.first
            fitting = request if own else _fitting(request, model)
            notes += [] if fitting is request else [FIRST_ALONE]
            denoise = guided(fitting, model, clock)
            if self.refiner is not None and own:
                fitting = _fitting(request, self.refiner)
                notes += [] if fitting is request else [NOT_REFINED]
                level = handover(model.schedule, request.refiner_switch)
                denoise = Refined(denoise, guided(fitting, self.refiner, clock), level)
            made.append(denoise)
        return made, notes


def open_models(resolved: ResolvedRequest, context: JobContext) -> PassModels:
    """The models of a request, the job's own among them. Raises ModelError and RequestError."""
    infos = [info for info in (resolved.hires_model_info, resolved.refiner_info) if info is not None]
    opened = context.others.open(infos, context.model, lambda text: context.tell(Progress(text=text)))
    by_name = {info.name: model for info, model in zip(infos, opened, strict=True)}
    second = refiner = None
    if resolved.hires_model_info is not None:
        second = by_name[resolved.hires_model_info.name]
        check_digest("Model", second.name, second.identity.digest, resolved.hires_model_digest or None)
        check_latents(context.model, second, resolved.request.upscaler)
    if resolved.refiner_info is not None:
        refiner = by_name[resolved.refiner_info.name]
        check_digest("Refiner", refiner.name, refiner.identity.digest, resolved.refiner_digest or None)
        check_refiner_latents(context.model, refiner)
    return PassModels(context.model, second or context.model, refiner)


def _fitting(request: Request, model: Model) -> Request:
    """The request as another model than its own draws it: without LoRAs that do not fit."""
    try:
        model.for_prompt(request.prompt)
    except ModelError:
        return request.model_copy(update={"prompt": without_tags(request.prompt)})
    return request
