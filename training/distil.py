"""Step ``distil``: a LoRA with which the model draws in two to four calls, without guidance.

A consistency model (arXiv:2303.01469) answers from any point of a path with the path's end. Latent consistency
distillation (arXiv:2310.04378) learns it from the guided model: the answers at two neighbouring points of a path that
the teacher draws, one DDIM step of fifty long, must agree. What is learned is a LoRA (arXiv:2311.05556).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from torch.func import functional_call
from transformers import CLIPTextModel

from weights.identity import file_digest
from weights.lora_layers import LayerChange

from . import export, latents, loop, lora
from .captions import tokenize
from .config import Config
from .denoiser import alphas_cumprod

RANK = 6
GUIDANCE = 4.0  # of the teacher, which the LoRA takes into itself
POINTS = 50  # of a path
LEARNING_RATE = 1e-3
TARGET_DECAY = 0.95
HUBER = 0.01  # below this a difference counts by its square


def merged(unet: nn.Module, changes: Mapping[str, LayerChange]) -> dict[str, torch.Tensor]:
    """The changed layers' weights, W + up down, as names and tensors that a gradient goes through."""
    return {
        f"{name}.weight": unet.get_parameter(f"{name}.weight") + change.weight() for name, change in changes.items()
    }


class Points:
    """The points of the teacher's paths, x_t = alpha x_0 + sigma eps at their times, and last their end."""

    def __init__(self, where: torch.device) -> None:
        alphas = alphas_cumprod().to(where)
        self.times = torch.arange(POINTS, 0, -1, device=where) * (len(alphas) // POINTS) - 1
        one = torch.ones(1, device=where)
        self.alpha = torch.cat([alphas[self.times].sqrt(), one])
        self.sigma = torch.cat([(1 - alphas[self.times]).sqrt(), 0 * one])

    def of(self, point: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """alpha and sigma, (n, 1, 1, 1) each."""
        return self.alpha[point][:, None, None, None], self.sigma[point][:, None, None, None]


def run(config: Config, budget: loop.Budget | None = None, weights: Path = Path("weights/emoji")) -> None:
    """Train on the published model in ``weights``, and write weights/loras/emoji-lcm.safetensors beside its folder."""
    from safetensors.torch import save_file

    where = loop.device()
    torch.manual_seed(config.seed)
    vae, text, unet = (
        kind.from_pretrained(weights / part).to(where, torch.float32).eval().requires_grad_(False)
        for kind, part in ((AutoencoderKL, "vae"), (CLIPTextModel, "text_encoder"), (UNet2DConditionModel, "unet"))
    )
    changes = lora.changes_of(unet, RANK)
    names = [(name, part) for name, change in changes.items() for part in change.tensors]
    learned = [nn.Parameter(changes[name].tensors[part].detach().to(where)) for name, part in names]
    average = [tensor.detach().clone() for tensor in learned]
    optimizer = torch.optim.AdamW(learned, LEARNING_RATE, betas=(0.9, 0.99), weight_decay=0.0)
    points, count = Points(where), config.denoiser.batch // 2

    def changed(tensors: list[torch.Tensor]) -> dict[str, LayerChange]:
        parts: dict[str, dict[str, torch.Tensor]] = {}
        for (name, part), tensor in zip(names, tensors, strict=True):
            parts.setdefault(name, {})[part] = tensor
        return {name: LayerChange(changes[name].layer, parts[name], 1.0) for name in parts}

    def end(tensors: list[torch.Tensor], x: torch.Tensor, point: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        """Where a path ends, as the changed network answers from a point of it."""
        alpha, sigma = points.of(point)
        with loop.autocast(where):
            new = merged(unet, changed(tensors))
            noise = functional_call(unet, new, (x, points.times[point]), {"encoder_hidden_states": words}).sample
        return (x - sigma * noise.float()) / alpha

    @torch.no_grad()
    def onward(x: torch.Tensor, point: torch.Tensor, words: torch.Tensor, silence: torch.Tensor) -> torch.Tensor:
        """The teacher's guided DDIM step to the next point, and what it takes the end to be."""
        (alpha, sigma), (next_alpha, next_sigma) = points.of(point), points.of(point + 1)
        with loop.autocast(where):
            both = unet(torch.cat([x, x]), points.times[point].repeat(2), torch.cat([words, silence])).sample.float()
        said, unsaid = both.chunk(2)
        noise = unsaid + GUIDANCE * (said - unsaid)
        return next_alpha * (x - sigma * noise) / alpha + next_sigma * noise

    coming: Iterator = latents.of_scenes(config, vae, 0, count, config.seed + 11)
    empty = tokenize(export.tokenizer(config), [""]).to(where)

    def step(number: int, fraction: float) -> dict[str, torch.Tensor]:
        for group in optimizer.param_groups:
            group["lr"] = loop.learning_rate(fraction, LEARNING_RATE)
        _, clean, scenes = next(coming)
        with torch.no_grad():
            words, silence = text(scenes.tokens).last_hidden_state, text(empty).last_hidden_state
            random = loop.generator(config.seed, number, where)
            point = torch.randint(POINTS, (count,), generator=random, device=where)
            alpha, sigma = points.of(point)
            x = alpha * clean + sigma * torch.randn(clean.shape, generator=random, device=where)
            further = onward(x, point, words, silence.expand_as(words))
            # The last point's step ends at the end itself, where there is nothing to answer.
            last = (point == POINTS - 1)[:, None, None, None]
            target = torch.where(last, further, end(average, further, (point + 1).clamp(max=POINTS - 1), words))
        error = end(learned, x, point, words) - target
        loss = ((error.square() + HUBER**2).sqrt() - HUBER).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        torch._foreach_lerp_(average, [tensor.detach() for tensor in learned], 1 - TARGET_DECAY)
        return {"loss": loss.detach(), "error": error.detach().abs().mean()}

    loop.train(
        budget=budget or loop.Budget(minutes=config.denoiser.distil_minutes),
        step=step,
        state=lambda: {},
        path=config.folder / "distil.pt",
        resume=None,
    )
    target = export.few_calls(weights)
    target.parent.mkdir(exist_ok=True)
    facts = {"modelspec.title": target.stem, "trained_on": weights.name, "licence": "Apache-2.0"}
    save_file(lora.to_state(changed([tensor.cpu() for tensor in average])), target, metadata=facts)
    print(f"{target}: {target.stat().st_size / 1e6:.2f} MB, hash {file_digest([target])}")
