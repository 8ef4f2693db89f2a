"""CUDA graphs: the kernels of a step, recorded once for each shape and started again without Python."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..families import ConditionedNetwork
from .backend import CUDA_GRAPH, BackendError, Decode

KEPT = 4  # shapes; each holds the memory of a step
WARM_UP = 3  # steps before the recording: libraries choose their kernels in the first


@dataclass(frozen=True, eq=False)
class Recording:
    """A recorded step: it reads the held inputs and writes the output, each at its place in memory."""

    graph: Any
    inputs: Mapping[str, torch.Tensor]
    output: torch.Tensor


class CudaGraphBackend:
    """Steps as CUDA graphs (https://docs.nvidia.com/cuda/cuda-c-programming-guide/#cuda-graphs). See `Backend`.

    A UNet starts thousands of small kernels, and on a fast GPU Python cannot start them as fast as they end. The
    kernels are torch's own, so pictures are the same; the first step of each shape is slow.
    """

    name = CUDA_GRAPH
    decode: Decode | None = None

    def __init__(self, network: ConditionedNetwork, dtype: str):
        self.dtype = dtype
        self._network = network
        self._recordings: OrderedDict[tuple[Any, ...], Recording] = OrderedDict()

    def step(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """See `Backend.step`."""
        shapes = tuple((name, tensor.shape, tensor.dtype) for name, tensor in inputs.items())
        try:
            recording = self._recordings.get(shapes)
            if recording is None:
                # Before, so that there is room for the next.
                while len(self._recordings) >= KEPT:
                    self._recordings.popitem(last=False)
                recording = self._recordings[shapes] = self._record(inputs)
            self._recordings.move_to_end(shapes)
            for name, tensor in inputs.items():
                recording.inputs[name].copy_(tensor)
            recording.graph.replay()
            return recording.output.clone()
        except torch.OutOfMemoryError:
            self._recordings.clear()
            raise
        except RuntimeError as error:
            reason = (str(error).strip().splitlines() or [""])[0].strip()
            raise BackendError(f"a CUDA graph cannot compute this ({reason[:200]})") from error

    def _record(self, inputs: Mapping[str, torch.Tensor]) -> Recording:
        held = {name: tensor.clone() for name, tensor in inputs.items()}
        # As torch asks for: work before a recording runs on a stream of its own.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                self._network.step(held)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the GPU meanwhile: an upscaler, a preview.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            output = self._network.step(held)
        return Recording(graph, held, output)
