"""The conditions under which pictures are drawn, beside what was asked for: a picture's last bits depend on them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from webui.core.request import RequestError
from weights.identity import ModelIdentity


@dataclass(frozen=True)
class RunEnvironment:
    """Where a job is not drawn as the engine would by itself; None is the engine's own way.

    device   "cpu", "cuda" or "mps"
    threads  of the CPU
    batch    how many pictures are drawn together
    digest   of the only weights that will do
    vae      the same of a VAE beside them; "" is the model's own
    parts    the same of the vocabulary, text encoder and VAE of a folder, which have files of their own
    outputs  folder of the pictures
    """

    device: str | None = None
    threads: int | None = None
    batch: int | None = None
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


def check_weights(environment: RunEnvironment, identity: ModelIdentity, name: str) -> None:
    """Raise RequestError, in the words of the page, unless the opened model has the weights of the environment."""
    if environment.digest not in (None, identity.weights):
        other = f"the picture was made with another (hash {environment.digest})"
        raise RequestError(f"Model {name} here has hash {identity.weights}, and {other}.")
    if environment.vae not in (None, identity.vae):
        here, other = (f"VAE {each} beside it" if each else "its own VAE" for each in (identity.vae, environment.vae))
        raise RequestError(f"Model {name} is used with {here} here, and the picture was made with {other}.")
    if environment.parts not in (None, identity.parts):
        other = f"the picture was made with others (hash {environment.parts})"
        raise RequestError(
            f"The vocabulary, text encoder and VAE of model {name} here have hash {identity.parts}, and {other}."
        )


def origin_of(name: str, identity: ModelIdentity) -> dict[str, str]:
    """What drew a picture, as metadata records it: the weights, their number format, the device and its kind."""
    origin = dict(
        name=name,
        digest=identity.weights,
        device=identity.device,
        dtype=identity.dtype,
        hardware=identity.hardware,
    )
    # Recorded where they are not the usual.
    unusual = dict(vae=identity.vae, parts=identity.parts, prediction=identity.prediction)
    origin |= {key: value for key, value in unusual.items() if value}
    return origin | ({"compiled": "torch.compile"} if identity.compiled else {})
