"""How to tell that memory ran out."""

from __future__ import annotations

import torch

# CUDA has an exception of its own; MPS and the CPU's allocators have words in a RuntimeError.
SIGNS = ("out of memory", "can't allocate memory", "not enough memory")


def out_of_memory(error: BaseException | None) -> bool:
    """Whether this error, or one that it was raised from, says that memory ran out."""
    while error is not None:
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
            return True
        if isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in SIGNS):
            return True
        error = error.__cause__
    return False
