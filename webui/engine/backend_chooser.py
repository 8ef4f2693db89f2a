"""Choose what computes the open model: torch at once, and what is faster as soon as it is known and ready."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import psutil
import torch

from samplers.sampler import Stopped
from weights.backends.backend import COMPILE, CUDA_GRAPH, OPENVINO, TORCH, Backend, CompiledBackend
from weights.backends.conversions import Conversion, Conversions
from weights.backends.cuda_graph_backend import CudaGraphBackend
from weights.backends.kept_measurements import KeptMeasurements
from weights.backends.measurement import Compute, Measured, fastest, measure
from weights.backends.openvino_backend import OpenVinoBackend, openvino_dtypes, openvino_version
from weights.model import Model
from weights.model_info import ModelError, describe_error, input_channels
from weights.offload import LAYERS
from weights.opening import pick_device, pick_dtype

from .errors import free_memory

if TYPE_CHECKING:
    from webui.settings import Settings

AUTO = "auto"
#: Backends that run torch's own network in another way, by the names that messages use.
OF_TORCH = {COMPILE: "torch.compile", CUDA_GRAPH: "CUDA graphs"}
LARGE = 256 << 20  # bytes of weights that are not kept twice
CONVERSION = 1 << 30  # bytes that a conversion takes beside a second copy of the weights, and that is kept free
WORTH = 5.0  # seconds of a picture that are worth a wait for a kept conversion to be opened

log = logging.getLogger(__name__)


class BackendChooser:
    """What computes the open model. The worker's thread calls it; any thread may ask for `note` and `fastest`.

    settings  backend, dtype, device and cache are read
    wake      lets the worker look whether `can_improve`
    """

    def __init__(self, settings: Settings, wake: Callable[[], None]):
        self._settings, self._wake = settings, wake
        self._conversions: Conversions | None = None
        self._kept = KeptMeasurements(settings.cache)
        self._conversion: Conversion | None = None
        self.close()

    def close(self) -> None:
        """Let go of everything that belongs to the open model."""
        if self._conversion is not None:
            self._conversion.close()
        self._conversion = None
        self._base: Model | None = None
        self._fastest: Model | None = None
        self._exact: Model | None = None
        self._candidates: dict[Compute, Model] = {}
        self._wanted = False
        self._said = ""

    @property
    def note(self) -> str:
        """What else there is to say about the open model, for the line at the top; "" for nothing."""
        conversion = self._conversion
        if conversion is not None and conversion.running:
            return f"; converting for {OPENVINO}" + (f", {conversion.progress}" if conversion.progress else "")
        return self._said

    def fastest(self, base: Model) -> Model:
        """An open model as the fastest backend that is ready computes it."""
        return self._fastest if self._fastest is not None and self._base is base else base

    def describe(self, model: Model) -> str:
        """What computes a model, where it is not what usually does: "openvino float32"."""
        identity = model.identity
        usual = str(pick_dtype(AUTO, model.device)).removeprefix("torch.")
        return "" if (identity.backend, identity.dtype) == (TORCH, usual) else f"{identity.backend} {identity.dtype}"

    def torch_dtype(self, device: str, backend: str | None, dtype: str | None) -> str:
        """The number format that a model has to be opened in; None is what the settings say."""
        backend, dtype = backend or self._settings.backend, dtype or self._settings.dtype
        try:
            target = pick_device(device)
            if pick_dtype(dtype, target) == pick_dtype(AUTO, target):
                return AUTO
        except ModelError:
            # Whoever opens the model says so.
            return dtype
        if backend in (TORCH, *OF_TORCH) or not self._is_possible(target):
            return dtype
        # OpenVINO's networks are made from float32.
        return AUTO if backend == OPENVINO or dtype in _openvino_dtypes() else dtype

    def begin(self, base: Model) -> None:
        """A model has been opened: begin to find what computes it fastest."""
        self.close()
        self._base, wanted = base, self._settings.backend
        if base.identity.dtype == "bfloat16" and self._is_possible(base.device) and _openvino_dtypes() == ("float32",):
            self._said = "; this processor has no instructions for bfloat16, and float32 is several times as fast"
            log.warning("%s%s", base.name, self._said)
        if wanted in OF_TORCH:
            self._fastest = self._in_another_way(base, wanted)
        if wanted not in (OPENVINO, AUTO):
            return
        if not self._is_possible(base.device):
            if wanted == OPENVINO:
                self._give_up("openvino computes on CPUs only" if openvino_version() else "openvino is not installed")
            return
        known = self._kept.of(base.identity)
        self._wanted = base.identity.dtype == "float32" and (known is None or self._choose(known).backend != TORCH)
        kept = self._wanted and self._conversions_here.find(base.identity) is not None
        if self._wanted and not kept and self._settings.background:
            if _lacks_memory(base):
                self._wanted = False
                self._give_up("there is too little memory to convert it for openvino")
                return
            self._conversion = self._convert(base)
        if self._settings.background:
            # Where pictures take long, they all wait for what makes them faster.
            if kept and known is not None and _saved(known, self._choose(known)) > WORTH:
                self.improve(base, lambda: False)
        elif self._wanted:
            self._wanted = False
            if wanted == OPENVINO or (kept and known is not None):
                chosen = self._choose(known) if known else Compute(OPENVINO, self._settings.dtype)
                self._fastest = self.exactly(base, chosen.backend, chosen.dtype)

    def can_improve(self, base: Model) -> bool:
        """Whether `improve` has something to do."""
        if self._base is not base:
            return False
        return self._is_doubled(base) or (self._wanted and not (self._conversion and self._conversion.running))

    def improve(self, base: Model, should_stop: Callable[[], bool]) -> None:
        """Take a finished conversion into use, and measure it where nothing is known of it yet.

        should_stop  true once somebody waits for a picture; what is missing is done later
        """
        if not self._wanted:
            self._release(base)
            return
        try:
            self._fastest = self._improved(base, should_stop)
            self._wanted = False
        except Stopped:
            return
        except Exception as error:
            self._wanted = False
            self._give_up(f"openvino does not work here: {describe_error(error)}")
        self._candidates = {}
        self._release(base)

    def exactly(self, base: Model, backend: str, dtype: str | None, tell: Callable[[], None] = lambda: None) -> Model:
        """A model computed by this backend in this number format, whatever that takes; torch where it cannot be had.

        dtype  None and "auto" are float32
        tell   called before it takes long
        """
        wanted = Compute(backend, "float32" if dtype in (None, AUTO) else str(dtype))
        for ready in (self.fastest(base), self._exact):
            if ready is not None and ready.by_torch is base.by_torch and _compute_of(ready) == wanted:
                return ready
        try:
            if backend in OF_TORCH:
                self._exact = self._in_another_way(base, backend)
            elif backend == OPENVINO and self._is_possible(base.device):
                self._exact = self._by_openvino(base, wanted.dtype, tell)
            else:
                return base
        except Exception as error:
            log.warning("%s cannot be had here, so torch computes: %s", backend, describe_error(error))
            return base
        return self._exact or base

    def _is_doubled(self, base: Model) -> bool:
        """Whether torch's copy of large weights lies in memory although OpenVINO has its own and draws."""
        faster = self._fastest is not None and self._fastest.identity.backend == OPENVINO
        return faster and base.weights is not None and base.weights.size > LARGE and base.weights.held

    def _release(self, base: Model) -> None:
        if self._is_doubled(base) and base.weights is not None:
            base.weights.release()
            free_memory()

    def _improved(self, base: Model, should_stop: Callable[[], bool]) -> Model:
        if self._conversion is not None and self._conversion.problem:
            raise ModelError(self._conversion.problem)
        known, settings = self._kept.of(base.identity), self._settings
        formats = [name for name in _openvino_dtypes() if settings.dtype in (AUTO, name)]
        if known is None and settings.backend == OPENVINO and len(formats) == 1:
            return self._by_openvino(base, formats[0])
        if known is None:
            if not self._candidates:
                self._candidates = {_compute_of(base): base}
                self._candidates |= {Compute(OPENVINO, name): self._by_openvino(base, name) for name in formats}
            known = measure(base, self._candidates, should_stop)
            self._kept.add(base.name, base.identity, known)
        chosen = self._choose(known)
        self._offer(known, chosen)
        if chosen.backend == TORCH:
            return base
        return self._candidates.get(chosen) or self._by_openvino(base, chosen.dtype)

    def _choose(self, known: Mapping[Compute, Measured]) -> Compute:
        """The fastest of what the settings allow and nobody can tell from torch; what they name goes before that."""
        backend, dtype = self._settings.backend, self._settings.dtype
        named = {
            compute: each
            for compute, each in known.items()
            if backend in (AUTO, compute.backend) and dtype in (AUTO, compute.dtype)
        }
        if dtype != AUTO and named:
            return min(named, key=lambda compute: named[compute].seconds)
        if not any(each.same_pictures for each in named.values()):
            named = dict(known)
        return fastest(named)

    def _offer(self, known: Mapping[Compute, Measured], chosen: Compute) -> None:
        """Name what is faster still and would show."""
        for compute, each in known.items():
            if each.seconds < known[chosen].seconds and each.apart is not None and not each.same_pictures:
                times = known[chosen].seconds / each.seconds
                self._said = f"; --dtype {compute.dtype} is {times:.1f} times as fast, {each.apart:.1f}/255 off"

    def _by_openvino(self, base: Model, dtype: str, tell: Callable[[], None] = lambda: None) -> Model:
        path = self._conversions_here.find(base.identity)
        if path is None:
            tell()
            conversion = self._conversion or self._convert(base)
            conversion.wait()
            path = self._conversions_here.find(base.identity)
            if path is None:
                raise ModelError(conversion.problem or "the conversion is gone")
        return base.computed_by(OpenVinoBackend(path, dtype))

    def _convert(self, base: Model) -> Conversion:
        return self._conversions_here.begin(base.info, base.identity, self._wake, threads=1)

    def _in_another_way(self, base: Model, backend: str) -> Model | None:
        """The model with its network run by one of `OF_TORCH`, None where that fails."""
        name = OF_TORCH[backend]
        if base.offload == LAYERS:
            self._give_up(f"{name} cannot use layers in host memory")
            return None
        if backend == CUDA_GRAPH and base.device.type != "cuda":
            self._give_up(f"{name} need an NVIDIA GPU, and this model computes on {base.device.type}")
            return None
        try:
            base.restore()
            kinds: dict[str, Callable[..., Backend]] = {COMPILE: CompiledBackend, CUDA_GRAPH: CudaGraphBackend}
            made = kinds[backend](base.network, base.identity.dtype)
            model = base.computed_by(made)
            _, height, width = model.latents_shape(base.info.defaults.size, base.info.defaults.size)
            shape = 1, input_channels(base.info), height, width
            model.network(torch.zeros(shape, device=base.device), 1.0, base.encode_prompt(""))
            return model
        except Exception as error:
            self._give_up(f"{name} failed here: {describe_error(error)}")
            return None

    def _give_up(self, why: str) -> None:
        self._said = f"; {why}"
        log.warning("%s; torch computes", why)

    def _is_possible(self, device: torch.device) -> bool:
        return device.type == "cpu" and bool(openvino_version())

    @property
    def _conversions_here(self) -> Conversions:
        if self._conversions is None:
            self._conversions = Conversions(self._settings.cache)
        return self._conversions


def _openvino_dtypes() -> tuple[str, ...]:
    try:
        return openvino_dtypes()
    except Exception as error:
        log.warning("openvino does not work here: %s", describe_error(error))
        return ()


def _lacks_memory(base: Model) -> bool:
    size = base.weights.size if base.weights is not None else 0
    return psutil.virtual_memory().available < 1.5 * size + CONVERSION


def _saved(known: Mapping[Compute, Measured], chosen: Compute) -> float:
    """Seconds of a usual picture of 20 calls that the chosen candidate saves."""
    return 20 * (next(iter(known.values())).seconds - known[chosen].seconds)


def _compute_of(model: Model) -> Compute:
    return Compute(model.identity.backend, model.identity.dtype)
