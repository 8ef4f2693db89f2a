"""The task that draws on, or enlarges, one uploaded picture after another. A picture that fails has a reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from samplers.run import SamplerFailed
from samplers.sampler import Stopped
from webui.core.file_batch import BatchFile
from webui.core.inpainting import open_input
from webui.core.limits import Limits
from webui.core.request import Request, RequestError
from webui.core.resolved_request import ResolvedRequest
from webui.core.upscale_request import UpscaleRequest, resolve_upscale

from .drawing import Drawing, draw
from .engine import Engine
from .errors import explain
from .events import Event, PartialResult, Picture, Progress
from .job_context import JobContext
from .upscaling import check_upscaler, upscaling_of


@dataclass(frozen=True)
class FileDone:
    """What came of a file: the pictures, or a reason."""

    file: BatchFile
    pictures: tuple[Path, ...] = ()
    reason: str = ""


@dataclass(frozen=True, eq=False)
class PictureBatch:
    """A task of the queue, see `Task`; its parts are a `FileDone` for each file.

    requests  one for each file: resolved ones, or ones to enlarge
    limits    those of whoever asked, for pictures that are opened only now
    """

    files: tuple[BatchFile, ...]
    requests: tuple[ResolvedRequest | UpscaleRequest, ...]
    limits: Limits
    model: str = ""

    def run(self, context: JobContext) -> dict[str, Any]:
        """Work through the files in order. A file that cannot be used costs itself only; a full disk ends all."""
        began, done, stopped = context.clock(), list[FileDone](), False
        try:
            for file, request in zip(self.files, self.requests, strict=True):
                context.raise_if_stopped()
                result = self._one(file, request, context, done, began)
                done.append(result)
                context.tell(PartialResult(result))
        except Stopped:
            stopped = True
        failed = [dict(file=each.file.name, reason=each.reason) for each in done if each.reason]
        return dict(
            stopped=stopped,
            files=len(self.files),
            made=sum(bool(each.pictures) for each in done),
            pictures=_pictures_of(done),
            failed=failed,
            seconds=round(context.clock() - began, 3),
        )

    def _one(
        self,
        file: BatchFile,
        request: ResolvedRequest | UpscaleRequest,
        context: JobContext,
        done: Sequence[FileDone],
        began: float,
    ) -> FileDone:
        pictures, before = list[Path](), _pictures_of(done)

        def listen(event: Event) -> None:
            if isinstance(event, Progress):
                event = self._progress(event, file, len(done), context.clock() - began)
            elif isinstance(event, Picture):
                pictures.append(event.path)
                event = replace(event, index=before + event.index)
            context.tell(event)

        inner = replace(context, tell=listen)
        try:
            if isinstance(request, UpscaleRequest):
                context.on_head(partial(upscaling_of, request, file.path, self.limits)).run(inner)
            else:
                source = context.on_head(partial(open_input, request.request, self.limits))
                draw(Drawing(request, source), inner, previews=False)
        except (RequestError, SamplerFailed) as error:
            resolved = request if isinstance(request, ResolvedRequest) else None
            return FileDone(file, tuple(pictures), explain(error, resolved, context.public))
        context.raise_if_stopped()
        return FileDone(file, tuple(pictures))

    def _progress(self, of_file: Progress, file: BatchFile, done: int, seconds: float) -> Progress:
        # Of one file as much as is known of it, of the others as long as those before took.
        current = of_file.seconds + of_file.remaining if of_file.remaining is not None else None
        each = (seconds - of_file.seconds) / done if done else current
        left = len(self.files) - done - 1
        remaining = of_file.remaining + left * each if of_file.remaining is not None and each is not None else None
        text = f"file {done + 1} of {len(self.files)} ({file.name}), {of_file.text.removeprefix('picture, ')}"
        return replace(of_file, image_index=0, seconds=seconds, remaining=remaining, text=text, total_calls=None)


def _pictures_of(done: Sequence[FileDone]) -> int:
    return sum(len(each.pictures) for each in done)


def draw_batch(engine: Engine, request: Request, files: Sequence[BatchFile]) -> PictureBatch:
    """The task of an img2img request on many pictures; a file's own mask goes before that of the request. RequestError.

    A random seed is another one for each.
    """
    resolved = tuple(
        engine.resolve(request.model_copy(update=dict(image=each.path, mask=each.mask or request.mask)))
        for each in files
    )
    return PictureBatch(tuple(files), resolved, engine.limits, resolved[0].request.model)


def enlarge_batch(engine: Engine, request: UpscaleRequest, files: Sequence[BatchFile]) -> PictureBatch:
    """The task that enlarges many pictures. Raises RequestError."""
    resolved = resolve_upscale(request, engine.upscalers())
    check_upscaler(resolved.upscaler, engine.extra)
    return PictureBatch(tuple(files), (resolved,) * len(files), engine.limits)
