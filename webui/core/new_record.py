"""New records: what a picture carries that is made here, and the versions of what makes it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from samplers.noise import NOISE_VERSION

from .plugin_fields import PluginOrigin
from .record import COEFFICIENTS, SCHEMA, ModelOrigin, PassRecord, Record, read_record
from .request import Request
from .upscale_request import UpscaleRequest

PROJECT = Path(__file__).parents[2] / "pyproject.toml"
PACKAGES = ("sigmalab", "torch", "diffusers", "transformers", "gradio")


def make_record(
    request: Request,
    index: int,
    passes: Sequence[PassRecord],
    nfe: float,
    model: Mapping[str, Any],
    batch: Sequence[int],
    facts: Mapping[str, Any],
    guidance: PluginOrigin | None = None,
) -> Record:
    """The record of image `index` of a resolved request.

    passes  what ran, one after another
    model   the fields of ModelOrigin that are not empty, and its patches
    facts   threads, pixels and, where there are any, evaluations, input_digest and mask_digest; "written" are the
            prompts before their styles and random choices
    guidance  its origin; None or an empty one for CFG
    """
    first, *later = (each.to_json() for each in passes)
    return read_record(
        dict(
            schema=SCHEMA,
            request=request.to_json(),
            image=dict(index=index, seed=request.seeds[index])
            | ({"variation_seed": request.own_seeds[index]} if request.is_varied else {}),
            sigmas=first["sigmas"],
            nfe=nfe,
            sampler=first["sampler"],
            schedule=first["schedule"],
            **{name: first[name] for name in COEFFICIENTS if name in first},
            **({"guidance": asdict(guidance)} if guidance and guidance.id else {}),
            **({"later_passes": later} if later else {}),
            model=dict(model),
            noise_version=NOISE_VERSION,
            packages=packages(),
            batch=list(batch),
            **facts,
        )
    )


def make_upscale_record(
    request: UpscaleRequest,
    model: ModelOrigin,
    input_digest: str,
    pixels: str,
    parameters: str = "",
    source: Record | None = None,
) -> Record:
    """The record of a picture that was enlarged.

    model       the upscaler
    parameters  A1111's text of the picture that was enlarged, "" if there is none
    source      the record of its drawing, None if it is not known
    """
    data = dict(
        schema=SCHEMA,
        request=request.to_json(),
        model={name: value for name, value in asdict(model).items() if value},
        packages=packages(),
        threads=torch.get_num_threads(),
        input_digest=input_digest,
        pixels=pixels,
        **({"parameters": parameters} if parameters else {}),
        **({"source": dict(source.data)} if source else {}),
    )
    return read_record(data)


def packages() -> dict[str, str]:
    """The versions of what makes pictures here, by package; "" for one that is not installed."""
    return {name: _version(name) for name in PACKAGES}


@cache
def _version(package: str) -> str:
    try:
        # The program is usually run from its folder and not installed; an installed one may be another version.
        if package == "sigmalab" and PROJECT.is_file():
            return tomllib.loads(PROJECT.read_text("utf-8"))["project"]["version"]
        # Builds of one version, for CPU or CUDA, are told apart by torch alone.
        return torch.__version__ if package == "torch" else version(package)
    except PackageNotFoundError:
        return ""
