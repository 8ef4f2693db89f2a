"""Draw what the evaluation looks at, and put it on sheets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from torch.nn import functional

from samplers.registry import Registry
from samplers.run import plan, run
from weights.lora import Strength, applied, changes_of
from weights.lora_file import LoraFile
from weights.model import Model

from . import loop

SHEET_SIDE, SHEET_BYTES = 96, 400_000  # of a picture on a sheet; above so many bytes it becomes a JPEG


def batch_size(where: torch.device) -> int:
    """How many pictures are drawn at once."""
    return 100 if where.type == "cuda" else 8


def draw(pipe: StableDiffusionPipeline, prompts: list[str], steps: int = 20, guidance: float = 5.0) -> torch.Tensor:
    """Pictures (n, 3, s, s) in [-1, 1], on the device; the i-th prompt has seed i."""
    images, size = [], batch_size(pipe.device)
    for start in range(0, len(prompts), size):
        chunk = prompts[start : start + size]
        # On the CPU, so that a seed means the same noise on every device.
        random = [torch.Generator().manual_seed(start + i) for i in range(len(chunk))]
        kind = {"num_inference_steps": steps, "guidance_scale": guidance, "output_type": "pt"}
        images.append(pipe(chunk, generator=random, **kind).images.float() * 2 - 1)
    return torch.cat(images)


def on_white(names: list[str]) -> list[str]:
    """Prompts for names, or for what else there is to see, on the ground where they are judged."""
    return [f"{name} on a white background" for name in names]


@torch.no_grad()
def draw_in_few_calls(model: Model, lora: LoraFile, registry: Registry, prompts: list[str], calls: int) -> torch.Tensor:
    """The same by the sampler LCM with a LoRA that was distilled for it: one call of the network a step, unguided."""
    side, images, size = model.info.defaults.size, [], batch_size(model.device)
    way = plan(model.schedule, registry.sampler("LCM").item, registry.schedule("LCM").item, calls)
    with applied(changes_of([(lora, Strength())], model.network.components, model.name)):
        for start in range(0, len(prompts), size):
            chunk = prompts[start : start + size]
            zeros = torch.zeros(len(chunk), *model.latents_shape(side, side), device=model.device)
            seeds = tuple(range(start, start + len(chunk)))
            images += model.decode(run(way, model.denoiser_of_each(chunk), zeros, seeds).x)
    values = torch.from_numpy(np.stack([np.asarray(image) for image in images])).movedim(-1, 1)
    return (values.float() / 127.5 - 1).to(model.device)


def sheet(path: Path, images: torch.Tensor, columns: int = 8) -> None:
    """Pictures of at most ``SHEET_SIDE`` pixels as one PNG, or as a JPEG if that would be too large a file."""
    small = functional.adaptive_avg_pool2d(images, min(SHEET_SIDE, images.shape[-1])).cpu()
    loop.contact_sheet(path, small, columns)
    if path.stat().st_size > SHEET_BYTES:
        Image.open(path).save(path.with_suffix(".jpg"), quality=90)
        path.unlink()
