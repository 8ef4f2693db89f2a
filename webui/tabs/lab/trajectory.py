"""Record every step of a run: the state that the network is given, its estimate, and how much both change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont

from samplers.denoiser import to_network
from samplers.sampler import Step
from webui.core.inpainting import open_input
from webui.core.limits import LOCAL, Limits
from webui.core.request import Request, RequestError
from webui.core.resolved_request import ResolvedRequest
from webui.engine.drawing import Drawing, Listeners, draw
from webui.engine.engine import Engine
from webui.engine.events import PartialResult
from webui.engine.job_context import JobContext
from webui.engine.run_environment import DEFAULT_ENVIRONMENT, RunEnvironment
from webui.engine.start_latents import initial_noise, start_latents

MOST_STEPS = 300  # each is two pictures to look at
FILM_SIDE = 256  # pixels of one half of the animation at least
PAPER, INK = (255, 255, 255), (40, 50, 54)


@dataclass(frozen=True, eq=False)
class Frame:
    """One step of a run.

    number           0 is the start, before any network call; then the steps
    sigma            the noise level of `state`; `seen` is the one that the estimate was made at, None at the start and
                     where a sampler made no call for this step
    state            PNG of the state in the scaling that the network is given it in
    denoised         PNG of the estimate of the finished picture; None at the start
    change           root mean square of the state's change in this step, divided by the step's fall of sigma
    estimate_change  root mean square of the estimate's change since the step before; None for the first
    gap              root mean square of conditional minus unconditional estimate, at the step's first call; None
                     where guidance computes no second estimate or there was no call
    """

    number: int
    sigma: float
    state: bytes
    seen: float | None = None
    denoised: bytes | None = None
    change: float | None = None
    estimate_change: float | None = None
    gap: float | None = None


@dataclass(frozen=True, eq=False)
class Trajectory:
    """The task (`webui.engine.job_context.Task`) that draws a resolved request; its parts are a `Frame` for each step.

    The picture is drawn and saved as any other, and is equal to it bit by bit.

    environment, index  of a replayed picture: how its batch was drawn, and its place there
    """

    drawing: Drawing
    environment: RunEnvironment = DEFAULT_ENVIRONMENT
    index: int = 0

    @property
    def model(self) -> str:
        """The request's model."""
        return self.drawing.request.model

    def run(self, context: JobContext) -> dict[str, Any]:
        """Draw it; the info and the event of the picture are those of an ordinary run."""
        camera = _Camera(context, self)
        listeners = Listeners(on_call=camera.call, on_gap=camera.gap, on_step=camera.step)
        camera.start()
        return draw(self.drawing, context, previews=False, listeners=listeners)


def make_trajectory(engine: Engine, request: Request) -> Trajectory:
    """The task for a request; count is taken as 1. Raises RequestError."""
    return trajectory_of(engine.resolve(request.model_copy(update={"count": 1})), limits=engine.limits)


def trajectory_of(
    resolved: ResolvedRequest,
    environment: RunEnvironment = DEFAULT_ENVIRONMENT,
    index: int = 0,
    limits: Limits = LOCAL,
) -> Trajectory:
    """The task for a resolved request, see `Trajectory`. Raises RequestError."""
    if resolved.hires_plan:
        raise RequestError("A trajectory shows one pass, and this run has a second one: set hires scale to 0.")
    if resolved.request.is_tiled:
        raise RequestError(
            "A trajectory shows a picture that is drawn whole, and this one is in tiles: set scale to 0."
        )
    steps = len(resolved.plan.sigmas) - 1
    if steps > MOST_STEPS:
        raise RequestError(f"A trajectory shows at most {MOST_STEPS} steps, and this run has {steps}.")
    return Trajectory(Drawing(resolved, open_input(resolved.request, limits)), environment, index)


def film(frames: Sequence[Frame], milliseconds: int = 160) -> bytes:
    """An animated WebP: state and estimate side by side, step and sigma below; the last frame stays for 2 seconds."""
    pictures = [_side_by_side(frame) for frame in frames]
    if not pictures:
        raise RequestError("There is no step to film yet.")
    durations = [milliseconds] * (len(pictures) - 1) + [2000]
    buffer = BytesIO()
    pictures[0].save(
        buffer, "WEBP", save_all=True, append_images=pictures[1:], duration=durations, loop=0, quality=85, method=2
    )
    return buffer.getvalue()


