"""Networks that take part beside the model of a job: its upscaler, the model of a second pass, a refiner."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from webui.core.menus import UPSCALERS
from weights.extra_networks import ExtraNetworks
from weights.identity import Patch
from weights.model import Model
from weights.model_info import ModelInfo
from weights.opening import pick_device
from weights.upscaler import Upscaler

from .errors import free_memory, naming_problems


class OtherModelHolder:
    """Keeps the models open that draw beside a worker's own, in a second pass or as a refiner; torch computes them.

    load  load(info, device, dtype), see `ModelHolder`
    """

    def __init__(self, load: Callable[[ModelInfo, str, str], Model]):
        self._load = load
        self._opened: dict[tuple[ModelInfo, str, str], Model] = {}

    def open(
        self, infos: Sequence[ModelInfo], beside: Model, tell: Callable[[str], None] = lambda text: None
    ) -> list[Model]:
        """The models on the device and in the number format of the job's own. What else is open makes room for one
        that is not. Raises ModelError.

        tell  hears what takes long
        """
        wanted = [(info, beside.device.type, beside.by_torch.identity.dtype) for info in infos]
        if any(asked not in self._opened for asked in wanted):
            self._opened = {asked: model for asked, model in self._opened.items() if asked in wanted}
            free_memory()
            for asked in wanted:
                if asked not in self._opened:
                    tell(f"loading {asked[0].name}")
                    self._opened = {**self._opened, asked: self._load(*asked)}
        return [self._opened[asked] for asked in wanted]

    def named(self, name: str) -> Model | None:
        """The open model of this name, None if it is not open."""
        return next((model for (info, *_), model in self._opened.items() if info.name == name), None)

    def close(self) -> None:
        """Let go of the models."""
        self._opened = {}


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
