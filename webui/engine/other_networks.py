"""Networks that take part beside the model of a job: its upscaler, and the model of a second pass."""

from __future__ import annotations

from collections.abc import Callable

from webui.core.menus import UPSCALERS
from weights.extra_networks import ExtraNetworks
from weights.identity import Patch
from weights.model import Model
from weights.model_info import ModelInfo
from weights.opening import pick_device
from weights.upscaler import Upscaler

from .errors import free_memory, naming_problems


class SecondModelHolder:
    """Keeps the model of a second pass open beside a worker's own; torch computes it.

    load  load(info, device, dtype), see `ModelHolder`
    """

    def __init__(self, load: Callable[[ModelInfo, str, str], Model]):
        self._load = load
        self._opened: Model | None = None
        self._asked: tuple[ModelInfo, str, str] | None = None

    def open(self, info: ModelInfo, beside: Model, tell: Callable[[str], None] = lambda text: None) -> Model:
        """The model on the device and in the number format of the one that draws the first pass. Raises ModelError.

        tell  hears what takes long
        """
        asked = info, beside.device.type, beside.by_torch.identity.dtype
        if self._opened is None or self._asked != asked:
            self._opened = None
            free_memory()
            tell(f"loading {info.name}")
            self._opened, self._asked = self._load(*asked), asked
        return self._opened

    def named(self, name: str) -> Model | None:
        """The open model if it is the one of this name, else None."""
        return self._opened if self._opened is not None and self._opened.info.name == name else None

    def close(self) -> None:
        """Let go of the model."""
        self._opened = None


class UpscalerHolder:
    """Keeps one upscaler open on a device."""

    def __init__(self, extra: ExtraNetworks, device: str):
        self._extra, self._device = extra, device
        self._opened: Upscaler | None = None

    def open(self, name: str) -> Upscaler | None:
        """The upscaler of this name; None for one that needs no network. Raises RequestError."""
        if (patch := self.patch(name)) is None:
            return None
        if self._opened is None or (self._opened.name, self._opened.digest) != (patch.name, patch.digest):
            self._opened = None
            with naming_problems():
                self._opened = self._extra.open_upscaler(name, pick_device(self._device))
        return self._opened

    def patch(self, name: str) -> Patch | None:
        """The upscaler as part of what made a picture; None for one that needs no network. Raises RequestError."""
        if name in ("", *UPSCALERS):
            return None
        with naming_problems():
            return self._extra.upscaler_patch(name)
