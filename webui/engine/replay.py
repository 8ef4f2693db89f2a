"""Replay a picture: draw it from its metadata in the recorded environment.

A missing sampler, schedule or model is an error; nothing replaces it. The last bits of a picture depend on the device,
the thread count and the batch size, so these are restored where this machine can; `webui.engine.replay_verdict` names
them where it cannot.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from samplers.noise import NOISE_VERSION
from webui.core.images import open_picture
from webui.core.inpainting import open_input
from webui.core.limits import SEEDS, size_problem
from webui.core.picture_metadata import read_picture
from webui.core.plugin_fields import PLUGIN_FIELDS, PluginOrigin
from webui.core.record import MetadataError, PassRecord, Record, digest_of
from webui.core.request import Request, RequestError
from webui.core.resolved_request import ResolvedRequest
from webui.core.storage import input_path
from webui.core.upscale_request import UpscaleRequest
from weights.backends.backend import COMPILE, TORCH
from weights.extra_networks import ExtraNetworks
from weights.identity import Patch
from weights.model_info import ModelError
from weights.opening import pick_device, pick_dtype
from weights.prompt_syntax import LoraTag

from .engine import Engine
from .errors import naming_problems
from .jobs import Job
from .run_environment import RunEnvironment, check_digest

MAX_THREADS = 4 * (os.cpu_count() or 1)  # more are a slip or an attack, and would only wait for each other
OTHER_INPUT = "The input picture is another one than this picture was made from."


@dataclass(frozen=True)
class Recipe:
    """What a replay draws: the request and environment of the picture's whole batch, and its index there."""

    resolved: ResolvedRequest
    environment: RunEnvironment
    index: int
    record: Record


@dataclass(frozen=True)
class UpscaleRecipe:
    """What a replay of a picture that was enlarged and not drawn does."""

    request: UpscaleRequest
    environment: RunEnvironment
    record: Record
    index: int = 0


def any_recipe(
    path: Path, engine: Engine, one_at_a_time: bool = False, image: Path | None = None, mask: Path | None = None
) -> Recipe | UpscaleRecipe:
    """What a replay of this picture, drawn or only enlarged, does; see `recipe`."""
    record = read_picture(path).record
    if record is None or not record.is_upscaled:
        return recipe(path, engine, one_at_a_time, image, mask)
    image = image or _kept_input(record.input_digest, "input picture", "--input", engine)
    request = record.upscale_request().model_copy(update={"image": image})
    if digest_of(open_picture(image)) != record.input_digest:
        raise RequestError(OTHER_INPUT)
    environment = RunEnvironment(threads=_threads(record), digest=record.model.digest or None)
    return UpscaleRecipe(request, environment, record)


def submit_recipe(engine: Engine, wanted: Recipe | UpscaleRecipe, owner: str = "") -> Job:
    """Queue a replay. Raises RequestError."""
    if isinstance(wanted, UpscaleRecipe):
        return engine.submit_upscale(wanted.request, owner, wanted.environment)
    return engine.submit_resolved(wanted.resolved, owner, False, wanted.environment)


