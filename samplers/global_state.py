"""What a plugin could change for everybody: PyTorch's default dtype, and the global generators of random numbers."""

from __future__ import annotations

import contextlib
import random
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch


@contextlib.contextmanager
def global_state_changed(generators: bool = True) -> Iterator[list[str]]:
    """Put back what the block changes: PyTorch's default dtype and, with `generators`, random state.

    Yields a list that has the names of what changed once the block has ended.
    """
    before = _global_state(generators)
    changed: list[str] = []
    try:
        yield changed
    finally:
        after = _global_state(generators)
        changed += [name for name, (value, _) in before.items() if name in after and after[name][0] != value]
        if changed:
            # What goes on changing now that the code has ended is not its doing, but another thread's.
            time.sleep(0.005)
            later = _global_state(generators)
            changed[:] = [name for name in changed if later[name][0] == after[name][0]]
        for name in changed:
            before[name][1]()


def _global_state(generators: bool) -> dict[str, tuple[Any, Callable[[], Any]]]:
    """Each as a value that can be compared, and a way back to it."""
    dtype = torch.get_default_dtype()
    state: dict[str, tuple[Any, Callable[[], Any]]] = {
        "torch's default dtype": (dtype, lambda: torch.set_default_dtype(dtype))
    }
    if not generators:
        return state
    kept, numbers = torch.get_rng_state(), random.getstate()
    state["torch's generator"] = (bytes(kept.numpy()), lambda: torch.set_rng_state(kept))
    state["the generator of `random`"] = (numbers, lambda: random.setstate(numbers))
    if torch.cuda.is_initialized():
        device = torch.cuda.get_rng_state()
        state["CUDA's generator"] = (bytes(device.numpy()), lambda: torch.cuda.set_rng_state(device))
    if "numpy.random" in sys.modules:
        generator = sys.modules["numpy.random"]
        name, keys, *rest = legacy = generator.get_state()
        state["numpy's generator"] = ((name, keys.tobytes(), *rest), lambda: generator.set_state(legacy))
    return state
