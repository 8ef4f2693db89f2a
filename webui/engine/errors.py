"""Explain the errors of jobs to their users, and free the memory of failed ones."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from samplers.run import SamplerFailed
from webui.core.limits import size_range
from webui.core.request import RequestError
from webui.core.resolved_request import ResolvedRequest
from webui.core.storage import Saved
from webui.core.text import as_sentence
from weights.model_info import ModelError
from weights.oom import out_of_memory


class NotSaved(RuntimeError):
    """Pictures could not be written where they belong; the message says where they are."""


def not_saved(problems: Sequence[Saved], public: bool = False) -> NotSaved:
    """The error for pictures that are kept elsewhere or lost; on a public page it names no path."""
    kept = [str(one.path) for one in problems if one.path]
    lost = len(problems) - len(kept)
    why = "pictures cannot be saved on the server" if public else problems[0].problem
    parts = [f"{why}."]
    if kept:
        parts.append(f"What was finished is kept {'in its temporary folder' if public else 'as ' + ', '.join(kept)}.")
    if lost:
        parts.append(f"{lost} finished could not be written anywhere and {'is' if lost == 1 else 'are'} lost.")
    parts.append("Free some space, or choose another folder with --outputs, and start again.")
    return NotSaved(" ".join(parts))


def explain(error: BaseException, resolved: ResolvedRequest | None = None, public: bool = False) -> str:
    """An error of a job in words for its user: what happened and what to do.

    resolved  what was being drawn, if anything
    """
    if out_of_memory(error):
        if resolved is None:
            return "Out of memory; close other programs, or use a smaller model, smaller pictures or --device cpu."
        request = resolved.request
        return f"Out of memory while drawing {request.count} of {request.width}x{request.height}. {_less(resolved)}"
    # What the file system says has paths of this machine in it.
    private = public and isinstance(error.__cause__, OSError)
    if isinstance(error, (SamplerFailed, ModelError, RequestError, NotSaved)) and not private:
        return as_sentence(str(error))
    if public:
        return "The run failed; the server's log says why."
    return f"The run failed: {type(error).__name__}: {error}".rstrip(": ")


@contextmanager
def naming_problems() -> Iterator[None]:
    """Turn what is wrong with a file, a ModelError, into the RequestError of the request that names it."""
    try:
        yield
    except ModelError as error:
        raise RequestError(as_sentence(str(error))) from None


def _less(resolved: ResolvedRequest) -> str:
    """A request that needs about half of the memory: three quarters of each side, or fewer pictures at once."""
    request, info = resolved.request, resolved.model_info
    smallest, _, step = size_range(info)
    width, height = (max(smallest, side * 3 // 4 // step * step) for side in (request.width, request.height))
    less = [f"{width}x{height}"] if (width, height) != (request.width, request.height) else []
    if min(request.count, info.defaults.max_batch) > 1:
        less.append(f"fewer pictures than {request.count}")
    return f"Try {' or '.join(less)}." if less else "Close other programs, or use a smaller model or --device cpu."


def free_memory() -> None:
    """Free memory that nothing refers to, the device's included."""
    gc.collect()
    # glibc keeps freed weights that lie below others in its heap; other systems' libraries do not have this.
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()