def recipe(
    path: Path, engine: Engine, one_at_a_time: bool = False, image: Path | None = None, mask: Path | None = None
) -> Recipe:
    """What a replay of this picture, which was drawn, draws.

    one_at_a_time  draw it alone, whatever its batch was
    image, mask    the input picture of img2img and its mask; by default those that were kept under outputs/inputs/
    Raises MetadataError for a picture without usable settings, RequestError for a plugin, model or input that is
    missing, and PictureError.
    """
    record = read_picture(path).record
    if record is None:
        raise MetadataError(
            "Only pictures with Sigmalab's own settings can be made again, bit for bit; this has others."
        )
    if record.noise_version != NOISE_VERSION:
        made = f"version {str(record.noise_version)[:20]!r}"
        raise MetadataError(f"The picture was made with noise streams of {made}; this Sigmalab has {NOISE_VERSION!r}.")
    single, public = record.single_request(), engine.settings.public
    # What counts on within a batch.
    counting = "variation_seed" if single.is_varied else "seed"
    own = getattr(single, counting)
    batch = [own] if one_at_a_time else _batch(record, own)
    named: dict[str, Any] = dict(sampler=_id(record.sampler, "sampler"), schedule=_id(record.schedule, "schedule"))
    if single.has_input:
        image = image or _kept_input(record.input_digest, "input picture", "--input", engine)
        if record.mask_digest:
            mask = mask or _kept_input(record.mask_digest, "mask", "--mask", engine)
    if single.guidance_method:
        named |= dict(guidance_method=_id(record.guidance, "guidance"))
    inputs = dict(image=image, mask=mask if single.has_input else None)
    if single.is_hires:
        if len(record.later_passes) != 1:
            raise MetadataError("The picture's settings are incomplete: they do not say how it was enlarged.")
        second = record.later_passes[0]
        named |= dict(hires_sampler=_id(second.sampler, "sampler"), hires_schedule=_id(second.schedule, "schedule"))
    for place, origin in zip(PLUGIN_FIELDS, (record.sampler, record.schedule, record.guidance), strict=True):
        named |= {place.options: place.as_then(engine.registry, origin, getattr(single, place.options))}
    request = single.model_copy(update={**named, counting: batch[0], "count": len(batch), **inputs})
    resolved = _second_as_then(_resolved(request, record, engine), record, engine)
    _check_patches(record, engine)
    if image is not None:
        _check_input(record, resolved.request)
    ran: list[Record | PassRecord] = [record, *record.later_passes[: len(resolved.plans) - 1]]
    plans = [
        replace(
            plan,
            sigmas=plan.sigmas if plan.own_grid else _checked(each.sigmas, engine),
            coefficients=each.coefficients,
            schedule_coefficients=each.schedule_coefficients,
        )
        for plan, each in zip(resolved.plans, ran, strict=True)
    ]
    resolved = resolved.with_plans(*plans)
    needed = {patch.kind: patch.digest for patch in record.patches if patch.kind in MODELS}
    resolved = replace(resolved, hires_model_digest=needed.get("model", ""), refiner_digest=needed.get("refiner", ""))
    device = None if public else _device(record.model.device)
    environment = RunEnvironment(
        device=device,
        backend=backend_of(record),
        dtype=_dtype(record.model.dtype, device),
        threads=_threads(record),
        batch=len(batch),
        # Older pictures do not say the first and the last.
        digest=record.model.digest or None,
        vae=record.model.vae,
        parts=record.model.parts or None,
    )
    return Recipe(resolved, environment, batch.index(own), record)


def _resolved(request: Request, record: Record, engine: Engine) -> ResolvedRequest:
    """The request with its defaults. Raises RequestError; of a size that the model does not make, it names the weights
    that made it, for those here will be others."""
    try:
        return engine.resolve(request)
    except RequestError as error:
        info, digest = engine.models().get(request.model), record.model.digest
        sides = dict(width=request.width, height=request.height)
        if not (info and digest and any(size_problem(name, side, info) for name, side in sides.items())):
            raise
        made = f"The picture was made with weights of hash {digest}; those here may be others."
        raise RequestError(f"{error} {made}") from None


def _second_as_then(resolved: ResolvedRequest, record: Record, engine: Engine) -> ResolvedRequest:
    """The request with what another sampler of its second pass, whose options are not recorded, did then."""
    if resolved.hires_plan is None or resolved.request.hires_sampler == resolved.request.sampler:
        return resolved
    then = PLUGIN_FIELDS[0].as_then(engine.registry, record.later_passes[0].sampler, {})
    second = replace(resolved.hires_plan, options={**resolved.hires_plan.options, **then})
    return replace(resolved, hires_plan=second)


