"""One job on an opened model: batches, progress, previews, and each finished picture written at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from samplers.run import RunResult, run
from samplers.sampler import Step, Stopped
from samplers.wrappers import Counted, Reported, Stoppable
from webui.core.images import grid, to_jpeg
from webui.core.record import digest_of, encode_png, record
from webui.core.storage import keep_input, save_or_keep

from .errors import not_saved
from .eta_estimator import EtaEstimator
from .events import Picture, Progress
from .job_context import JobContext
from .jobs import Job
from .run_environment import origin_of

PREVIEW_GAP = 0.25  # seconds between previews at least
PREVIEW_SHARE = 0.1  # of the run's time that previews may cost


def batches(seeds: Sequence[int], size: int) -> Iterator[tuple[int, ...]]:
    """The seeds in groups of at most `size`."""
    for start in range(0, len(seeds), size):
        yield tuple(seeds[start : start + size])


def info_of(
    job: Job, sigmas: Sequence[Sequence[float]] = (), nfe: Sequence[float] = (), seconds: float = 0.0, stopped=True
):
    """The info of a job from what its finished pictures used: JSON data, see `Drawing.draw`."""
    request = job.request
    if request is None:
        return {"stopped": stopped}
    settings = {name: value for name, value in request.used_settings().items() if name not in ("count", "seed")}
    mean = sum(nfe) / len(nfe) if nfe else 0
    return {
        **settings,
        "seeds": [picture.seed for picture in job.pictures],
        "sigmas": list(sigmas[0] if sigmas else job.plan.sigmas),
        "nfe": int(mean) if mean == int(mean) else mean,
        "nfe_each": list(nfe),
        "sigmas_each": [list(each) for each in sigmas] if any(each != sigmas[0] for each in sigmas) else [],
        "seconds": round(seconds, 3),
        "stopped": stopped,
    }


class Drawing:
    """Draws one job with what is at the desk.

    one_at_a_time   draw each picture by itself: slower, and equal to the last bit to drawing it alone
    on_step         called with each finished step
    """

    def __init__(
        self,
        job: Job,
        desk: JobContext,
        one_at_a_time: bool = False,
        on_step: Callable[[Step], None] = lambda step: None,
    ):
        self._watch_step = on_step
        self._job, self._desk, self._model, self._clock = job, desk, desk.model, desk.clock
        size = (
            1
            if job.plan.own_grid
            else job.conditions.batch or (1 if one_at_a_time else desk.model.info.defaults.max_batch)
        )
        self._batches = list(batches(job.request.seeds, size))
        self._pace = EtaEstimator(job.plan, [len(batch) for batch in self._batches])
        self._began = desk.clock()
        self._progress = Progress(steps=None if job.plan.own_grid else len(job.plan.sigmas) - 1)
        self._preview, self._preview_cost, self._next_preview = None, 0.0, 0.0
        self._usual_cost = math.inf
        self._sigmas: list[list[float]] = []
        self._nfe: list[float] = []
        self._facts: dict[str, Any] = {}

    def draw(self) -> dict[str, Any]:
        """Draw every picture and return the info.

        Its sigmas are those that ran for the first picture (sigmas_each: per picture, where they differ), nfe the
        mean of the denoise calls of a picture (nfe_each); guidance does not double them. seeds has finished pictures
        only, in order. Raises SamplerFailed, NotSaved, MemoryError and whatever the model raises.
        """
        stopped, first = False, 0
        with torch.no_grad():
            try:
                denoise, start = self._prepare()
                for batch in self._batches:
                    counted, result = self._sample(denoise, start, batch, first)
                    self._finish(counted, result, batch, first)
                    first += len(batch)
            except Stopped:
                stopped = True
        return info_of(self._job, self._sigmas, self._nfe, self._clock() - self._began, stopped)

    def _prepare(self):
        request, model = self._job.request, self._model
        self._raise_if_stopped()
        denoise = model.denoiser(request.prompt, request.negative_prompt, request.guidance, **request.conditioning)
        if self._job.source is not None:
            self._facts["input_digest"] = digest_of(self._job.source)
            if not self._desk.public:
                keep_input(self._desk.outputs, self._job.source, self._facts["input_digest"])
            return denoise, model.encode(self._job.source)
        shape = model.latents_shape(request.width, request.height)
        return denoise, torch.zeros(1, *shape, device=model.device)

    def _sample(self, denoise, start: torch.Tensor, batch: Sequence[int], first: int) -> tuple[Counted, RunResult]:
        self._progress = replace(self._progress, image_index=first, step=0, sigma=None)
        self._pace.begin_batch(self._clock())
        self._tell(self._doing())
        counted = Counted(denoise, len(batch))
        watched = Stoppable(Reported(counted, self._on_call), self._desk.should_stop)
        result = run(self._job.plan, watched, start.repeat(len(batch), 1, 1, 1), batch, self._on_step)
        return counted, result

    def _finish(self, counted: Counted, result: RunResult, batch: Sequence[int], first: int) -> None:
        """Decode, write and announce each picture of a batch. NotSaved comes after all of them were tried."""
        request, problems = self._job.request, []
        sigmas = [float(sigma) for sigma in result.sigmas]
        for offset, seed in enumerate(batch):
            began, index = self._clock(), first + offset
            self._tell(f"decoding {_of(index, index + 1, request.count)}")
            image = self._model.decode(result.x[offset : offset + 1])[0]
            saved = save_or_keep(
                self._desk.outputs, seed, encode_png(image, self._record(index, image, sigmas, counted.calls, batch))
            )
            self._pace.decoded(self._clock() - began)
            if saved.path:
                self._sigmas.append(sigmas)
                self._nfe.append(counted.calls)
                self._desk.on_saved(saved.path)
                self._job.tell(Picture(saved.path, seed, index))
            if saved.problem:
                problems.append(saved)
        if problems:
            raise not_saved(problems, self._desk.public)

    def _record(self, index: int, image, sigmas: Sequence[float], nfe: float, batch: Sequence[int]) -> dict[str, Any]:
        request, registry = self._job.request, self._desk.registry
        facts = dict(self._facts, threads=torch.get_num_threads(), pixels=digest_of(image))
        sampler, schedule = registry.sampler(request.sampler), registry.schedule(request.schedule)
        return record(
            request,
            index,
            sampler,
            schedule,
            sigmas,
            nfe,
            origin_of(self._model.name, self._model.identity),
            batch,
            **facts,
        )

    def _on_call(self, sigma: float, denoised: torch.Tensor) -> None:
        self._pace.called(sigma, self._clock(), self._preview_cost)
        self._preview_cost = 0.0
        self._progress = replace(self._progress, sigma=float(sigma))
        if self._job.previews:
            self._look(denoised)
        self._tell(self._doing())

    def _on_step(self, step: Step) -> None:
        # A sampler that works on after Stop without asking the network ends here.
        self._raise_if_stopped()
        self._watch_step(step)
        if self._progress.steps is not None:
            self._progress = replace(self._progress, step=min(self._progress.step + 1, self._progress.steps))
            self._tell(self._doing())

    def _look(self, denoised: torch.Tensor) -> None:
        """Make a preview if it is time for one; the dearer they are here, the fewer are made."""
        began = self._clock()
        if began < self._next_preview:
            return
        try:
            self._preview = to_jpeg(grid(self._model.preview(denoised)))
        except Exception:  # a picture of broken numbers: the run's own end names the sampler
            self._preview = None
        now = self._clock()
        self._preview_cost = now - began
        # The least so far: the first one also pays for warming the decoder up.
        self._usual_cost = min(self._usual_cost, self._preview_cost)
        self._next_preview = began + max(PREVIEW_GAP, self._usual_cost / PREVIEW_SHARE)

    def _tell(self, text: str) -> None:
        self._job.tell(
            replace(
                self._progress,
                calls=self._pace.calls,
                total_calls=self._pace.total_calls,
                seconds=self._clock() - self._began,
                remaining=self._pace.remaining(self._progress.step),
                preview=self._preview,
                text=text,
            )
        )

    def _doing(self) -> str:
        progress, request = self._progress, self._job.request
        batch = next(len(b) for b in self._batches if b[0] == request.seeds[progress.image_index])
        what = _of(progress.image_index, progress.image_index + batch, request.count)
        if progress.steps is None:
            return f"{what}, {self._pace.calls} network calls"
        return f"{what}, step {progress.step} of {progress.steps}"

    def _raise_if_stopped(self) -> None:
        if self._desk.should_stop():
            raise Stopped("the run was stopped")


def _of(first: int, end: int, count: int) -> str:
    """ "picture 2 of 4", "pictures 1-4 of 8"."""
    if count == 1:
        return "picture"
    return f"picture {end} of {count}" if end - first == 1 else f"pictures {first + 1}-{end} of {count}"
