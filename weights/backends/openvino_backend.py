"""OpenVINO: a network that was converted once, computed by kernels that are made for this CPU when it is opened."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from .backend import OPENVINO, BackendError

UNET, DECODER = "unet", "vae_decoder"  # files of a conversion
HINTS = {"float32": "f32", "bfloat16": "bf16"}


def openvino_version() -> str:
    """The version of OpenVINO, "" where it is not installed; nothing is imported."""
    try:
        return version("openvino")
    except PackageNotFoundError:
        return ""


def load_openvino() -> Any:
    """The package openvino, without the one that reports conversions to its makers. Raises ImportError."""
    # OpenVINO takes a stub where it cannot import this; nothing must leave the machine.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None is how Python bars an import
    import openvino

    return openvino


def openvino_dtypes() -> tuple[str, ...]:
    """The number formats that this CPU has instructions for, by OpenVINO's own account. Raises ImportError."""
    capable = load_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return ("float32", "bfloat16") if "BF16" in capable else ("float32",)


class OpenVinoBackend:
    """A conversion, opened. See `Backend`.

    folder  of the conversion, see `Conversions`; it is mapped and has to stay
    dtype   of the steps; the decoder stays float32, as torch's does
    It takes as many threads as torch does when it is called, since the last bits of a picture depend on them.
    """

    name = OPENVINO

    def __init__(self, folder: Path, dtype: str = "float32"):
        if dtype not in HINTS:
            raise BackendError(f"openvino computes in {' and '.join(HINTS)}, not in {dtype}")
        self.dtype = dtype
        self._folder = folder
        self._openvino = load_openvino()
        self._core = self._openvino.Core()
        self._requests: dict[str, tuple[int, Any]] = {}
        self._request(UNET)

    def step(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """See `Backend.step`."""
        return self._compute(UNET, list(inputs.values()))

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """See `Backend.decode`."""
        return self._compute(DECODER, [latents])

    def _compute(self, part: str, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        try:
            arrays = [tensor.detach().float().contiguous().numpy() for tensor in tensors]
            return torch.from_numpy(self._request(part).infer(arrays, share_inputs=True)[0])
        except RuntimeError as error:
            shapes = ", ".join("x".join(map(str, tensor.shape)) for tensor in tensors)
            reason = (str(error).strip().splitlines() or [""])[-1].strip()
            raise BackendError(f"openvino cannot compute inputs of {shapes} ({reason[:200]})") from error

    def _request(self, part: str) -> Any:
        """A part, made ready for torch's number of threads; the one for another number is let go."""
        threads = torch.get_num_threads()
        known = self._requests.get(part)
        if known is None or known[0] != threads:
            self._requests.pop(part, None)
            options = {
                "INFERENCE_PRECISION_HINT": HINTS[self.dtype if part == UNET else "float32"],
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_NUM_THREADS": threads,
                # Two programs that pin threads to the same cores wait for one another.
                "ENABLE_CPU_PINNING": False,
            }
            compiled = self._core.compile_model(self._folder / f"{part}.xml", "CPU", options)
            known = self._requests[part] = threads, compiled.create_infer_request()
        return known[1]
