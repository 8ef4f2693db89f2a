"""The files of `benchmarks.checkpoint`, and the two sides that open them and draw: this program and diffusers."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from weights.families import recognize_file
from weights.model import Model
from weights.opening import open_model
from weights.single_file import read_single
from weights.tensors import read_shapes

from .random_checkpoint import MINI, TRUE, XL, checkpoint, save

APART = {"float32": 1e-4, "bfloat16": 5e-2}


@dataclass(frozen=True)
class Kind:
    """A file of true width.

    version   see `random_checkpoint`
    dtype     that the UNet is opened in
    openings  what is measured: the endings of files that we open, and "diffusers"
    """

    name: str
    version: int
    dtype: str
    openings: tuple[str, ...]

    @property
    def apart(self) -> float:
        """Of the largest latent: if the two sides differ by more, they did not do the same work."""
        return APART[self.dtype]

    @property
    def is_xl(self) -> bool:
        """Whether it has two text encoders."""
        return self.version == XL

    def path(self, folder: Path, mini: bool, ending: str) -> Path:
        """Where the file is."""
        return folder / f"{self.name}{'-mini' if mini else ''}.{ending}"

    def make(self, folder: Path, mini: bool) -> None:
        """The files in half precision, unless they are there; a broken-off attempt leaves none that looks whole."""
        folder.mkdir(parents=True, exist_ok=True)
        endings = (ending for ending in self.openings if ending != "diffusers")
        missing = [path for ending in endings if not (path := self.path(folder, mini, ending)).exists()]
        if missing:
            weights = checkpoint(self.version, (MINI if mini else TRUE)[self.version], torch.float16)
            for path in missing:
                # What the network predicts need not be found out then.
                facts = {"modelspec.prediction_type": "epsilon"} if path.suffix == ".safetensors" else None
                os.replace(save(path.with_name(f"part-{path.name}"), weights, facts), path)

    def open(self, file: Path) -> Model:
        """The model of a file, opened by this program."""
        return open_model(read_single(file), "cpu", self.dtype)


# Stable Diffusion XL in float32 needs 14 GB.
KINDS = {
    "sd15": Kind("random-sd15", 1, "float32", ("safetensors", "ckpt", "diffusers")),
    "sdxl": Kind("random-sdxl", XL, "bfloat16", ("safetensors", "diffusers")),
}


def modules_of(model: Model) -> list[torch.nn.Module]:
    """All modules of an opened model."""
    return [*model.network.components.values(), model.vae.module]


def configurations(file: Path) -> Path:
    """A folder of configurations for diffusers, which otherwise asks its hub for them."""
    from diffusers import DDIMScheduler

    folder = file.with_name(f"{file.stem}-configs")
    if not (folder / "model_index.json").exists():
        family, found = recognize_file(read_shapes(file))
        parts, tokenizers = found.parts(None), found.tokenizers()
        for name, part in parts.items():
            config = part.module if name in ("unet", "vae") else part.module.config
            (config.save_config if name in ("unet", "vae") else config.save_pretrained)(folder / name)
        for name, tokenizer in tokenizers.items():
            tokenizer.save_pretrained(folder / name)
        DDIMScheduler().save_pretrained(folder / "scheduler")
        index = {name: list(kind) for name, kind in family.components.items()}
        name = "StableDiffusionXLPipeline" if "text_encoder_2" in index else "StableDiffusionPipeline"
        replace_json(
            folder / "model_index.json", {"_class_name": name, "scheduler": ["diffusers", "DDIMScheduler"]} | index
        )
    return folder


def by_diffusers(file: Path, configs: Path, kind: Kind) -> list[torch.nn.Module]:
    """Opened by diffusers' from_single_file."""
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

    pipeline = StableDiffusionXLPipeline if kind.is_xl else StableDiffusionPipeline
    more = {"add_watermarker": False} if kind.is_xl else {"safety_checker": None}
    pipe = pipeline.from_single_file(
        file, config=str(configs), torch_dtype=getattr(torch, kind.dtype), local_files_only=True, **more
    )
    return [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]


def pipeline_of(model: Model, kind: Kind) -> Any:
    """diffusers' pipeline around the modules of an opened model."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline

    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
    )
    network: Any = model.network
    unet, vae = network.unet, model.vae.module
    if kind.is_xl:
        first, second = network.first, network.second
        parts = vae, first.encoder, second.encoder, first.tokenizer, second.tokenizer, unet, scheduler
        pipe: Any = StableDiffusionXLPipeline(*parts, add_watermarker=False)
    else:
        prompts = network.prompts
        parts = vae, prompts.encoder, prompts.tokenizer, unet, scheduler, None, None
        pipe = StableDiffusionPipeline(*parts, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def prompts_for(pipe: Any, kind: Kind, prompt: str) -> Mapping[str, Any]:
    """A prompt and an empty negative one, as a pipeline takes them."""
    if not kind.is_xl:
        return dict(prompt=prompt, negative_prompt="")
    names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    told = {name: one.to(pipe.unet.dtype) for name, one in zip(names, pipe.encode_prompt(prompt), strict=True)}
    # With text encoders the pipeline would give everything their number format.
    pipe.register_modules(text_encoder=None, text_encoder_2=None)
    return told


def replace_json(file: Path, content: Any) -> None:
    """Write JSON to a temporary name, and rename it."""
    temporary = file.with_name(f"part-{file.name}")
    temporary.write_text(json.dumps(content, indent=1), "utf-8")
    os.replace(temporary, file)
