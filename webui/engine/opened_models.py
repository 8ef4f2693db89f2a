"""The models that can be chosen, and the one that a worker has open."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from webui.core.menus import UPSCALERS
from webui.core.request import RequestError
from weights.catalog import Catalog
from weights.extra_networks import ExtraNetworks
from weights.model import Model
from weights.model_info import ModelError, ModelInfo
from weights.offload import AUTO, LAYERS, TEXT
from weights.oom import out_of_memory

from .backend_chooser import BackendChooser
from .errors import explain, free_memory
from .other_networks import OtherModelHolder, UpscalerHolder

if TYPE_CHECKING:
    from webui.settings import Settings

READY = "ready"
OFFLOADED = {
    TEXT: "text encoders in host memory",
    LAYERS: "its layers in host memory, which is slower and needs little GPU memory",
}

log = logging.getLogger(__name__)


class AvailableModels:
    """The models that can be chosen, as the folder of weights is now. Any thread may ask.

    find_models  see `Engine`
    extra        the LoRAs that prompts may name
    """

    def __init__(self, settings: Settings, find_models: Callable[[Path], dict[str, ModelInfo]] | None):
        self._settings = settings
        self.extra = ExtraNetworks(settings.weights)
        catalog = Catalog()
        self._find = find_models or catalog.find_models
        self._problems = catalog.problems if find_models is None else lambda folder: {}

    def all(self) -> dict[str, ModelInfo]:
        """The models by name, the default one first."""
        infos = self._find(self._settings.weights)
        first = self._settings.model or "emoji"
        return {name: infos[name] for name in sorted(infos, key=lambda name: (name != first, name))}

    def refused(self) -> dict[str, str]:
        """What lies among the models and LoRAs and cannot be used, by name, with the reason."""
        loras = self.extra.loras()
        problems = self._problems(self._settings.weights)
        # A LoRA beside the models is in its own menu.
        return {**{name: why for name, why in problems.items() if name not in loras}, **self.extra.problems()}

    def upscalers(self) -> list[str]:
        """The names of what enlarges pictures or latents, the default first; files come last."""
        files = (name for name, file in self.extra.upscalers().items() if not file.problem)
        return [*UPSCALERS, *(name for name in files if name not in UPSCALERS)]

    def choices(self, name: str) -> dict[str, ModelInfo]:
        """`all`; RequestError if the model of this name is there and cannot be used. An unknown name passes."""
        models = self.all()
        reason = self._problems(self._settings.weights).get(name) if name not in models else None
        if reason:
            raise RequestError(f"Model {name!r} cannot be used: {reason}.")
        return models

    def get(self, name: str) -> ModelInfo | None:
        """What is known of the model of this name, None if it is not there."""
        return self._find(self._settings.weights).get(name)

    def check(self, name: str) -> None:
        """Raises RequestError for a model that is not there."""
        if name not in (models := self.all()):
            raise RequestError(f"Unknown model {name!r}; known are {', '.join(models)}.")


@dataclass(frozen=True, eq=False)
class _Opened:
    """A model, and the files, device and number format that were asked for: what `Model.identity` is before weights are
    hashed."""

    model: Model
    info: ModelInfo
    device: str
    dtype: str

    def is_for(self, info: ModelInfo, device: str, dtype: str) -> bool:
        # A replay names the device and the format that "auto" stands for.
        return (
            self.info == info
            and device in (self.device, self.model.device.type)
            and dtype in (self.dtype, self.model.identity.dtype)
        )


class ModelHolder:
    """Keeps one model open on a worker's device. Only the worker's thread opens; any thread may ask.

    See `Engine` for the arguments.
    """

    def __init__(
        self,
        settings: Settings,
        available: AvailableModels,
        open_model: Callable[..., Model],
        check_model: Callable[[ModelInfo], None],
        backends: BackendChooser,
    ):
        self._settings, self._available = settings, available
        self._open_model, self._check_model, self._backends = open_model, check_model, backends
        self._status = "starting"
        self._opened: _Opened | None = None
        self.others = OtherModelHolder(self._load)

    @property
    def status(self) -> str:
        """What is being done with a model, in a few words: "loading emoji ...", "emoji on cpu, ready", or why not."""
        status = self._status
        return status + self._backends.note if status.endswith(READY) else status

    @property
    def opened(self) -> Model | None:
        """The open model as its fastest backend computes it, None before the first."""
        return self._backends.fastest(self._opened.model) if self._opened else None

    def named(self, name: str) -> Model | None:
        """The open model if it is the one of this name, else None."""
        opened = self._opened
        return self._backends.fastest(opened.model) if opened and opened.info.name == name else None

    def open(
        self,
        name: str,
        device: str,
        on_load: Callable[[str], None] = lambda name: None,
        known: ModelInfo | None = None,
        backend: str | None = None,
        dtype: str | None = None,
    ) -> Model:
        """The model of this name on a device, opened unless it is open; the memory of another one is freed before.

        on_load  called with the name before a model is loaded
        known    what was known of the model when the job was submitted; the folder is not read again if that is open
        backend  what is to compute it; None is the fastest that is ready
        dtype    number format of the steps; None is what the settings say
        Raises RequestError if it is no longer there, ModelError, and whatever `open_model` raises.
        """
        opened = self._open(name, device, on_load, known, self._backends.torch_dtype(device, backend, dtype))
        if backend is None:
            return self._backends.fastest(opened.model)
        return self._backends.exactly(opened.model, backend, dtype, lambda: on_load(f"{name} for {backend}"))

    def _open(
        self, name: str, device: str, on_load: Callable[[str], None], known: ModelInfo | None, dtype: str
    ) -> _Opened:
        if known is not None and self._opened and self._opened.is_for(known, device, dtype):
            return self._opened
        info = self._available.get(name)
        if info is None:
            raise RequestError(f"Model {name!r} is no longer there.")
        if self._opened and self._opened.is_for(info, device, dtype):
            return self._opened
        on_load(name)
        if self._opened:
            # What is wrong with this one must not cost the one in use.
            self._check_model(info)
            self.close()
            free_memory()
        self._status = f"loading {name} ..."
        model = self._load(info, device, dtype)
        self._opened = opened = _Opened(model, info, device, dtype)
        self._backends.begin(model)
        self._tell_ready()
        return opened

    @property
    def can_improve(self) -> bool:
        """Whether `improve` has something to do."""
        return self._opened is not None and self._backends.can_improve(self._opened.model)

    def improve(self, should_stop: Callable[[], bool]) -> None:
        """Find what computes the open model fastest, as far as that is possible now; the status tells it.

        should_stop  true once somebody waits for a picture
        """
        if self._opened:
            self._backends.improve(self._opened.model, should_stop)
            self._tell_ready()

    def _tell_ready(self) -> None:
        if self._opened:
            model = self._backends.fastest(self._opened.model)
            how = self._backends.describe(model), OFFLOADED.get(model.offload, "")
            self._status = ", ".join(part for part in (f"{model.name} on {model.device}", *how, READY) if part)

    def upscalers(self) -> UpscalerHolder:
        """Where the worker keeps its upscaler."""
        return UpscalerHolder(self._available.extra, self._settings.device)

    def warm_up(self) -> None:
        """Open the default model; the status says what goes wrong."""
        models = self._available.all()
        name = self._settings.model or next(iter(models), "")
        if name not in models:
            folder = self._settings.weights.name
            self._status = f"no model {name!r} in {folder}/" if name else "no model found in weights/"
            return
        try:
            self.open(name, self._settings.device)
        except Exception as error:
            log.warning("the model could not be opened", exc_info=error)

    def close(self) -> None:
        """Let go of the open model, and of those that draw beside it."""
        self._opened = None
        self.others.close()
        self._backends.close()

    @contextmanager
    def drawing(self, model: Model) -> Iterator[None]:
        """While the open model draws, the status says so."""
        before, self._status = self._status, f"{model.name} on {model.device}, drawing"
        try:
            yield
        finally:
            self._status = before

    def _load(self, info: ModelInfo, device: str, dtype: str) -> Model:
        try:
            wanted = {"dtype": dtype, "offload": self._settings.offload}
            return self._open_model(info, device, **{name: each for name, each in wanted.items() if each != AUTO})
        except BaseException as error:
            if not out_of_memory(error):
                self._status = explain(error, public=self._settings.public)
                raise
        # Only here is the exception gone, and with it what had been loaded. No size of picture would help.
        free_memory()
        full = ModelError(
            f"model {info.name} does not fit into the memory; close other programs, or use a smaller model or "
            "--device cpu"
        )
        self._status = explain(full)
        raise full
