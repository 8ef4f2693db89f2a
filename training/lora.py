"""Step ``lora``: teach the published model a style that it does not know, in a file of half a megabyte.

A LoRA (arXiv:2106.09685) adds up(down(x)) of a small rank to what a layer puts out and leaves the layer as it is. The
style is a blueprint: pale outlines on blue paper. Its pictures are the model's own, drawn over, so nothing is fetched;
the names of a few dozen familiar things are enough for it to be taken on by all others.
"""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from samplers.registry import Registry, discover
from samplers.run import plan
from samplers.run import run as draw
from weights.diffusers_folder import read_folder
from weights.identity import file_digest
from weights.lora import applied
from weights.lora_layers import LayerChange
from weights.model import Model
from weights.opening import open_model

from . import loop
from .config import Config
from .data import FAMILIAR
from .denoiser import noised

RANK = 4
SHOWN = 64  # names that it learns from
PAPER, LINE = (32.0, 74.0, 158.0), (236.0, 243.0, 255.0)
BATCH = 16
LEARNING_RATE = 4e-3
DROP_PROMPT = 0.2
TRAINED = 400  # batches; minutes of one core
NEVER_SHOWN = ("rocket", "octopus", "sunflower", "birthday cake", "red apple", "penguin", "key", "house")


def blueprint(picture: Image.Image) -> Image.Image:
    """A picture as a blueprint: its edges and, faintly, its lightness in white on blue paper."""
    grey = np.asarray(picture.convert("L"), np.float32) / 255
    down, across = np.gradient(np.pad(grey, 1, mode="edge"))
    edges = np.clip(np.hypot(down, across)[1:-1, 1:-1] * 5 - 0.15, 0, 1)
    colour = np.asarray(picture.convert("HSV"), np.float32)[..., 1] / 255
    share = np.clip(edges + 0.18 * np.maximum(colour, 1 - grey), 0, 1)[..., None]
    mixed = np.array(PAPER, np.float32) * (1 - share) + np.array(LINE, np.float32) * share
    return Image.fromarray(mixed.round().astype(np.uint8))


def names() -> list[str]:
    """The names that it learns from; ``NEVER_SHOWN`` are looked at to see whether others follow."""
    known = [name for name in FAMILIAR.read_text("utf-8").split("\n") if name and name not in NEVER_SHOWN]
    return random.Random(0).sample(known, SHOWN)


def change_of(layer: nn.Module, rank: int) -> LayerChange:
    """A change of a layer that does nothing yet: up is zero."""
    outputs, inputs, *kernel = layer.weight.shape
    down = torch.randn(rank, inputs, *kernel) / math.sqrt(inputs * math.prod(kernel))
    parts = {"down": nn.Parameter(down), "up": nn.Parameter(torch.zeros(outputs, rank, *[1] * len(kernel)))}
    return LayerChange(layer, parts, 1.0)


def changes_of(unet: nn.Module, rank: int = RANK) -> dict[str, LayerChange]:
    """A change of each layer of the attentions and the residual blocks, by the layer's name."""
    return {
        name: change_of(layer, rank)
        for name, layer in unet.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d) and (".attn" in name or ".conv" in name or ".proj_" in name)
    }


@torch.no_grad()
def picture(
    model: Model, registry: Registry, prompt: str, seed: int, steps: int = 8, guidance: float = 3.0
) -> torch.Tensor:
    """Latents (1, channels, side, side) of a picture."""
    size = model.info.defaults.size
    zeros = torch.zeros(1, *model.latents_shape(size, size))
    sampler, schedule = registry.sampler("DDIM").item, registry.schedule("Uniform leading").item
    run = plan(model.schedule, sampler, schedule, steps)
    return draw(run, model.denoiser(prompt, "", guidance), zeros, (seed,)).x


def to_state(changes: dict[str, LayerChange]) -> dict[str, torch.Tensor]:
    """The tensors of the file, in kohya's names and half precision; alpha is the rank."""
    state = {}
    for name, change in changes.items():
        key = f"lora_unet_{name.replace('.', '_')}"
        for part, tensor in change.tensors.items():
            state[f"{key}.lora_{part}.weight"] = tensor.detach().half().contiguous()
        state[f"{key}.alpha"] = torch.tensor(float(len(change.tensors["down"]))).half()
    return state


def run(config: Config, budget: loop.Budget | None = None, weights: Path = Path("weights/emoji")) -> None:
    """Train, and write weights/loras/blueprint.safetensors beside the model's folder."""
    from safetensors.torch import save_file

    torch.manual_seed(config.seed)
    model = open_model(read_folder(weights), "cpu")
    registry = discover(Path("plugins"), packages=False)
    texts = names()
    latents = torch.cat(
        [model.encode(blueprint(model.decode(picture(model, registry, text, i))[0])) for i, text in enumerate(texts)]
    )
    states = [model.encode_prompt(text).tensors["text"] for text in (*texts, "")]
    unet = model.network.unet
    changes = changes_of(unet)
    learned = [tensor for change in changes.values() for tensor in change.tensors.values()]
    optimizer = torch.optim.AdamW(learned, LEARNING_RATE, betas=(0.9, 0.99), weight_decay=0.0)

    def step(number: int, fraction: float) -> dict[str, float]:
        for group in optimizer.param_groups:
            group["lr"] = loop.learning_rate(fraction, LEARNING_RATE)
        rng, drawn = random.Random(config.seed * 1_000_003 + number), loop.generator(config.seed, number)
        rows = rng.sample(range(len(texts)), BATCH)
        clean, noise = latents[rows], torch.randn(BATCH, *latents.shape[1:], generator=drawn)
        uniform = (torch.arange(BATCH) + torch.rand(BATCH, generator=drawn)) / BATCH
        shown = noised(clean, noise, uniform, config.denoiser.snr_range)
        words = torch.cat([states[-1 if rng.random() < DROP_PROMPT else row] for row in rows]).clone()
        with applied({change.layer: [change] for change in changes.values()}), loop.autocast(torch.device("cpu")):
            output = unet(shown.noisy, shown.time, encoder_hidden_states=words).sample
        error = (output.float() - shown.target).square().mean(dim=(1, 2, 3))
        optimizer.zero_grad(set_to_none=True)
        (error * shown.weights).mean().backward()
        optimizer.step()
        return {"error": error.mean().item()}

    def sample() -> None:
        with applied({change.layer: [change] for change in changes.values()}):
            drawn = [picture(model, registry, text, 100 + i, 20) for i, text in enumerate(NEVER_SHOWN)]
        images = [torch.from_numpy(np.asarray(model.decode(each)[0]).copy()).movedim(-1, 0) for each in drawn]
        loop.contact_sheet(config.folder / "lora.png", torch.stack(images).float() / 127.5 - 1)

    loop.train(
        budget=budget or loop.Budget(steps=TRAINED),
        step=step,
        state=lambda: {},
        path=config.folder / "lora.pt",
        resume=None,
        sample=sample,
    )
    target = weights.parent / "loras" / "blueprint.safetensors"
    target.parent.mkdir(exist_ok=True)
    facts = {"modelspec.title": "blueprint", "trained_on": weights.name, "licence": "Apache-2.0"}
    save_file(to_state(changes), target, metadata=facts)
    print(f"{target}: {target.stat().st_size / 1e6:.2f} MB, hash {file_digest([target])}")
