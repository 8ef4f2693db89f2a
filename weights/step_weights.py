"""Let the weights of a network of the steps go while another backend computes, and read them again when torch does."""

from __future__ import annotations

import threading
from collections.abc import Callable

from torch import nn


class StepWeights:
    """The weights of an opened module. Any thread may ask.

    module  the network of the steps; its layers stay the same objects
    read    fills the empty module from its files, as they were filled before. Raises ModelError
    """

    def __init__(self, module: nn.Module, read: Callable[[], None]):
        self._module, self._read = module, read
        self._lock = threading.Lock()
        self.size = sum(parameter.nbytes for parameter in module.parameters())

    @property
    def held(self) -> bool:
        """Whether they are in memory."""
        return not any(parameter.is_meta for parameter in self._module.parameters())

    def release(self) -> None:
        """Let them go."""
        with self._lock:
            for owner in self._module.modules():
                for name, parameter in owner.named_parameters(recurse=False):
                    setattr(owner, name, nn.Parameter(parameter.to("meta"), requires_grad=False))

    def restore(self) -> None:
        """Read them again if they were let go. Raises ModelError where their files are no longer what they were."""
        with self._lock:
            if not self.held:
                self._read()
