"""What scripts may call, without gradio: txt2img, img2img, upscale, schedule and catalog."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from webui.core.fields import RequestField, fields_of
from webui.core.menus import guidances_in_order, in_order, schedules_in_order
from webui.core.request import Request, read, read_as
from webui.core.upscale_request import UpscaleRequest
from webui.engine.engine import Engine
from webui.engine.events import Event, Failed
from webui.engine.jobs import Job
from webui.engine.run_preview import numbers, preview_run

TICK = 0.25  # seconds between chances to notice that the caller is gone
# The same while its job waits: Gradio's server works a few milliseconds for each of them, and many may wait. When it
# cancels, gradio_client waits five seconds for an answer, which comes with the next of them.
WAITING_TICK = 3.0
# Calls that are checked and put into the queue at once: of hundreds that come together each would take Python's lock
# from the page for its turn.
AT_ONCE = 2


# Their order is part of the API; where a field is in none of these, it follows in the order of the request.
IMG2IMG_FIRST = ("image", "prompt", "strength", "strength_as")
SCHEDULE = (
    *("model", "schedule", "steps", "strength", "sampler", "options", "schedule_options"),
    *("strength_as", "guidance", "guidance_low", "guidance_high"),
)


def arguments(
    endpoint: Literal["txt2img", "img2img", "schedule", "upscale"], schema: type[Request] = Request
) -> list[RequestField]:
    """The fields of a request that an endpoint takes, in the order of its arguments."""
    described = UpscaleRequest if endpoint == "upscale" else schema
    fields = {name: field for name, field in fields_of(described).items() if name != "mode"}
    match endpoint:
        case "txt2img":
            return [field for field in fields.values() if not field.setting.needs_input]
        case "img2img":
            first = [fields.pop(name) for name in IMG2IMG_FIRST]
            # The upscaler came to txt2img first, and here together with the scale.
            upscaler = fields.pop("upscaler")
            rest = [field for field in fields.values() if not field.setting.needs_words]
            at = [field.name for field in rest].index("scale") + 1
            return [*first, *rest[:at], upscaler, *rest[at:]]
        case "schedule":
            # Without a strength, the whole schedule.
            fields["strength"] = replace(fields["strength"], default=1.0)
            return [fields[name] for name in SCHEDULE]
        case "upscale":
            return list(fields.values())


class RunFailed(RuntimeError):
    """A job that began and failed; the message is for the user."""


@dataclass(frozen=True)
class ApiResult:
    """The answer: paths of the PNG files in order, and the info of the run."""

    files: list[str]
    info: dict[str, Any]


class Api:
    """The functions for scripts, on an engine; their keyword arguments are `arguments`.

    txt2img, img2img and upscale return generators, which yield what happens (events of `webui.engine.jobs`, None while
    nothing does) and at the end one ApiResult. Closing them stops the job at once. They raise RequestError and
    RunFailed.
    """

    def __init__(self, engine: Engine, schema: type[Request] = Request):
        self._engine, self._schema = engine, schema
        self._coming = threading.Semaphore(AT_ONCE)

    def txt2img(self, prompt: str, **fields: Any) -> Iterator[Event | None | ApiResult]:
        """Pictures from words. Empty names and 0 are the model's defaults, seed -1 is random; image i has seed + i."""
        return self._draw(mode="txt2img", prompt=prompt, **fields)

    def img2img(self, image: Path, prompt: str, **fields: Any) -> Iterator[Event | None | ApiResult]:
        """Pictures from a picture and words.

        image  path of an uploaded file; whoever calls this for others has checked that it is an upload of theirs
        """
        return self._draw(mode="img2img", image=image, prompt=prompt, **fields)

    def upscale(self, image: Path, **fields: Any) -> Iterator[Event | None | ApiResult]:
        """A picture enlarged, and not drawn on.

        image  see `img2img`
        """
        with self._coming:
            job = self._engine.submit_upscale(read_as(UpscaleRequest, dict(image=image, **fields)))
        return self._follow(job)

    def schedule(self, **fields: Any) -> dict[str, Any]:
        """The noise levels that txt2img (strength 1) or img2img would run with these settings, without running it.

        sigmas (the last is 0), timesteps, log_snr (-2 ln sigma, None at 0), alpha_bar and guidance (the scale that
        counts at that sigma, 1 where there is none, None at 0) go with one another;
        noise_share is sigma^2 / (1 + sigma^2) at the first sigma; nfe is the denoise calls of a picture, None where
        only a run tells. Raises RequestError.
        """
        return numbers(preview_run(self._engine, fields))

    def catalog(self) -> dict[str, Any]:
        """Everything that can be named, from samplers to styles, and what did not load or open: plain JSON data."""
        registry = self._engine.registry
        return dict(
            samplers=[registry.samplers[name].describe() for name in in_order(registry.samplers)],
            schedules=[registry.schedules[name].describe() for name in schedules_in_order(registry.schedules)],
            guidances=[registry.guidances[name].describe() for name in guidances_in_order(registry.guidances)],
            models=[
                dict(
                    name=info.name,
                    prediction=info.prediction,
                    size=info.defaults.size,
                    multiple=info.defaults.multiple,
                    largest=info.defaults.largest,
                    guidance=info.defaults.guidance,
                    schedule=info.defaults.schedule,
                    schedule_options=dict(info.defaults.schedule_options),
                    notes=list(info.notes),
                )
                for info in self._engine.models().values()
            ],
            upscalers=self._engine.upscalers(),
            styles=[style.to_json() for style in self._engine.styles().values()],
            refused=[dict(name=name, reason=reason) for name, reason in self._engine.refused().items()],
            broken=[dict(source=one.source, name=one.name, reason=one.reason) for one in registry.broken],
        )

    def _draw(self, **fields: Any) -> Iterator[Event | None | ApiResult]:
        with self._coming:
            job = self._engine.submit(read(fields, self._schema), previews=False)
        return self._follow(job)

    def _follow(self, job: Job) -> Iterator[Event | None | ApiResult]:
        try:
            for event in job.events(tick=TICK, waiting_tick=WAITING_TICK):
                if isinstance(event, Failed):
                    raise RunFailed(event.message)
                yield event
            yield ApiResult([str(picture.path) for picture in job.pictures], job.snapshot().info or {})
        finally:
            self._engine.abandon(job)
