"""The conditions under which pictures are drawn, beside what was asked for: a picture's last bits depend on them."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class RunEnvironment:
    """Where a job is not drawn as the engine would by itself; None is the engine's own way.

    device   "cpu", "cuda" or "mps"
    threads  of the CPU
    batch    how many pictures are drawn together
    sigmas   the levels to visit, in place of the schedule's
    digest   of the only weights that will do
    vae      the same of a VAE beside them; "" is the model's own
    parts    the same of the vocabulary, text encoder and VAE of a folder, which have files of their own
    outputs  folder of the pictures
    """

    device: str | None = None
    threads: int | None = None
    batch: int | None = None
    sigmas: tuple[float, ...] | None = None
    digest: str | None = None
    vae: str | None = None
    parts: str | None = None
    outputs: Path | None = None


DEFAULT_ENVIRONMENT = RunEnvironment()


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Compute with so many CPU threads for a while; None changes nothing."""
    before = torch.get_num_threads()
    if count is not None and count != before:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


def weights_of(model: Any) -> str:
    """The digest of all weights that draw: the model's, of a VAE beside it, and of a folder's other parts."""
    return model.digest + getattr(model, "vae_digest", "") + getattr(model, "parts_digest", "")


def origin_of(model: Any) -> dict[str, str]:
    """What drew a picture, as metadata records it: the weights, their number format, the device and its kind."""
    device = model.device
    # Which kernels a CPU takes depends on its instruction set, and their rounding with it.
    kind = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    if device.type == "cuda":
        kind = torch.cuda.get_device_name(device)
    dtype = str(getattr(model, "dtype", "")).removeprefix("torch.")
    origin = dict(name=model.name, digest=model.digest, device=str(device), dtype=dtype, hardware=kind)
    # These bear on the picture where they are not as usual.
    for name, value in (("vae", "vae_digest"), ("parts", "parts_digest"), ("prediction", "prediction")):
        if found := getattr(model, value, ""):
            origin[name] = found
    if getattr(model, "compiled", False):
        origin["compiled"] = "torch.compile"
    return origin
