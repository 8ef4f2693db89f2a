"""The models that can be chosen, and the one that is open."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from webui.core.request import RequestError
from weights.catalog import Catalog, ModelError, ModelInfo
from weights.oom import out_of_memory

from .errors import explain, free_memory

if TYPE_CHECKING:
    from webui.settings import Settings

log = logging.getLogger(__name__)


class Models:
    """Find models and keep one of them open. Only the engine's thread opens one; all else may be called anywhere.

    See `Engine` for the arguments.
    status  what is being done with a model, in a few words: "loading emoji ...", "emoji on cpu, ready", or why not
    opened  the open model, None before the first
    """

    def __init__(
        self,
        settings: Settings,
        open_model: Callable[[ModelInfo, str], Any],
        find_models: Callable[[Path], dict[str, ModelInfo]] | None,
        check_model: Callable[[ModelInfo], None],
    ):
        self._settings, self._open_model, self._check_model = settings, open_model, check_model
        catalog = Catalog()
        self._find = find_models or catalog.find_models
        self._problems = catalog.problems if find_models is None else lambda folder: {}
        self.status = "starting"
        self.opened: Any = None
        self._opened_as: tuple[ModelInfo, str] | None = None

    def all(self) -> dict[str, ModelInfo]:
        """The models that can be chosen, by name, as the folder is now; the default one first."""
        infos = self._find(self._settings.weights)
        first = self._settings.model or "emoji"
        return {name: infos[name] for name in sorted(infos, key=lambda name: (name != first, name))}

    def refused(self) -> dict[str, str]:
        """What lies among the models and cannot be used, by name, with the reason."""
        return self._problems(self._settings.weights)

    def choices(self, wanted: str) -> dict[str, ModelInfo]:
        """`all`; RequestError if the wanted one is there and cannot be used. Other names are not looked at."""
        models = self.all()
        reason = self.refused().get(wanted) if wanted not in models else None
        if reason:
            raise RequestError(f"Model {wanted!r} cannot be used: {reason}.")
        return models

    def info_of(self, name: str) -> ModelInfo | None:
        """What is known of the model of this name, None if it is not there."""
        return self._find(self._settings.weights).get(name)

    def check(self, name: str) -> None:
        """Raises RequestError for a model that is not there."""
        if name not in (models := self.all()):
            raise RequestError(f"Unknown model {name!r}; known are {', '.join(models)}.")

    def named(self, name: str) -> Any:
        """The open model if it is the one of this name, else None."""
        opened, known = self.opened, self._opened_as
        return opened if opened is not None and known is not None and known[0].name == name else None

    def open(self, name: str, device: str, on_load: Callable[[str], None] = lambda name: None) -> Any:
        """The model of this name on a device, opened if it is not the one that is; the other's memory is free before.

        on_load  called with the name before a model is loaded
        Raises RequestError if it is no longer there, ModelError, and whatever `open_model` raises.
        """
        info = self.info_of(name)
        if info is None:
            raise RequestError(f"Model {name!r} is no longer there.")
        if self._is_open(info, device):
            return self.opened
        on_load(name)
        if self.opened is not None:
            # What is wrong with this one must not cost the one in use.
            self._check_model(info)
            self.close()
            free_memory()
        self.status = f"loading {name} ..."
        self.opened = self._load(info, device)
        self._opened_as = info, device
        self.status = f"{name} on {self.opened.device}, ready"
        return self.opened

    def warm_up(self) -> None:
        """Open the default model; what goes wrong is told by the status."""
        models = self.all()
        name = self._settings.model or next(iter(models), "")
        if name not in models:
            folder = self._settings.weights.name
            self.status = f"no model {name!r} in {folder}/" if name else "no model found in weights/"
            return
        try:
            self.open(name, self._settings.device)
        except Exception as error:
            log.warning("the model could not be opened", exc_info=error)

    def close(self) -> None:
        """Let go of the open model."""
        self.opened = self._opened_as = None

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """While the open model draws, the status says so."""
        before, self.status = self.status, f"{self.opened.name} on {self.opened.device}, drawing"
        try:
            yield
        finally:
            self.status = before

    def _is_open(self, info: ModelInfo, device: str) -> bool:
        if self.opened is None or self._opened_as is None:
            return False
        # A replay names the device that "auto" has come to.
        return self._opened_as[0] == info and device in (self._opened_as[1], self.opened.device.type)

    def _load(self, info: ModelInfo, device: str) -> Any:
        try:
            return self._open_model(info, device)
        except BaseException as error:
            if not out_of_memory(error):
                self.status = explain(error, public=self._settings.public)
                raise
        # Only here is the exception gone, and with it what had been loaded. No size of picture would help.
        free_memory()
        full = ModelError(
            f"model {info.name} does not fit into the memory; close other programs, "
            "or use a smaller model or --device cpu"
        )
        self.status = explain(full)
        raise full
