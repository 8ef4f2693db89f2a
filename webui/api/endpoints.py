"""The endpoints for scripts, as Gradio serves them: `webui.api.script_api` with files on their way in and out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import FileData

from webui.core.request import RequestError
from webui.engine.engine import Engine
from webui.engine.events import Event, Picture, Progress, Waiting
from webui.gradio_ext.files import served, uploaded

from .script_api import NONE, Api, ApiResult, RunFailed

Answer = tuple[list[FileData], dict]


def build_endpoints(engine: Engine) -> None:
    """Add /txt2img, /img2img, /schedule and /catalog to the page that is being built."""
    api = Api(engine)

    def txt2img(
        prompt: str,
        negative_prompt: str = "",
        sampler: str = "DDIM",
        schedule: str = "",
        steps: int = 20,
        guidance: float = 5.0,
        width: int = 0,
        height: int = 0,
        seed: int = -1,
        count: int = 1,
        options: dict = NONE,
        model: str = "",
        schedule_options: dict = NONE,
        clip_skip: int = 1,
        guidance_rescale: float = 0.0,
        guidance_low: float = 0.0,
        guidance_high: float = 0.0,
    ) -> Answer:
        """Pictures from words: [PNG files, info]. Empty names and 0 mean the model's defaults, seed -1 a random one.

        Image i has seed + i. While it runs, the answers are empty lists with the state of the job.
        """
        given = _without(locals(), "api")
        yield from answers(lambda: api.txt2img(**given))

    def img2img(
        image: FileData,
        prompt: str,
        strength: float = 0.6,
        strength_as: str = "steps",
        negative_prompt: str = "",
        sampler: str = "DDIM",
        schedule: str = "",
        steps: int = 20,
        guidance: float = 5.0,
        width: int = 0,
        height: int = 0,
        seed: int = -1,
        count: int = 1,
        options: dict = NONE,
        model: str = "",
        schedule_options: dict = NONE,
        fit: str = "crop",
        clip_skip: int = 1,
        guidance_rescale: float = 0.0,
        guidance_low: float = 0.0,
        guidance_high: float = 0.0,
    ) -> Answer:
        """Pictures from a picture and words: [PNG files, info]; give the image with gradio_client.handle_file.

        strength 0.01 to 1 is a share of the steps ("steps") or of noise ("noise"); fit is "crop", "pad" or "stretch".
        """
        given = _without(locals(), "api")
        yield from answers(lambda: api.img2img(**given | {"image": uploaded(image)}))

    def schedule(
        model: str = "",
        schedule: str = "",
        steps: int = 20,
        strength: float = 1.0,
        sampler: str = "DDIM",
        options: dict = NONE,
        schedule_options: dict = NONE,
        strength_as: str = "steps",
        guidance: float = 5.0,
        guidance_low: float = 0.0,
        guidance_high: float = 0.0,
    ) -> dict:
        """The noise levels of exactly the run that these settings would make; no model is loaded and nothing is drawn.

        sigmas ends with 0; timesteps, log_snr (null at 0), alpha_bar and guidance (the scale that counts at that sigma,
        1 where there is none; null at 0) go with it; noise_share is that of the first sigma; nfe is null for adaptive
        samplers. strength is that of img2img; 1 is all of the schedule.
        """
        given = _without(locals(), "api")
        return readable(lambda: api.schedule(**given))

    def catalog() -> dict:
        """Samplers, schedules and models that can be named, and the plugins and models that could not be loaded."""
        return api.catalog()

    gr.api(txt2img, api_name="txt2img", concurrency_limit=None)
    gr.api(img2img, api_name="img2img", concurrency_limit=None)
    gr.api(schedule, api_name="schedule", concurrency_limit=None)
    gr.api(catalog, api_name="catalog", concurrency_limit=None)


def answers(start) -> Iterator[tuple[list[dict], dict]]:
    """What a client receives: the state of its job while it runs, then its files; errors as readable text."""
    state: dict[str, Any] = {"state": "waiting"}
    try:
        for event in start():
            if isinstance(event, ApiResult):
                yield [_file(path) for path in event.files], event.info
                return
            state = state_after(state, event)
            # Also when nothing happened: a yield is where a client that went away is noticed.
            yield [], state
    except (RequestError, RunFailed) as error:
        raise gr.Error(str(error), print_exception=False) from error


def readable(answer: Callable[[], dict]) -> dict:
    """The answer, or what is wrong with the request as readable text."""
    try:
        return answer()
    except RequestError as error:
        raise gr.Error(str(error), print_exception=False) from error


def state_after(state: dict[str, Any], event: Event | None) -> dict[str, Any]:
    """The state of a job as plain data, without pictures."""
    if isinstance(event, Waiting):
        return {"state": "waiting", "position": event.position}
    if isinstance(event, Progress):
        return {"state": "running"} | {name: value for name, value in asdict(event).items() if name != "preview"}
    if isinstance(event, Picture):
        return state | {"finished": event.index + 1}
    return state


def _file(path: str) -> dict[str, Any]:
    return FileData(path=served(path), orig_name=Path(path).name, mime_type="image/png").model_dump()


def _without(values: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != name}
