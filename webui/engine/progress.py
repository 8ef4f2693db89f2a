"""Progress of a drawing: counts, the time left, and previews that cost a bounded share of the run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from samplers.wrappers import Counted
from webui.core.images import grid, to_jpeg
from webui.core.resolved_request import ResolvedRequest
from weights.model import Model

from .eta_estimator import EtaEstimator
from .events import Progress
from .job_context import JobContext

PREVIEW_GAP = 0.25  # seconds between previews at least
PREVIEW_SHARE = 0.05  # of the run's time that previews may cost


class ProgressReporter:
    """Tells Progress while pictures are drawn.

    resolved  what is drawn
    batches   indices of the images of each batch, in order
    """

    def __init__(self, resolved: ResolvedRequest, batches: Sequence[range], context: JobContext, previews: bool):
        self._context, self._batches, self._previews = context, batches, previews
        self._model = context.model
        plans, request = resolved.plans, resolved.request
        self._count = request.count
        areas = (1.0, math.prod(resolved.hires_size) / (request.width * request.height))
        self._eta = EtaEstimator(plans, [len(batch) for batch in batches], areas[: len(plans)])
        self._began = context.clock()
        own_grid = any(plan.own_grid for plan in plans)
        self._progress = Progress(steps=None if own_grid else sum(len(plan.sigmas) - 1 for plan in plans))
        self._batch = -1
        self._preview_cost, self._next_preview = 0.0, 0.0
        self._usual_cost = math.inf

    @property
    def seconds(self) -> float:
        """Since the drawing began."""
        return self._context.clock() - self._began

    def begin_batch(self) -> None:
        """The next batch begins."""
        self._batch += 1
        self._model = self._context.model
        first = self._batches[self._batch].start
        self._progress = replace(self._progress, image_index=first, step=0, sigma=None)
        self._eta.begin_batch(self._context.clock())
        self._tell(self._text())

    def call_done(self, counted: Counted, sigma: float, denoised: torch.Tensor) -> None:
        """A network call has returned; `counted` are those of the batch."""
        self._eta.called(sigma, self._context.clock(), self._preview_cost, counted.evaluations_each)
        self._preview_cost = 0.0
        preview = self._progress.preview
        if self._previews and self._context.clock() >= self._next_preview:
            preview = self._make_preview(denoised)
        self._progress = replace(self._progress, sigma=float(sigma), preview=preview)
        self._tell(self._text())

    def step_done(self) -> None:
        """The sampler has finished a step."""
        steps = self._progress.steps
        if steps is not None:
            self._progress = replace(self._progress, step=min(self._progress.step + 1, steps))
            self._tell(self._text())

    def enlarging(self) -> None:
        """The first pass has ended, and its result is enlarged for the second."""
        self._tell("enlarging")

    def begin_pass(self, model: Model) -> None:
        """The next pass of the batch begins, drawn by a model."""
        self._eta.begin_pass(self._context.clock())
        self._model = model

    def skipped(self) -> None:
        """The pictures of the batch are left out."""
        self._eta.skipped()

    def decoding(self, index: int) -> None:
        """A finished image is being decoded."""
        self._tell(f"decoding {_of(index, index + 1, self._count)}")

    def decoded(self, seconds: float) -> None:
        """It was decoded and saved in so many seconds."""
        self._eta.decoded(seconds)

    def _make_preview(self, denoised: torch.Tensor) -> bytes | None:
        """A preview of the estimate; the dearer previews are on this machine, the fewer are made."""
        began = self._context.clock()
        try:
            preview = to_jpeg(grid(self._model.preview(denoised)))
        except Exception:  # a picture of broken numbers: the run's own end names the sampler
            preview = None
        self._preview_cost = self._context.clock() - began
        # The least so far: the first one also pays for warming the decoder up.
        self._usual_cost = min(self._usual_cost, self._preview_cost)
        self._next_preview = began + max(PREVIEW_GAP, self._usual_cost / PREVIEW_SHARE)
        return preview

    def _tell(self, text: str) -> None:
        self._context.tell(
            replace(
                self._progress,
                calls=self._eta.calls,
                total_calls=self._eta.total_calls,
                seconds=self.seconds,
                remaining=self._eta.remaining(self._progress.step),
                text=text,
            )
        )

    def _text(self) -> str:
        progress = self._progress
        what = _of(progress.image_index, self._batches[self._batch].stop, self._count)
        if progress.steps is None:
            return f"{what}, {self._eta.calls} network calls"
        return f"{what}, step {progress.step} of {progress.steps}"


def _of(first: int, end: int, count: int) -> str:
    """ "picture 2 of 4", "pictures 1-4 of 8"."""
    if count == 1:
        return "picture"
    return f"picture {end} of {count}" if end - first == 1 else f"pictures {first + 1}-{end} of {count}"
