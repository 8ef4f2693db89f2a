"""`/sdapi/v1`, the API of A1111's page, which many programs speak: thin, over the same requests, queue and limits."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from starlette.concurrency import run_in_threadpool

from webui.core.images import decoding, fit_picture, open_picture, open_untrusted, png_bytes
from webui.core.picture_metadata import read_picture
from webui.core.record import MetadataError
from webui.core.request import RequestError, read_as
from webui.core.upscale_request import UpscaleRequest
from webui.engine.engine import Engine
from webui.importers.imported_settings import read_imported_settings

from . import sdapi_answers as answers
from .api_jobs import ApiJobs
from .method_names import known_model, upscaler_named
from .picture_bodies import to_base64, write_base64
from .sdapi_bodies import ExtraBatch, ExtraSingle, Img2Img, OneImage, Txt2Img, Upscale
from .sdapi_request import Translator

# Lists of what this program has none of; clients ask for them at their start.
EMPTY: dict[str, Any] = {
    "sd-vae": [],
    "hypernetworks": [],
    "face-restorers": [],
    "realesrgan-models": [],
    "script-info": [],
    "scripts": {"txt2img": [], "img2img": []},
    "extensions": [],
}


def sdapi_routes(engine: Engine, jobs: ApiJobs, translator: Translator) -> APIRouter:
    """The endpoints of `/sdapi/v1`."""
    router, options = APIRouter(prefix="/sdapi/v1", tags=["A1111"]), answers.SdapiOptions(engine)

    @router.post("/txt2img")
    async def txt2img(body: Txt2Img, http: HttpRequest) -> dict[str, Any]:
        """Pictures from words. `info` is JSON in a text, with the seeds and an infotext for each picture."""
        job = await jobs.draw(http, lambda folder: translator.txt2img(body, options.mine()), body.together)
        return await run_in_threadpool(answers.drawn, job, body)

    @router.post("/img2img")
    async def img2img(body: Img2Img, http: HttpRequest) -> dict[str, Any]:
        """Pictures from a picture and words; with a mask, of what is white in it."""
        job = await jobs.draw(http, lambda folder: translator.img2img(body, options.mine(), folder), body.together)
        return await run_in_threadpool(answers.drawn, job, body)

    @router.post("/extra-single-image")
    async def extra_single_image(body: ExtraSingle, http: HttpRequest) -> dict[str, Any]:
        """Enlarge a picture."""
        return dict(html_info="", image=to_base64(await enlarged(body, body.image, http, jobs)))

    @router.post("/extra-batch-images")
    async def extra_batch_images(body: ExtraBatch, http: HttpRequest) -> dict[str, Any]:
        """Enlarge pictures, one after the other."""
        images = [to_base64(await enlarged(body, each.data, http, jobs)) for each in body.imageList]
        return dict(html_info="", images=images)

    @router.post("/png-info")
    def png_info(body: OneImage) -> dict[str, Any]:
        """What a picture says about how it was made: A1111's text, all of it by name, and the fields of a request."""
        with tempfile.TemporaryDirectory(prefix="sigmalab-api-") as folder:
            path = write_base64(body.image, Path(folder) / "image", "image")
            try:
                text = read_picture(path).parameters
                read = read_imported_settings(path, engine.registry, engine.models(), engine.upscalers())
            except MetadataError as error:
                return dict(info="", items={}, parameters={}, detail=str(error))
        return dict(info=text or _as_text(read.rows), items=dict(read.rows), parameters=dict(read.fields))

    @router.get("/progress")
    def progress(skip_current_image: bool = False) -> dict[str, Any]:
        """How far the caller's job is, with the picture as it looks now."""
        return answers.progress_of(jobs.current(), jobs.waiting(), not skip_current_image)

    @router.post("/interrupt")
    def interrupt() -> dict[str, Any]:
        """End the caller's job; its call returns what is finished."""
        if job := jobs.current():
            engine.stop(job)
        return {}

    @router.post("/skip")
    def skip() -> dict[str, Any]:
        """Leave out the pictures of the caller's job that are being drawn, batch_size at once, and draw the next."""
        if job := jobs.current():
            job.request_skip()
        return {}

    @router.get("/options")
    def get_options() -> dict[str, Any]:
        """The options as they count for the caller's next request."""
        return options.all()

    @router.post("/options")
    def set_options(given: dict[str, Any]) -> None:
        """Set sd_model_checkpoint and CLIP_stop_at_last_layers for the caller's later requests; others are ignored."""
        given = {key: value for key, value in given.items() if value is not None}
        if "sd_model_checkpoint" in given:
            given["sd_model_checkpoint"] = known_model(str(given["sd_model_checkpoint"]), engine.models())
        options.put(given)

    @router.get("/cmd-flags")
    def cmd_flags() -> dict[str, Any]:
        """The flags of the command line that clients ask for."""
        return dict(api=True, device=engine.settings.device, share=engine.settings.share, port=engine.settings.port)

    lists = {
        "samplers": partial(answers.samplers_of, engine),
        "schedulers": partial(answers.schedulers_of, engine),
        "sd-models": partial(answers.models_of, engine),
        "upscalers": partial(answers.upscalers_of, engine),
        "latent-upscale-modes": answers.latent_modes,
        "loras": partial(answers.loras_of, engine),
        "embeddings": partial(answers.embeddings_of, engine),
        "memory": answers.memory,
        "prompt-styles": partial(answers.styles_of, engine),
        **{name: partial(dict[str, Any].get, EMPTY, name) for name in EMPTY},
    }
    for name, listed in lists.items():
        _add_list(router, name, listed)
    for name in ("checkpoints", "loras", "vae", "embeddings"):
        # The folder is looked at whenever somebody asks, so that there is nothing to refresh.
        _add_nothing(router, f"refresh-{name}")
    return router


async def enlarged(body: Upscale, image: str, http: HttpRequest, jobs: ApiJobs) -> bytes:
    """A picture in base64, enlarged as asked for: the bytes of a PNG. Raises RequestError, RunFailed and CallerGone."""
    names = jobs.engine.upscalers()
    name = upscaler_named(body.upscaler_1, names) or upscaler_named(body.upscaler_2, names)

    def request(folder: Path) -> UpscaleRequest:
        path = write_base64(image, folder / "image", "image")
        scale = body.upscaling_resize
        if body.resize_mode == 1:
            with open_untrusted(path) as picture:
                sides = body.upscaling_resize_w / picture.width, body.upscaling_resize_h / picture.height
            # What is padded is enlarged less than what is cut.
            scale = max(1.0, max(sides) if body.upscaling_crop else min(sides))
        return read_as(UpscaleRequest, dict(image=path, scale=scale, upscaler=name))

    job = await jobs.upscale(http, request)
    if not job.pictures:
        raise RequestError("The picture was not enlarged: the job was stopped.")
    path = job.pictures[0].path
    if body.resize_mode == 0:
        return path.read_bytes()
    fit = "crop" if body.upscaling_crop else "pad"
    size = body.upscaling_resize_w, body.upscaling_resize_h

    def fitted() -> bytes:
        with decoding():
            return png_bytes(fit_picture(open_picture(path), *size, fit))

    return await run_in_threadpool(fitted)


def _add_list(router: APIRouter, name: str, listed: Any) -> None:
    router.get(f"/{name}", name=name, operation_id=name)(lambda: listed())


def _add_nothing(router: APIRouter, name: str) -> None:
    router.post(f"/{name}", name=name, operation_id=name)(lambda: None)


def _as_text(rows: tuple[tuple[str, str], ...]) -> str:
    return "\n".join(f"{name}: {value}" for name, value in rows)
