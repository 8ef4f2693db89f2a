"""What a backend is, and a network whose steps one computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from typing import Any, Protocol

import torch

from samplers.denoiser import Condition

from ..embedding_file import NO_EMBEDDINGS, Embeddings
from ..families import ConditionedNetwork, SizeCondition

TORCH, OPENVINO, COMPILE, CUDA_GRAPH = "torch", "openvino", "compile", "cuda-graph"
Decode = Callable[[torch.Tensor], torch.Tensor]


class BackendError(RuntimeError):
    """A backend cannot compute what it was asked for; torch can."""


class Backend(Protocol):
    """Computes a model's step network, and decodes its latents.

    name    as the flag --backend names it
    dtype   number format that it computes the steps in, as "bfloat16"; states, guidance and schedules keep float32
    """

    name: str
    dtype: str

    @property
    def decode(self) -> Decode | None:
        """(1, channels, h, w), scaled as the VAE takes them -> (1, 3, height, width); None leaves it to torch."""
        ...

    def step(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """What `ConditionedNetwork.step` returns. Raises BackendError for what it cannot compute."""
        ...


class BackendNetwork(ConditionedNetwork):
    """A network whose steps a backend computes; all else is the plain one's. See `ConditionedNetwork`."""

    def __init__(self, network: ConditionedNetwork, backend: Backend):
        self._network, self._backend = network, backend
        self.unet, self.components = network.unet, network.components

    def encode(self, prompt: str, clip_skip: int = 1, embeddings: Embeddings = NO_EMBEDDINGS) -> Condition:
        """See `ConditionedNetwork.encode`."""
        # Left out where there are none: a family need not know of them.
        return self._network.encode(prompt, clip_skip, *((embeddings,) if embeddings else ()))

    def count_tokens(self, prompt: str, embeddings: Embeddings = NO_EMBEDDINGS) -> tuple[int, int]:
        """See `ConditionedNetwork.count_tokens`."""
        return self._network.count_tokens(prompt, *((embeddings,) if embeddings else ()))

    def told(self, condition: Any, size: SizeCondition, negative: bool = False) -> Any:
        """See `ConditionedNetwork.told`."""
        return self._network.told(condition, size, negative)

    def inputs(self, scaled: torch.Tensor, timestep: float, condition: Any) -> dict[str, torch.Tensor]:
        """See `ConditionedNetwork.inputs`."""
        return self._network.inputs(scaled, timestep, condition)

    def step(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """See `ConditionedNetwork.step`. Raises BackendError."""
        return self._backend.step(inputs)


class CompiledBackend:
    """torch.compile: slow at the first call of each shape, then faster. See `Backend`."""

    name = COMPILE
    decode: Decode | None = None

    def __init__(self, network: ConditionedNetwork, dtype: str):
        self.dtype = dtype
        self._network = copy(network)
        self._network.unet = torch.compile(network.unet)

    def step(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """See `Backend.step`."""
        return self._network.step(inputs)


def backend_error(error: BaseException | None) -> BackendError | None:
    """The BackendError that an error is, or was raised from."""
    while error is not None and not isinstance(error, BackendError):
        error = error.__cause__
    return error