class _Camera:
    """Takes a frame of each step."""

    def __init__(self, context: JobContext, task: Trajectory):
        self._context, self._task = context, task
        self._number = 0
        self._gap: float | None = None  # of the current call
        self._calls: list[tuple[float, float | None]] = []  # (sigma, gap) of those that belong to no step yet
        self._ahead = False  # whether the sampler makes the calls of later steps before it yields the first
        self._sigma = task.drawing.plan.sigmas[0]
        self._estimate: torch.Tensor | None = None
        # The run's own starting noise: streams are keyed, so drawing it here does not change the run.
        request = task.drawing.request
        with torch.no_grad():
            start = start_latents(request, task.drawing.source, context.model).of([request.seeds[task.index]])
        self._x = start + self._sigma * initial_noise(request, range(task.index, task.index + 1))(start)

    def start(self) -> None:
        """The frame before the first network call: the input with its noise."""
        with torch.no_grad():
            self._tell(Frame(0, self._sigma, self._seen(self._x, self._sigma)))

    def gap(self, sigma: float, gap: torch.Tensor) -> None:
        """Called within a network call with the gap of guidance there."""
        self._gap = _rms(self._own(gap))

    def call(self, sigma: float, denoised: torch.Tensor) -> None:
        """Called after each network call."""
        self._calls.append((sigma, self._gap))
        self._gap = None

    def _take_calls(self, lower: float) -> list[tuple[float, float | None]]:
        """The calls of a step to this level: all since the last step, unless the sampler made calls ahead."""
        self._ahead = self._ahead or any(sigma < lower * (1 - 1e-6) for sigma, _ in self._calls)
        count = len(self._calls)
        if self._ahead:
            count = next((i for i, (sigma, _) in enumerate(self._calls) if sigma <= lower * (1 + 1e-6)), count)
        taken, self._calls = self._calls[:count], self._calls[count:]
        return taken

    def step(self, step: Step) -> None:
        """Called with each finished step."""
        self._number += 1
        x, denoised = self._own(step.x), self._own(step.denoised)
        # Samplers such as Restart also raise sigma, so the change is divided by the distance.
        distance, calls = abs(self._sigma - step.sigma), self._take_calls(step.sigma)
        frame = Frame(
            self._number,
            step.sigma,
            self._seen(x, step.sigma),
            calls[-1][0] if calls else None,
            self._picture(denoised),
            _rms(x - self._x) / distance if distance and self._x is not None else None,
            None if self._estimate is None else _rms(denoised - self._estimate),
            next((gap for _, gap in calls if gap is not None), None),
        )
        self._x, self._estimate, self._sigma = x, denoised, step.sigma
        self._tell(frame)

    def _own(self, batch: torch.Tensor) -> torch.Tensor:
        """The part of a batch that belongs to the recorded picture."""
        return batch[self._task.index : self._task.index + 1]

    def _tell(self, frame: Frame) -> None:
        if frame.number <= MOST_STEPS:
            self._context.tell(PartialResult(frame))

    def _seen(self, x: torch.Tensor, sigma: float) -> bytes:
        return self._picture(to_network(x, sigma, self._context.model.schedule.flow))

    def _picture(self, latents: torch.Tensor) -> bytes:
        buffer = BytesIO()
        self._context.model.preview(latents.float())[0].save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()


def _rms(x: torch.Tensor) -> float:
    return x.double().square().mean().sqrt().item()


def _side_by_side(frame: Frame) -> Image.Image:
    halves = []
    for data in (frame.state, frame.denoised):
        if data is not None:
            with Image.open(BytesIO(data)) as picture:
                halves.append(picture.convert("RGB"))
    size = halves[0].size
    scale = max(1, -(-FILM_SIDE // max(size)))
    size = size[0] * scale, size[1] * scale
    page = Image.new("RGB", (2 * size[0] + 8, size[1] + 28), PAPER)
    for place, half in enumerate(halves):
        page.paste(half.resize(size, Image.Resampling.NEAREST), (place * (size[0] + 8), 0))
    text = f"start, sigma {frame.sigma:.3g}" if not frame.number else f"step {frame.number}, sigma {frame.sigma:.3g}"
    ImageDraw.Draw(page).text((4, size[1] + 6), text, INK, ImageFont.load_default(15))
    return page
