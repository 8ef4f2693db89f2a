"""The answers of `/sdapi/v1`: pictures with A1111's info, progress, and what can be chosen."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import psutil
import torch

from webui.core.menus import LATENT
from webui.core.new_record import packages
from webui.core.picture_metadata import read_picture
from webui.core.request import Request, RequestError
from webui.core.upscale_request import pixel_upscalers
from webui.engine.engine import Engine
from webui.engine.events import Picture
from webui.engine.jobs import DrawJob, Job

from .method_names import sampler_names, scheduler_names
from .picture_bodies import to_base64
from .sdapi_bodies import Drawing

AUTOMATIC_VAE = "Automatic"


def drawn(job: DrawJob, body: Drawing) -> dict[str, Any]:
    """The answer of txt2img and img2img: `info` is JSON in a text."""
    echo = body.model_dump(exclude={"init_images", "mask"})
    return dict(
        images=[to_base64(picture.path.read_bytes()) for picture in job.pictures] if body.send_images else [],
        parameters=echo,
        info=json.dumps(info_of(job.request, job.pictures, job.snapshot().info or {})),
    )


def info_of(request: Request, pictures: Sequence[Picture], info: dict[str, Any]) -> dict[str, Any]:
    """A1111's info about finished pictures of a resolved request."""
    texts, hashes = [], []
    for picture in pictures:
        metadata = read_picture(picture.path)
        texts.append(metadata.parameters)
        hashes.append(metadata.record.model.digest if metadata.record else "")
    count = len(pictures)
    seeds, own = ([each[picture.index] for picture in pictures] for each in (request.seeds, request.own_seeds))
    return dict(
        prompt=request.prompt,
        all_prompts=[request.prompt] * count,
        negative_prompt=request.negative_prompt,
        all_negative_prompts=[request.negative_prompt] * count,
        seed=request.seed,
        all_seeds=seeds,
        subseed=request.variation_seed,
        all_subseeds=own if request.is_varied else [request.variation_seed] * count,
        subseed_strength=request.variation_strength,
        width=request.width,
        height=request.height,
        sampler_name=request.sampler,
        cfg_scale=request.guidance,
        steps=request.steps,
        batch_size=count,
        restore_faces=False,
        face_restoration_model=None,
        sd_model_name=request.model,
        sd_model_hash=hashes[0] if hashes else "",
        sd_vae_name=None,
        sd_vae_hash=None,
        seed_resize_from_w=-1,
        seed_resize_from_h=-1,
        denoising_strength=_strength(request),
        extra_generation_params={"Schedule type": request.schedule, "nfe": info.get("nfe")},
        index_of_first_image=0,
        infotexts=texts,
        styles=info.get("styles", []),
        job_timestamp=datetime.now().strftime("%Y%m%d%H%M%S"),
        clip_skip=request.clip_skip,
        is_using_inpainting_conditioning=False,
        version=f"Sigmalab {packages()['sigmalab']}".strip(),
        stopped=info.get("stopped", False),
    )


def progress_of(job: Job | None, waiting: int, with_picture: bool = True) -> dict[str, Any]:
    """How far the caller's job is: a share, and the picture as it looks now, as a JPEG in base64."""
    now = job.snapshot() if job else None
    state = now.progress if now else None
    total = state.total_calls if state else None
    share = min(0.99, state.calls / total) if state and total else (0.01 if state else 0.0)
    text = state.text if state else f"{now.position} jobs are ahead" if now and now.position else None
    picture = state.preview if state and with_picture else None
    return dict(
        progress=share,
        eta_relative=(state.remaining or 0.0) if state else 0.0,
        state=dict(
            skipped=bool(job and job.skips),
            interrupted=bool(job and job.stopping),
            stopping_generation=False,
            job=text or "",
            job_count=waiting,
            job_timestamp="0" if job is None else time.strftime("%Y%m%d%H%M%S"),
            job_no=len(now.pictures) if now else 0,
            sampling_step=state.step if state else 0,
            sampling_steps=(state.steps or 0) if state else 0,
        ),
        current_image=to_base64(picture) if picture else None,
        textinfo=text,
    )


