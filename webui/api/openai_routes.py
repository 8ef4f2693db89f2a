"""OpenAI's images API, `/v1/images` and `/v1/models`: thin, over the same requests, queue and limits as the page."""

from __future__ import annotations

import re
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, File, Form, HTTPException, UploadFile
from fastapi import Request as HttpRequest
from PIL import Image, ImageOps
from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import FileResponse

from webui.core.export import convert
from webui.core.images import PictureError, broken, check_memory, decoding, in_strips, open_untrusted
from webui.core.limits import Limits
from webui.core.record import MetadataError
from webui.core.request import RequestError
from webui.engine.engine import Engine
from webui.engine.jobs import DrawJob
from webui.importers.imported_settings import read_imported_settings

from .api_jobs import ApiJobs
from .method_names import method_fields
from .picture_bodies import to_base64
from .script_api import RunFailed
from .sdapi_bodies import Body
from .sdapi_request import Translator

FORMATS = {"png": "PNG", "jpeg": "JPEG", "webp": "WebP"}
OFFERED_FOR = 3600.0  # seconds that a picture's address is good for
MOST_OFFERED = 1000
VARIED = 0.15  # strength of the variations of a picture that was drawn here
SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")

AsWhat = Literal["b64_json", "url"]
Format = Literal["png", "jpeg", "webp"]


class Generation(Body):
    """Pictures from words. What OpenAI's API does not have goes into the client's extra_body."""

    prompt: str
    model: str = Field("", description="a name of /v1/models; the default one if it is left out")
    n: int = 1
    size: str = Field("auto", description="such as 512x512; auto is the model's own")
    response_format: AsWhat = "b64_json"
    output_format: Format = "png"
    stream: bool = False
    negative_prompt: str = Field("", description="this and what follows are not OpenAI's")
    seed: int = -1
    steps: int | None = None
    guidance: float | None = None
    sampler: str = ""
    schedule: str = ""


class OfferedFiles:
    """Pictures under addresses that nobody can guess, for an hour."""

    def __init__(self) -> None:
        self._files: dict[str, tuple[Path, float]] = {}
        self._lock = threading.Lock()

    def offer(self, path: Path) -> str:
        """The name under which a file can be fetched from now on."""
        now, name = time.monotonic(), f"{secrets.token_urlsafe(24)}{path.suffix}"
        with self._lock:
            self._files = {name: each for name, each in self._files.items() if each[1] > now}
            if len(self._files) >= MOST_OFFERED:
                del self._files[next(iter(self._files))]
            self._files[name] = (path, now + OFFERED_FOR)
        return name

    def find(self, name: str) -> Path | None:
        """The file of a name, None if it is no longer there."""
        path, until = self._files.get(name, (None, 0.0))
        return path if path and until > time.monotonic() and path.exists() else None


