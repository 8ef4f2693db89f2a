"""A request on its way to the engine: defaults filled in, names and limits checked, its run planned."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, count
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from samplers.guidance import PLAIN_CFG, Method
from samplers.registry import Registry
from samplers.run import Plan
from weights.prompt_schedule import Clock
from weights.prompt_syntax import lora_tags

from .feature_fields import HIRES_SCALE, SCALE
from .limits import LOCAL, SEEDS, Limits, limit_problems, second_pass_problems
from .menus import UPSCALERS
from .plugin_fields import GUIDANCE, PluginOrigins
from .prompt_checks import check_prompts, prompts_as_they_come_out
from .refiner import check_refiner
from .request import Request, RequestError
from .run_plans import known, partial_plan, whole_plan
from .styles import Style, with_styles
from .upscale_request import check_upscaler_file, check_upscaler_name, pixel_upscalers

if TYPE_CHECKING:
    from weights.extra_networks import ExtraNetworks
    from weights.model_info import ModelInfo


@dataclass(frozen=True)
class ResolvedRequest:
    """A request with every default filled in and checked, the model that it names, and the plan of its run.

    hires_plan  of the second pass, None without one
    hires_model_info  the model of the second pass where it is another one
    refiner_info  the model that goes on in the passes of `model_info`, at lower noise; None without one
    hires_model_digest, refiner_digest  what their identities have to be, as a replay knows; "" takes any
    method      the guidance of all passes
    came_out    (prompt, negative prompt) of each picture after its random choices; empty where there are none
    styles      the names of those that were written into the prompts
    written     (prompt, negative prompt) as they were written, before styles and random choices
    origins     of the plugins that it names, as they were then: they may be loaded anew before it is drawn
    A replay puts the recorded sigmas into the plans; the request names the schedules that they came from.
    """

    request: Request
    model_info: ModelInfo
    plan: Plan
    hires_plan: Plan | None = None
    hires_model_info: ModelInfo | None = None
    refiner_info: ModelInfo | None = None
    hires_model_digest: str = ""
    refiner_digest: str = ""
    method: Method = PLAIN_CFG
    came_out: tuple[tuple[str, str], ...] = ()
    styles: tuple[str, ...] = ()
    written: tuple[str, str] = ("", "")
    origins: PluginOrigins = PluginOrigins()

    def request_of(self, index: int) -> Request:
        """The request with the prompts of picture `index` as they came out."""
        if not self.came_out:
            return self.request
        prompt, negative = self.came_out[index]
        return self.request.model_copy(
            update=dict(prompt=prompt, negative_prompt=negative, prompt_syntax="fixed"),
        )

    @property
    def prompt_with_loras(self) -> str:
        """The first prompt that names LoRAs, or the first."""
        prompts = [prompt for prompt, _ in self.came_out] or [self.request.prompt]
        return next((prompt for prompt in prompts if lora_tags(prompt)), prompts[0])

    @property
    def clocks(self) -> tuple[Clock, ...]:
        """The steps of each pass, by which prompts change."""
        before = accumulate((len(plan.sigmas) - 1 for plan in self.plans), initial=0)
        return tuple(Clock(plan.sigmas, *counts) for plan, *counts in zip(self.plans, before, count(), strict=False))

    @property
    def plans(self) -> tuple[Plan, ...]:
        """The plans of all passes."""
        return (self.plan,) if self.hires_plan is None else (self.plan, self.hires_plan)

    @property
    def calls(self) -> int | None:
        """Denoise calls per image in all passes; None where only the run tells."""
        calls = [plan.calls for plan in self.plans if plan.calls is not None]
        return sum(calls) if len(calls) == len(self.plans) else None

    @property
    def hires_size(self) -> tuple[int, int]:
        """(width, height) of the second pass."""
        return self.request.hires_size(self.model_info.defaults.multiple)

    def with_plans(self, *plans: Plan) -> ResolvedRequest:
        """The same passes by these plans."""
        return replace(self, plan=plans[0], hires_plan=plans[1] if self.hires_plan else None)


def resolve(
    request: Request,
    registry: Registry,
    models: Mapping[str, ModelInfo],
    default_model: str = "",
    limits: Limits = LOCAL,
    extra: ExtraNetworks | None = None,
    styles: Mapping[str, Style] = MappingProxyType({}),
) -> ResolvedRequest:
    """Fill in every default, draw the seed, check names, options, sizes and limits, and plan the run.

    default_model  the one for a request that names none; empty for the first known
    extra          the LoRAs that prompts may name; None leaves them unchecked
    styles         those that the request may name
    Raises RequestError. The options of the result are complete.
    """
    names, written = request.styles, (request.prompt, request.negative_prompt)
    request = with_styles(request, styles)
    model_info = _model(request.model or default_model, models)
    sampler, schedule = (
        known(registry.sampler, request.sampler),
        known(registry.schedule, request.schedule or model_info.defaults.schedule),
    )
    guidance = known(partial(GUIDANCE.find, registry), request.guidance_method)
    schedule_options = request.schedule_options
    if not request.schedule:
        schedule_options = dict(model_info.defaults.schedule_options) | dict(schedule_options)
    update = dict(
        model=model_info.name,
        sampler=sampler.name,
        schedule=schedule.name,
        width=request.width or model_info.defaults.size,
        height=request.height or model_info.defaults.size,
        seed=drawn_seed(request.seed),
        variation_seed=drawn_seed(request.variation_seed) if request.is_varied else request.variation_seed,
        options=known(sampler.item.resolve, request.options),
        schedule_options=known(schedule.item.resolve, schedule_options),
        guidance_method=GUIDANCE.named(guidance),
        guidance_options=known(guidance.item.resolve, request.guidance_options),
        hires_model="" if request.hires_model == model_info.name else request.hires_model,
        refiner="" if request.refiner == model_info.name or request.refiner_switch == 1 else request.refiner,
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
    if resolved.inpaints and sampler.item.resizes:
        raise RequestError(
            f"Sampler {sampler.name} asks the network at other sizes, which no mask fits; choose another sampler."
        )
    came_out = prompts_as_they_come_out(resolved, limits, extra)
    for prompt, negative in dict.fromkeys(came_out or [(resolved.prompt, resolved.negative_prompt)]):
        check_prompts(prompt, negative, extra, resolved.prompt_syntax)
    if resolved.is_tiled:
        resolved = _tiled(resolved, extra)
    run, later, second_info = whole_plan(resolved, registry, model_info), None, None
    if resolved.is_hires:
        if resolved.hires_model:
            second_info = _model(resolved.hires_model, models)
            if problems := second_pass_problems(resolved, second_info, model_info):
                raise RequestError(" ".join(problems))
        resolved, second = hires_pass(resolved, registry, _upscalers(extra))
        check_upscaler_file(resolved.upscaler, extra)
        later = partial_plan(whole_plan(second, registry, second_info or model_info), second)
    elif resolved.has_input:
        run = partial_plan(run, resolved)
    refiner_info = _model(resolved.refiner, models) if resolved.refiner else None
    if refiner_info:
        own = [run] if later is None or second_info else [run, later]
        check_refiner(resolved, refiner_info, model_info, own)
    method, origins = Method(guidance.item, resolved.guidance_options), PluginOrigins.of(resolved, registry)
    passes = dict[str, Any](hires_plan=later, hires_model_info=second_info, refiner_info=refiner_info, method=method)
    more = dict[str, Any](came_out=came_out, styles=names, written=written, origins=origins)
    return ResolvedRequest(resolved, model_info, run, **passes, **more)


def drawn_seed(seed: int) -> int:
    """The seed, or a random one for -1."""
    return random.SystemRandom().randrange(SEEDS) if seed == -1 else seed


def hires_pass(request: Request, registry: Registry, upscalers: Collection[str] = UPSCALERS) -> tuple[Request, Request]:
    """(a resolved request with the defaults of its second pass filled in, that pass as img2img). RequestError.

    upscalers  the names of those that are here
    The options are those of the first pass where the sampler or the schedule is the same, else the defaults.
    """
    if request.hires_scale < 1:
        raise RequestError(f"Hires scale must be {HIRES_SCALE}.")
    check_upscaler_name(request.upscaler, upscalers)
    sampler = known(registry.sampler, request.hires_sampler or request.sampler)
    schedule = known(registry.schedule, request.hires_schedule or request.schedule)
    filled = dict(
        hires_steps=request.hires_steps or request.steps,
        hires_sampler=sampler.name,
        hires_schedule=schedule.name,
        upscaler=request.upscaler or UPSCALERS[0],
    )
    second = dict(
        sampler=sampler.name,
        schedule=schedule.name,
        steps=filled["hires_steps"],
        strength=request.hires_strength,
        strength_as=request.hires_strength_as,
        options=request.options if sampler.name == request.sampler else sampler.item.resolve({}),
        schedule_options=request.schedule_options if schedule.name == request.schedule else schedule.item.resolve({}),
    )
    return request.model_copy(update=filled), request.model_copy(update=second)


def _tiled(request: Request, extra: ExtraNetworks | None) -> Request:
    """A resolved request that is drawn in tiles, with its upscaler. Raises RequestError."""
    if request.scale < 1:
        raise RequestError(f"Scale must be {SCALE}.")
    if any(request.outpaint) or (request.inpaints and request.inpaint_area == "masked"):
        raise RequestError(
            "A picture that is drawn in tiles is drawn whole and not extended: set scale to 0, or draw the whole "
            "picture and extend it by 0."
        )
    check_upscaler_name(request.upscaler, pixel_upscalers(_upscalers(extra)))
    check_upscaler_file(request.upscaler or UPSCALERS[0], extra)
    return request.model_copy(update={"upscaler": request.upscaler or UPSCALERS[0]})


def _upscalers(extra: ExtraNetworks | None) -> list[str]:
    return [*UPSCALERS, *(extra.upscalers() if extra else ())]


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


def _model(name: str, models: Mapping[str, ModelInfo]) -> ModelInfo:
    if not models:
        raise RequestError("No model was found; put a .safetensors file or a diffusers folder into weights/.")
    name = name or next(iter(models))
    if name not in models:
        raise RequestError(f"Unknown model {name!r}; known are {', '.join(models)}.")
    return models[name]
