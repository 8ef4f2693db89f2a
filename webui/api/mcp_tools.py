"""The tools of the Model Context Protocol: draw, edit, read recipes, and the Lab's verbs. None of them takes code."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from inspect import Parameter, Signature
from pathlib import Path
from types import GenericAlias
from typing import Annotated, Any

from pydantic import Field
from starlette.concurrency import run_in_threadpool

from samplers.sources import plugins_in
from webui.core.fields import RequestField
from webui.core.plugin_check import check_plugin
from webui.core.request import RequestError, read
from webui.engine.convergence import Point, Reference, make_convergence, orders
from webui.engine.engine import Engine
from webui.engine.events import Progress
from webui.engine.jobs import DrawJob, Job
from webui.engine.reference_problem import Excluded
from webui.importers.imported_settings import read_imported_settings

from .api_jobs import ApiJobs
from .picture_bodies import write_base64
from .script_api import Api

PICTURE = "a picture drawn here, by its file as `draw` and `edit` return it, or a PNG, JPEG or WebP in base64"
TYPES: dict[type, Any] = {dict: dict[str, Any]}
Report = Callable[[Progress], Any]


class Tools:
    """The functions behind the tools, on an engine. They raise RequestError and RunFailed."""

    def __init__(self, engine: Engine, jobs: ApiJobs):
        self._engine, self._jobs, self._api = engine, jobs, Api(engine)

    async def draw(self, given: dict[str, Any], report: Report) -> tuple[list[bytes], dict[str, Any]]:
        """Draw a request's fields: (the PNG files, what ran). `image` and `mask` are as in PICTURE."""

        def submit(folder: Path) -> DrawJob:
            uploads = [name for name in ("image", "mask") if given.get(name)]
            files = {name: self._picture(given[name], folder / name) for name in uploads}
            mode = "img2img" if "image" in given else "txt2img"
            return self._engine.submit(read({**given, **files, "mode": mode}), previews=False)

        job = await self._jobs.run(submit, report=report)
        paths = [picture.path for picture in job.pictures]
        info = dict(job.snapshot().info or {}, files=[self._name(path) for path in paths])
        return [path.read_bytes() for path in paths], info

    def recipe(self, picture: str) -> dict[str, Any]:
        """What a picture says about how it was made."""
        with tempfile.TemporaryDirectory(prefix="sigmalab-api-") as folder:
            path = self._picture(picture, Path(folder) / "picture")
            found = read_imported_settings(path, self._engine.registry, self._engine.models(), self._engine.upscalers())
        return found.to_json()

    def catalog(self) -> dict[str, Any]:
        """What can be named."""
        return self._api.catalog()

    def schedule(self, given: dict[str, Any]) -> dict[str, Any]:
        """The noise levels of a run."""
        return self._api.schedule(**given)

    def plugin_files(self) -> dict[str, Path]:
        """The plugins that lie in the program's folder and those of the user, by folder and name."""
        settings = self._engine.settings
        folders = [settings.root / "plugins", *settings.plugin_folders]
        return {f"{path.parent.name}/{path.name}": path for folder in folders for path in plugins_in(folder)}

    def check(self, file: str, distilled: bool = False) -> dict[str, Any]:
        """The report of the plugin kit on a plugin that lies in a folder of plugins."""
        files = self.plugin_files()
        if file not in files:
            raise RequestError(f"There is no plugin {file!r}; there are {', '.join(files)}.")
        return check_plugin(files[file], distilled).to_json()

    async def measure(self, given: dict[str, Any], report: Report) -> dict[str, Any]:
        """The error of samplers over their network calls, and the order of accuracy that it shows."""
        samplers, schedule, options = given["samplers"], given["schedule"], given["options"]

        def submit() -> Job:
            asked = {name: given[name] for name in ("model", "prompt", "seed", "guidance")}
            request = read(asked) if asked["model"] else None
            task = make_convergence(self._engine, samplers, schedule, request, options)
            return self._engine.submit_task(task)

        job = await run_in_threadpool(submit)
        await self._jobs.follow(job, report=report)
        parts = job.snapshot().parts
        points = [part for part in parts if isinstance(part, Point)]
        reference = next((part for part in parts if isinstance(part, Reference)), None)
        return dict(
            reference=reference.text if reference else "",
            order=orders(points, reference.doubt if reference else 0.0),
            points=[dict(sampler=p.label, setting=p.setting, calls=p.calls, error=p.error) for p in points],
            excluded=[dict(sampler=part.label, reason=part.reason) for part in parts if isinstance(part, Excluded)],
        )

    def _picture(self, given: str, path: Path) -> Path:
        """The file of a picture as in PICTURE: an own one, or what was written to `path`. Raises RequestError."""
        outputs = self._engine.outputs.resolve()
        if len(given) < 256:
            found = (outputs / given).resolve()
            if found.is_relative_to(outputs) and found.is_file():
                return found
        return write_base64(given, path, f"{path.name} {given[:60]!r} is no picture drawn here, and")

    def _name(self, path: Path) -> str:
        outputs = self._engine.outputs.resolve()
        return path.resolve().relative_to(outputs).as_posix() if path.resolve().is_relative_to(outputs) else path.name


def typed(function: Callable[..., Any], fields: Sequence[RequestField], context: Any) -> Callable[..., Any]:
    """The function `(given, context)` with an argument for each field, from which the tool's schema is read."""
    parameters = [_parameter(field) for field in fields]
    parameters.append(Parameter("context", Parameter.KEYWORD_ONLY, annotation=context))

    async def call(**named: Any) -> Any:
        return await function({key: value for key, value in named.items() if key != "context"}, named["context"])

    call.__name__, call.__doc__ = function.__name__, function.__doc__
    vars(call).update(__signature__=Signature(parameters))
    call.__annotations__ = {each.name: each.annotation for each in parameters}
    return call


def as_json(value: Any) -> str:
    """JSON in a text, for a model to read."""
    return json.dumps(value, ensure_ascii=False)


def _parameter(field: RequestField) -> Parameter:
    kind: Any = str if field.is_upload else TYPES.get(field.kind, field.kind)
    kind = GenericAlias(list, (field.item,)) if kind is tuple else kind
    about = PICTURE if field.is_upload else f"{field.setting.label or field.title}: {field.allowed}"
    required = field.name in ("prompt", "image")
    default = "" if field.is_upload else list(field.default) if field.kind is tuple else field.default
    return Parameter(
        field.name,
        Parameter.KEYWORD_ONLY,
        default=Parameter.empty if required else default,
        annotation=Annotated[kind, Field(description=about)],
    )