def openai_routes(engine: Engine, jobs: ApiJobs, translator: Translator) -> APIRouter:
    """The endpoints of `/v1`."""
    router, offered = APIRouter(prefix="/v1", tags=["OpenAI"]), OfferedFiles()

    async def draw(
        http: HttpRequest, make_fields: Callable[[Path], dict[str, Any]], as_what: str, kind: str
    ) -> dict[str, Any]:
        job = await jobs.draw(http, make_fields)
        return await run_in_threadpool(answer, job, http, as_what, kind)

    def answer(job: DrawJob, http: HttpRequest, as_what: str, kind: str) -> dict[str, Any]:
        data = []
        if not job.pictures:
            raise RunFailed("The run was stopped before a picture was finished.")
        for picture in job.pictures:
            if as_what == "url":
                place = f"{address_of_page(http, engine.settings.root_path)}/v1/images/files/"
                data.append({"url": place + offered.offer(picture.path)})
            elif kind == "png":
                data.append({"b64_json": to_base64(picture.path.read_bytes())})
            else:
                data.append({"b64_json": to_base64(convert(picture.path, FORMATS[kind])[1])})
        request = job.request
        size = f"{request.width}x{request.height}"
        return dict(created=int(time.time()), data=data, size=size, output_format="png" if as_what == "url" else kind)

    @router.post("/images/generations")
    async def generations(body: Generation, http: HttpRequest) -> dict[str, Any]:
        """Pictures from words, in base64 or as addresses that are good for an hour (PNG)."""
        if body.stream:
            raise RequestError("Pictures are not streamed here; send the request without stream.")

        def fields(folder: Path) -> dict[str, Any]:
            own = {
                "prompt": body.prompt,
                "negative_prompt": body.negative_prompt,
                "seed": body.seed,
                "count": body.n,
                **({} if body.steps is None else {"steps": body.steps}),
                **({} if body.guidance is None else {"guidance": body.guidance}),
            }
            methods = method_fields(body.sampler, body.schedule, engine.registry)
            return own | methods | sized(translator, body.size, body.model)

        return await draw(http, fields, body.response_format, body.output_format)

    @router.post("/images/edits")
    async def edits(
        http: HttpRequest,
        prompt: Annotated[str, Form()],
        image: Annotated[UploadFile | None, File()] = None,
        images: Annotated[Sequence[UploadFile], File(alias="image[]")] = (),
        mask: Annotated[UploadFile | None, File(description="what is transparent in it is drawn anew")] = None,
        model: Annotated[str, Form()] = "",
        n: Annotated[int, Form()] = 1,
        size: Annotated[str, Form()] = "auto",
        response_format: Annotated[AsWhat, Form()] = "b64_json",
        output_format: Annotated[Format, Form()] = "png",
        strength: Annotated[float | None, Form(description="not OpenAI's: 1 keeps nothing of the picture")] = None,
        seed: Annotated[int, Form()] = -1,
    ) -> dict[str, Any]:
        """Pictures from a picture and words. With a mask, what is transparent in it is drawn anew."""
        given = [*([image] if image else []), *images]
        if len(given) != 1:
            raise RequestError(f"image has {len(given)} pictures; it must have one.")
        picture, masked = await given[0].read(), await mask.read() if mask else None

        def fields(folder: Path) -> dict[str, Any]:
            (folder / "image").write_bytes(picture)
            own: dict[str, Any] = {
                "mode": "img2img",
                "prompt": prompt,
                "image": folder / "image",
                "count": n,
                "seed": seed,
            }
            if masked is not None:
                (folder / "mask").write_bytes(masked)
                own |= {"mask": write_transparency(folder / "mask", engine.limits), "strength": 1.0}
            own |= {} if strength is None else {"strength": strength}
            return own | sized(translator, size, model)

        return await draw(http, fields, response_format, output_format)

    @router.post("/images/variations")
    async def variations(
        http: HttpRequest,
        image: Annotated[UploadFile, File()],
        model: Annotated[str, Form()] = "",
        n: Annotated[int, Form()] = 1,
        size: Annotated[str, Form()] = "auto",
        response_format: Annotated[AsWhat, Form()] = "b64_json",
    ) -> dict[str, Any]:
        """Variations: of a picture that was drawn here from words, with noise near its own; of others, by img2img."""
        picture = await image.read()

        def fields(folder: Path) -> dict[str, Any]:
            (folder / "image").write_bytes(picture)
            own = varied(folder / "image", engine) | {"count": n}
            return own | sized(translator, size, model or own.get("model", ""), own)

        return await draw(http, fields, response_format, "png")

    @router.get("/images/files/{name}")
    def file(name: str) -> FileResponse:
        """A picture under the address that an answer named."""
        path = offered.find(name)
        if path is None:
            raise HTTPException(404, "This address is no longer good; draw the picture again, or ask for b64_json.")
        return FileResponse(path)

    @router.get("/models")
    def models() -> dict[str, Any]:
        """The models."""
        return dict(object="list", data=[_model(name) for name in engine.models()])

    @router.get("/models/{name:path}")
    def model(name: str) -> dict[str, Any]:
        """A model."""
        if name not in engine.models():
            raise HTTPException(404, f"Unknown model {name!r}; known are {', '.join(engine.models())}.")
        return _model(name)

    return router


def sized(translator: Translator, size: str, model: str, default: dict[str, Any] | None = None) -> dict[str, Any]:
    """Model, width and height of a request; nothing for what is not said. Raises RequestError."""
    match = SIZE.fullmatch(size)
    if match is None and size not in ("auto", ""):
        raise RequestError(f"size is {size!r}; allowed are auto and sizes such as 512x512.")
    fields = {"model": model} if model else {}
    if match is None and default and "width" in default:
        return fields
    width, height = translator.fitted(*((int(match[1]), int(match[2])) if match else (0, 0)), model)
    return fields | {"width": width, "height": height}


def varied(path: Path, engine: Engine) -> dict[str, Any]:
    """The fields of a request for variations of a picture. Raises PictureError."""
    try:
        read = read_imported_settings(path, engine.registry, engine.models(), engine.upscalers())
    except MetadataError:
        return {"mode": "img2img", "image": path}
    if read.record is not None and not read.missing and read.fields.get("mode") == "txt2img":
        return dict(read.fields) | {"variation_seed": -1, "variation_strength": VARIED}
    prompts = {name: read.fields[name] for name in ("prompt", "negative_prompt") if name in read.fields}
    return prompts | {"mode": "img2img", "image": path}


def write_transparency(path: Path, limits: Limits) -> Path:
    """Make a mask of what is transparent in a picture, in its file: white there. Raises PictureError."""
    with decoding(), open_untrusted(path) as image:
        check_memory(image, limits)
        with broken("mask"):
            image.load()
            alpha = ImageOps.exif_transpose(in_strips(image, "L", _alpha_of))
    mask: Image.Image = ImageOps.invert(alpha)
    if mask.getbbox() is None:
        raise PictureError("The mask has nothing transparent; what is transparent in it is drawn anew.")
    mask.save(path, "PNG")
    return path


def _alpha_of(image: Image.Image) -> Image.Image:
    return image.convert("RGBA").getchannel("A")


def address_of_page(http: HttpRequest, root_path: str) -> str:
    """The address under which the caller reaches this server, without a slash at its end."""
    if root_path.startswith("http"):
        return root_path
    # Only a trusted proxy's header has come so far.
    host = http.headers.get("x-forwarded-host", "").split(",")[0].strip() or http.headers.get("host", "")
    return f"{http.url.scheme}://{host}{root_path}"


def _model(name: str) -> dict[str, Any]:
    return dict(id=name, object="model", created=0, owned_by="sigmalab")