class SdapiOptions:
    """The options that callers have set, for each account: the model and clip skip of its later requests."""

    def __init__(self, engine: Engine):
        self._engine = engine
        self._set: dict[str, dict[str, Any]] = {}

    def mine(self) -> dict[str, Any]:
        """What the caller has set."""
        return dict(self._set.get(self._engine.account.name, {}))

    def put(self, options: dict[str, Any]) -> None:
        """Set options of the caller; what has no meaning here is ignored."""
        known = {key: options[key] for key in ("sd_model_checkpoint", "CLIP_stop_at_last_layers") if key in options}
        skip = known.get("CLIP_stop_at_last_layers", 1)
        if type(skip) is not int or not 1 <= skip <= 12:
            raise RequestError("CLIP_stop_at_last_layers must be a whole number from 1 to 12.")
        self._set[self._engine.account.name] = self.mine() | known

    def all(self) -> dict[str, Any]:
        """The options as they count for the caller's next request."""
        default = self._engine.settings.model or next(iter(self._engine.models()), None)
        return dict(
            {
                "sd_model_checkpoint": default,
                "sd_checkpoint_hash": None,
                "sd_vae": AUTOMATIC_VAE,
                "CLIP_stop_at_last_layers": 1,
                "samples_save": True,
                "samples_format": "png",
            },
            **self.mine(),
        )


def samplers_of(engine: Engine) -> list[dict[str, Any]]:
    """The samplers that can be named."""
    return [dict(name=name, aliases=others, options={}) for name, others in sampler_names(engine.registry).items()]


def schedulers_of(engine: Engine) -> list[dict[str, Any]]:
    """The schedules that can be named."""
    return [
        dict(name=name, label=label, aliases=[], default_rho=-1.0, need_inner_model=False)
        for name, label in scheduler_names(engine.registry).items()
    ]


def models_of(engine: Engine) -> list[dict[str, Any]]:
    """The models; where their files lie is told on a private page only."""
    return [
        dict(
            title=info.name,
            model_name=info.name,
            hash=None,
            sha256=None,
            filename=info.name if engine.settings.public else str(info.path),
            config=None,
        )
        for info in engine.models().values()
    ]


def upscalers_of(engine: Engine) -> list[dict[str, Any]]:
    """The upscalers of pictures."""
    names = ["None", *pixel_upscalers(engine.upscalers())]
    return [dict(name=name, model_name=None, model_path=None, model_url=None, scale=4.0) for name in names]


def styles_of(engine: Engine) -> list[dict[str, str]]:
    """The prompt styles of the caller."""
    return [style.to_json() for style in engine.styles().values()]


def latent_modes() -> list[dict[str, str]]:
    """The upscalers of latents."""
    return [dict(name=name) for name in LATENT]


def loras_of(engine: Engine) -> list[dict[str, Any]]:
    """The LoRAs that a prompt may name."""
    return [
        dict(name=name, alias=name, path=name if engine.settings.public else str(found.path), metadata={})
        for name, found in engine.extra.loras().items()
        if not found.problem
    ]


def embeddings_of(engine: Engine) -> dict[str, Any]:
    """The textual inversions that a prompt may name, and those that cannot be used."""
    nothing = dict(step=None, sd_checkpoint=None, sd_checkpoint_name=None, shape=None, vectors=None)
    found = engine.extra.embeddings()
    return dict(
        loaded={name: nothing for name, each in found.items() if not each.problem},
        skipped={name: nothing for name, each in found.items() if each.problem},
    )


def memory() -> dict[str, Any]:
    """Bytes of main memory and of the GPU's."""
    whole = psutil.virtual_memory()
    cuda: dict[str, Any] = {"error": "there is no CUDA device in use"}
    if torch.cuda.is_initialized():
        free, total = torch.cuda.mem_get_info()
        cuda = {"system": dict(free=free, used=total - free, total=total)}
    return dict(ram=dict(free=whole.available, used=psutil.Process().memory_info().rss, total=whole.total), cuda=cuda)


def _strength(request: Request) -> float | None:
    if request.has_input:
        return request.strength
    return request.hires_strength if request.is_hires else None
