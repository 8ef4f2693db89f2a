"""How a job is drawn beside what its request says: the last bits of a picture depend on it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from webui.core.request import Request, RequestError
from weights.backends.backend import COMPILE, TORCH
from weights.identity import ModelIdentity, Patch

from .other_networks import UpscalerHolder


@dataclass(frozen=True)
class RunEnvironment:
    """What a replay prescribes for a job; None leaves it to the engine.

    device   "cpu", "cuda" or "mps"
    backend  what computes the steps, see `weights.backends`
    dtype    number format of the steps; "auto" is the device's usual one
    threads  of the CPU
    batch    how many pictures are drawn together
    digest   the weights of `ModelIdentity` that the picture needs
    vae      its VAE; "" is the model's own
    parts    its other parts
    outputs  folder of the pictures
    """

    device: str | None = None
    backend: str | None = None
    dtype: str | None = None
    threads: int | None = None
    batch: int | None = None
    digest: str | None = None
    vae: str | None = None
    parts: str | None = None
    outputs: Path | None = None


DEFAULT_ENVIRONMENT = RunEnvironment()


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Compute with so many CPU threads inside a with block; None changes nothing. The count is the process's."""
    before = torch.get_num_threads()
    if count is not None and count != before:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


def check_digest(what: str, name: str, here: str, needed: str | None) -> None:
    """Raises RequestError unless a file here has the hash that a picture needs; None needs none."""
    if needed not in (None, here):
        raise RequestError(
            f"{what} {name} here has hash {here}, and the picture was made with another (hash {needed})."
        )


def check_weights(environment: RunEnvironment, identity: ModelIdentity, name: str) -> None:
    """Raises RequestError unless the opened model of this name has the weights that the environment prescribes."""
    check_digest("Model", name, identity.weights, environment.digest)
    if environment.vae not in (None, identity.vae):
        here, other = (f"VAE {each} beside it" if each else "its own VAE" for each in (identity.vae, environment.vae))
        raise RequestError(f"Model {name} is used with {here} here, and the picture was made with {other}.")
    if environment.parts not in (None, identity.parts):
        other = f"the picture was made with others (hash {environment.parts})"
        raise RequestError(
            f"The vocabulary, text encoder and VAE of model {name} here have hash {identity.parts}, and {other}."
        )


def identity_of(
    model: Any, request: Request, upscalers: UpscalerHolder, others: Mapping[str, Any] = MappingProxyType({})
) -> ModelIdentity:
    """Everything that shapes a resolved request's picture on an opened model, with its upscaler and quick decoder.

    others  the opened models that draw beside it, by name
    Raises ModelError and RequestError for a file that is no longer there.
    """
    identity = model.identity_for(request.prompt, request.negative_prompt, request.feature_reuse)
    second, refiner = others.get(request.hires_model if request.is_hires else ""), others.get(request.refiner)
    patches = [
        upscalers.patch(request.upscaler) if request.enlarges else None,
        Patch(second.name, second.identity.digest, kind="model") if second else None,
        Patch(refiner.name, refiner.identity.digest, kind="refiner") if refiner else None,
        (second or model).quick_decoder if request.decoder == "quick" else None,
    ]
    return replace(identity, patches=(*identity.patches, *filter(None, patches)))


def origin_of(name: str, identity: ModelIdentity) -> dict[str, Any]:
    """The identity of a model as the metadata of a picture records it."""
    origin: dict[str, Any] = dict(
        name=name,
        digest=identity.weights,
        device=identity.device,
        dtype=identity.dtype,
        hardware=identity.hardware,
    )
    # Left out where there is nothing to say.
    others = dict(vae=identity.vae, parts=identity.parts, prediction=identity.prediction)
    origin |= {key: value for key, value in others.items() if value}
    if identity.patches:
        origin["patches"] = [asdict(patch) for patch in identity.patches]
    if identity.backend == COMPILE:
        origin["compiled"] = "torch.compile"
    elif identity.backend != TORCH:
        origin["backend"] = identity.backend
    return origin