def into(recipe: Recipe | UpscaleRecipe, folder: Path) -> Recipe | UpscaleRecipe:
    """The recipe with its pictures in a folder of their own."""
    return replace(recipe, environment=replace(recipe.environment, outputs=folder))


def _threads(record: Record) -> int | None:
    return record.threads if record.threads in range(1, MAX_THREADS + 1) else None


def _batch(record: Record, seed: int) -> list[int]:
    batch = list(record.batch)
    if seed not in batch or any(each != (batch[0] + i) % SEEDS for i, each in enumerate(batch)):
        raise MetadataError(
            "The picture's settings are damaged: its batch is not a row of seeds with its own among them."
        )
    return batch


def _id(origin: PluginOrigin, kind: str) -> str:
    if not origin.id:
        raise MetadataError(f"The picture's settings are incomplete: they name no {kind}.")
    return origin.id


def _device(name: str) -> str | None:
    """The recorded device if it is here; else the engine's own, which `changes` will tell."""
    kind = name.partition(":")[0]
    try:
        return str(pick_device(kind)) if kind not in ("", "auto") else None
    except ModelError:
        return None


def backend_of(record: Record) -> str:
    """What computed the steps of a picture."""
    return record.model.backend or (COMPILE if record.model.compiled else TORCH)


def _dtype(name: str, device: str | None) -> str:
    """The recorded number format where the recorded device is here and has it, else the device's usual one."""
    try:
        target = pick_device(device or "auto")
        return "auto" if device is None or pick_dtype(name or "auto", target) == pick_dtype("auto", target) else name
    except ModelError:
        return "auto"


def _checked(sigmas: tuple[float, ...], engine: Engine) -> tuple[float, ...]:
    """Recorded sigmas, exact to the last bit."""
    if not 2 <= len(sigmas) <= engine.limits.steps + 1 or sigmas[-1] != 0:
        raise MetadataError(
            "The picture's settings are damaged: its sigmas are not a list of numbers that ends with 0."
        )
    if any(lower >= sigma for sigma, lower in pairwise(sigmas)):
        raise MetadataError("The picture's settings are damaged: its sigmas do not fall.")
    return sigmas


def _check_patches(record: Record, engine: Engine) -> None:
    # Models are checked once they are open.
    for patch in (patch for patch in record.patches if patch.kind not in MODELS):
        what, look_up = PATCHES.get(patch.kind, PATCHES["embedding"])
        with naming_problems():
            here = look_up(engine.extra, patch.name).digest
        check_digest(what, patch.name, here, patch.digest)


def _lora(extra: ExtraNetworks, name: str) -> Patch:
    return extra.patch(LoraTag(name))


MODELS = ("model", "refiner")
PATCHES = {
    "lora": ("LoRA", _lora),
    "embedding": ("Embedding", ExtraNetworks.embedding_patch),
    "upscaler": ("Upscaler", ExtraNetworks.upscaler_patch),
    "decoder": ("Quick decoder", ExtraNetworks.decoder_patch),
}


def _kept_input(digest: str, what: str, flag: str, engine: Engine) -> Path:
    if engine.settings.public:
        # The input picture may be another visitor's.
        raise RequestError(
            "Pictures made from another are not made again on a shared page, which keeps no input pictures."
        )
    if not digest.isalnum():
        raise MetadataError(f"The picture's settings are incomplete: they do not name its {what}.")
    path = input_path(engine.outputs, digest)
    if not path.is_file():
        raise RequestError(f"Its {what} inputs/{digest}.png is not in the outputs folder; give it with {flag}.")
    return path


def _check_input(record: Record, request: Request) -> None:
    source = open_input(request)
    if source is None:
        return
    if digest_of(source.picture) != record.input_digest:
        raise RequestError(OTHER_INPUT)
    if record.mask_digest != (digest_of(source.mask) if source.mask else ""):
        raise RequestError("The mask is another one than this picture was made with.")
