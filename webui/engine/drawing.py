"""Draw a resolved request: a stack of denoisers, a list of passes, a loop over batches, and a sink for the pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from samplers.guidance import PLAIN_CFG, Method
from samplers.run import Pass, Plan, run_passes
from samplers.sampler import Denoise, Step, Stopped
from samplers.tiles import Tiled
from samplers.wrappers import ByPass, Counted, Reported, Stoppable
from webui.core.inpainting import InputPicture
from webui.core.request import Request
from webui.core.resolved_request import ResolvedRequest
from weights.inpainting_network import Hole
from weights.model import Model
from weights.prompt_schedule import Clock

from .calibrated_runs import with_coefficients
from .events import Progress
from .job_context import JobContext
from .pass_models import open_models
from .picture_sink import PictureSink, RunFacts, SavedPicture
from .progress import ProgressReporter
from .start_latents import enlarge, enlarged_input, hole_of, initial_noise, start_latents

TILE_OVERLAP = 0.25  # of a tile's shorter side

REUSING = "Features are used again in torch's layers, so torch drew this; without that the faster backend does."
WITH_LORA = "A LoRA acts on torch's layers, so torch drew this; without one the faster backend does."


@dataclass(frozen=True, eq=False)
class Drawing:
    """What is drawn.

    source  the input picture of img2img, None for txt2img
    """

    resolved: ResolvedRequest
    source: InputPicture | None = None

    @property
    def request(self) -> Request:
        """The request."""
        return self.resolved.request

    @property
    def plan(self) -> Plan:
        """The plan of the first pass."""
        return self.resolved.plan

    def info(self, saved: Sequence[SavedPicture] = (), seconds: float = 0.0, stopped: bool = True) -> dict[str, Any]:
        """The info of a job from its saved pictures: JSON data.

        sigmas are those that ran for the first picture (sigmas_each: per picture, where they differ), hires_sigmas
        those of its second pass, nfe is the mean of the denoise calls of a picture (nfe_each); guidance does not double
        them, but what the network evaluates (evaluations_each, where that is counted). seeds are in order; notes, where
        there are any, are sentences.
        """
        settings = {
            key: value
            for key, value in self.request.used_settings().items()
            if key not in ("count", "seed", "variation_seed")
        }
        own = self.request.own_seeds
        sigmas, nfe = [list(one.facts.sigmas[0]) for one in saved], [one.facts.nfe for one in saved]
        second = saved[0].facts.sigmas[1:] if saved else [plan.sigmas for plan in self.resolved.plans[1:]]
        evaluations = [one.facts.evaluations for one in saved]
        notes = self.request.notes_on(self.resolved.model_info)
        mean = sum(nfe) / len(nfe) if nfe else 0
        return {
            **settings,
            "styles": list(self.resolved.styles),
            "seeds": [one.seed for one in saved],
            "sigmas": sigmas[0] if sigmas else list(self.plan.sigmas),
            **({"hires_sigmas": list(second[0])} if second else {}),
            **({"prompts": [list(each) for each in self.resolved.came_out]} if self.resolved.came_out else {}),
            **({"variation_seeds": [own[one.index] for one in saved]} if self.request.is_varied else {}),
            "nfe": int(mean) if mean == int(mean) else mean,
            "nfe_each": nfe,
            **({"evaluations_each": evaluations} if None not in evaluations else {}),
            "sigmas_each": sigmas if any(each != sigmas[0] for each in sigmas) else [],
            "seconds": round(seconds, 3),
            "stopped": stopped,
            **({"notes": notes} if notes else {}),
        }


@dataclass(frozen=True)
class Share:
    """The pictures of a request that are drawn here, while others draw the rest.

    groups    their indices; each group is drawn together
    finished  those that were saved before, and are not saved again
    """

    groups: tuple[range, ...]
    finished: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Listeners:
    """Who else hears of a run, without changing a bit of it.

    on_call  (sigma, denoised) after each network call
    on_gap   see `samplers.guidance.Guided`
    on_step  each finished step
    """

    on_call: Callable[[float, torch.Tensor], None] = lambda sigma, denoised: None
    on_gap: Callable[[float, torch.Tensor], None] | None = None
    on_step: Callable[[Step], None] = lambda step: None


@torch.no_grad()
def draw(
    drawing: Drawing,
    context: JobContext,
    previews: bool = True,
    listeners: Listeners = Listeners(),
    share: Share | None = None,
) -> dict[str, Any]:
    """Draw every picture and return `Drawing.info`; each picture is saved and told as soon as it is finished.

    share  draw these pictures only; "saved" in the info then has their `SavedPicture`s, for the info of the whole
    Raises SamplerFailed, NotSaved, MemoryError and whatever the model raises. Stop is no error, and after a skip
    the next pictures are drawn.
    """
    resolved, reuse = drawing.resolved, drawing.request.feature_reuse
    model = context.model.able_to_draw(resolved.prompt_with_loras, reuse)
    fell_back = model is not context.model
    if model.lacks_weights:
        context.tell(Progress(text=f"reading the weights of {model.name} again, for torch"))
        model.restore()
    context = replace(context, model=model)
    weights = model.identity.weights
    resolved, notes = with_coefficients(resolved, context.registry, weights, context.outputs, context.on_head)
    drawing = replace(drawing, resolved=resolved)
    whole = batches(drawing.request.count, batch_size_of(resolved, context.batch_size))
    groups = list(whole if share is None else share.groups)
    progress = ProgressReporter(resolved, groups, context, previews)
    models = open_models(resolved, context)
    second = models.second
    sink = PictureSink(drawing.resolved, context, share.finished if share else frozenset(), models.others)
    stopped = False

    def on_step(step: Step) -> None:
        # A sampler that works on after Stop without asking the network ends here.
        context.raise_if_stopped()
        listeners.on_step(step)
        progress.step_done()

    def is_over(skips: int) -> bool:
        return context.should_stop() or context.skips() > skips

    def guided_by(holes: Mapping[str, Hole | None]) -> Callable[[Request, Model, Clock], Denoise]:
        more = dict[str, Any](listeners=listeners, method=resolved.method, on_tile=context.raise_if_stopped)
        return lambda request, model, clock: guided_denoiser(
            request, model, **more, clock=clock, hole=holes[model.name]
        )

    def enlarged(denoise: ByPass, x: torch.Tensor) -> torch.Tensor:
        denoise.next_pass()
        progress.enlarging()
        larger = enlarge(x, resolved.hires_size, drawing.request.upscaler, context, second)
        context.raise_if_stopped()
        progress.begin_pass(second)
        return larger

    try:
        context.raise_if_stopped()
        if drawing.request.decoder == "quick":
            # A file that is not there is told before the run, not after it.
            _ = second.quick_decoder
        if drawing.source is not None:
            sink.keep_input(drawing.source)
            if drawing.request.is_tiled:
                progress.enlarging()
                drawing = replace(drawing, source=enlarged_input(drawing.source, context))
        start = start_latents(drawing.request, drawing.source, model)
        holes = {each.name: hole_of(drawing.source, each) for each in (model, *models.others.values())}
        for group in groups:
            over = partial(is_over, context.skips())
            request = resolved.request_of(group[0])
            denoisers, left_out = models.denoisers(resolved, request, guided_by(holes))
            notes += [each for each in left_out if each not in notes]
            by_pass = ByPass(denoisers)
            guided = start.masked(by_pass, drawing.plan.sigmas[0])
            progress.begin_batch()
            counted = Counted(guided, len(group))
            told = partial(progress.call_done, counted)
            reported = Reported(Reported(counted, listeners.on_call), told)
            seeds = [drawing.request.seeds[i] for i in group]
            later = [Pass(plan, partial(enlarged, by_pass)) for plan in resolved.plans[1:]]
            passes = [Pass(drawing.plan, start.of(seeds)), *later]
            try:
                results = run_passes(
                    passes, Stoppable(reported, over), seeds, on_step, initial_noise(drawing.request, group)
                )
            except Stopped:
                context.raise_if_stopped()
                progress.skipped()
                continue
            sigmas = tuple(tuple(map(float, result.sigmas)) for result in results)
            own_seeds = tuple(drawing.request.own_seeds[i] for i in group)
            facts = RunFacts(sigmas, counted.calls, own_seeds, counted.evaluations_each)
            _save(results[-1].x, group, facts, drawing, replace(context, model=second), progress, sink)
    except Stopped:
        stopped = True
    info = drawing.info(sink.saved, progress.seconds, stopped)
    notes += [REUSING if reuse > 1 else WITH_LORA] if fell_back else []
    if notes:
        info["notes"] = [*info.get("notes", ()), *notes]
    return info if share is None else info | {"saved": sink.saved}


def batch_size_of(resolved: ResolvedRequest, wanted: int | None) -> int:
    """How many pictures are drawn together: fewer where a second pass makes them larger, one on a grid of its own or
    where each has a prompt of its own."""
    if any(plan.own_grid for plan in resolved.plans) or resolved.came_out:
        return 1
    area = resolved.request.hires_scale**2 if resolved.hires_plan else 1.0
    return wanted or max(1, int(resolved.model_info.defaults.max_batch / area))


def batches(count: int, size: int) -> Iterator[range]:
    """The indices of so many images in groups of at most `size`."""
    for start in range(0, count, size):
        yield range(start, min(count, start + size))


def guided_denoiser(
    request: Request,
    model: Any,
    listeners: Listeners = Listeners(),
    method: Method = PLAIN_CFG,
    on_tile: Callable[[], None] = lambda: None,
    clock: Clock | None = None,
    hole: Hole | None = None,
) -> Denoise:
    """The model's denoiser for the request's prompts, with guidance by `method`, rescale and interval; in tiles, if
    the request has any.

    on_tile  called before each tile; what it raises ends the run
    clock    the steps of the pass, for prompts that change during it
    hole     what a network made for inpainting is shown, see `hole_of`
    """
    prompts, more = (request.prompt, request.negative_prompt), dict[str, Any](request.conditioning, clock=clock)
    if request.is_tiled:
        tile = model.latents_shape(request.width, request.height)[1:]
        more["around"] = partial(Tiled, tile=tile, overlap=round(TILE_OVERLAP * min(tile)), on_tile=on_tile)
    if hole is not None:
        more["hole"] = hole
    return model.denoiser(*prompts, request.guidance, on_gap=listeners.on_gap, method=method, **more)


def _save(
    x: torch.Tensor,
    group: range,
    facts: RunFacts,
    drawing: Drawing,
    context: JobContext,
    progress: ProgressReporter,
    sink: PictureSink,
) -> None:
    """Decode and save the pictures of a group. NotSaved comes after all of them were tried."""
    for offset, index in enumerate(group):
        began = context.clock()
        progress.decoding(index)
        decode = context.model.decode_quickly if drawing.request.decoder == "quick" else context.model.decode
        image = decode(x[offset : offset + 1])[0]
        sink.save(drawing.source.stitched(image) if drawing.source else image, index, facts)
        progress.decoded(context.clock() - began)
    sink.raise_problems()
