"""Gradio's endpoints for scripts: `webui.api.script_api` with uploads and files to download."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import update_wrapper
from inspect import Parameter, Signature, isgeneratorfunction
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import FileData

from webui.core.fields import RequestField, upload_fields
from webui.core.request import Request, RequestError
from webui.engine.engine import Engine
from webui.engine.events import Event, Picture, Progress, Waiting
from webui.gradio_ext.files import served, uploaded

from .script_api import Api, ApiResult, RunFailed, arguments

Answers = Iterator[tuple[list[dict[str, Any]], dict[str, Any]]]
REQUIRED = ("image", "prompt")
# Of arguments, as clients know them.
TYPES: dict[type, Any] = {Path: FileData, tuple: list}


def build_endpoints(engine: Engine, schema: type[Request] = Request) -> None:
    """Add /txt2img, /img2img, /schedule, /catalog and /upscale to the page that is being built."""
    api, names = Api(engine, schema), upload_fields(schema)

    def txt2img(**given: Any) -> Answers:
        """Pictures from words: [PNG files, info]. Empty names and 0 mean the model's defaults, seed -1 a random one.

        Image i has seed + i. While it runs, the answers are empty lists with the state of the job.
        """
        yield from answers(lambda: api.txt2img(**given))

    def img2img(image: FileData, **given: Any) -> Answers:
        """Pictures from a picture and words: [PNG files, info]; give image and mask with gradio_client.handle_file.

        strength 0.01 to 1 is a share of the steps ("steps") or of noise ("noise"); fit is "crop", "pad" or "stretch".
        With a mask, what is white in it is redrawn and the rest kept; mask_fill is "original", "noise" or "flat",
        inpaint_area "whole" or "masked". outpaint extends the picture by [left, top, right, bottom] pixels.
        """

        def start() -> Iterator[Event | None | ApiResult]:
            others = {name: uploaded(value) for name, value in given.items() if name in names and value is not None}
            return api.img2img(uploaded(image), **given | others)

        yield from answers(start)

    def upscale(image: FileData, **given: Any) -> Answers:
        """A picture enlarged by a factor, not drawn on: [PNG files, info]; give it with gradio_client.handle_file.

        upscaler is "Lanczos" ("" is the same) or the name of a file in weights/upscalers/, see /catalog.
        """
        yield from answers(lambda: api.upscale(uploaded(image), **given))

    def schedule(**given: Any) -> dict[str, Any]:
        """The noise levels of exactly the run that these settings would make; no model is loaded and nothing is drawn.

        sigmas ends with 0; timesteps, log_snr (null at 0), alpha_bar and guidance (the scale that counts at that sigma,
        1 where there is none; null at 0) go with it; noise_share is that of the first sigma; nfe is null for adaptive
        samplers. strength is that of img2img; 1 is all of the schedule.
        """
        return readable(lambda: api.schedule(**given))

    def catalog() -> dict:
        """Samplers, schedules, guidances, models, upscalers and styles that can be named, and what was not loaded."""
        return api.catalog()

    for function in (
        with_arguments(txt2img, arguments("txt2img", schema)),
        with_arguments(img2img, arguments("img2img", schema)),
        with_arguments(schedule, arguments("schedule", schema)),
        catalog,
        with_arguments(upscale, arguments("upscale")),
    ):
        gr.api(function, api_name=function.__name__, concurrency_limit=None)


def with_arguments(function: Callable[..., Any], fields: Sequence[RequestField]) -> Callable[..., Any]:
    """The function with one argument a field, by position or name; Gradio reads names, types and defaults from it."""
    types = {field.name: TYPES.get(field.kind, field.kind) for field in fields}
    parameters = [
        Parameter(
            field.name,
            Parameter.POSITIONAL_OR_KEYWORD,
            default=Parameter.empty if field.name in REQUIRED else _plain(field.default),
            annotation=types[field.name],
        )
        for field in fields
    ]
    # One answer: a tuple type would be an endpoint with two.
    signature = Signature(parameters, return_annotation=Any)

    def call(*values: Any, **named: Any) -> Any:
        return function(**signature.bind(*values, **named).arguments)

    def stream(*values: Any, **named: Any) -> Any:
        yield from call(*values, **named)

    # Gradio asks whether the function itself is a generator.
    wrapper = update_wrapper(stream if isgeneratorfunction(function) else call, function)
    wrapper.__annotations__ = types
    vars(wrapper).update(__signature__=signature)
    return wrapper


def answers(start: Callable[[], Iterator[Event | None | ApiResult]]) -> Answers:
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
        return {"state": "waiting", "position": event.position, "seconds": event.seconds}
    if isinstance(event, Progress):
        return {"state": "running"} | {name: value for name, value in asdict(event).items() if name != "preview"}
    if isinstance(event, Picture):
        return state | {"finished": event.index + 1}
    return state


def _plain(default: Any) -> Any:
    return list(default) if isinstance(default, tuple) else default


def _file(path: str) -> dict[str, Any]:
    return FileData(path=served(path), orig_name=Path(path).name, mime_type="image/png").model_dump()
