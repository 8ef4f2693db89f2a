"""Step ``text``: train the text encoder to match captions with pictures, before the denoiser.

CLIP in miniature (arXiv:2103.00020): captions and pictures are mapped into one space, and within a batch each
caption has to find its picture and each picture its caption. Stable Diffusion gets its text encoder ready-made from
such a training. Here it costs minutes and saves many more: a denoiser whose words all look alike at first learns to
ignore them long before it could learn what they mean.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional
from transformers import CLIPTextModel, CLIPTokenizer

from . import autoencoder, latents, loop
from .config import Config
from .model import build_text


class Tower(nn.Module):
    """Latents (n, channels, side, side) to vectors (n, width): the picture's half of CLIP, thrown away afterwards."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 64, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(64, 128, 3, stride=2, padding=1),
            nn.GroupNorm(8, 128),
            nn.GELU(),
            nn.Conv2d(128, 192, 3, stride=2, padding=1),
            nn.GroupNorm(8, 192),
            nn.GELU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(192 * 16, width),
        )

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.layers(values)


def contrast(words: torch.Tensor, pictures: torch.Tensor, scale: torch.Tensor, same: torch.Tensor) -> torch.Tensor:
    """CLIP's symmetric cross-entropy between vectors (n, width); ``same`` (n, n) marks pairs that fit each other.

    A caption without a style fits every style's picture of that name and ground, so the target may be shared.
    """
    scores = scale * functional.normalize(words, dim=1) @ functional.normalize(pictures, dim=1).T
    target = same / same.sum(1, keepdim=True)
    return (functional.cross_entropy(scores, target) + functional.cross_entropy(scores.T, target)) / 2


def restore(config: Config, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Load the text encoder of this step; without one, the published encoder to start from, or a new one."""
    text = build_text(config, tokenizer)
    if config.start:
        if CLIPTokenizer.from_pretrained(config.start / "tokenizer").get_vocab() != tokenizer.get_vocab():
            raise SystemExit(
                f"{config.start} numbers its words in another way than {config.folder / 'tokenizer'} does. "
                f"First: python -m training data --size {config.size} --start {config.start}"
            )
        text.load_state_dict(
            CLIPTextModel.from_pretrained(config.start / "text_encoder", dtype=torch.float32).state_dict()
        )
    if state := loop.restore(config.folder / "text.pt"):
        text.load_state_dict(state["text"])
    return text


def run(config: Config, budget: loop.Budget | None = None) -> None:
    ours, where = config.text, loop.device()
    tokenizer = CLIPTokenizer.from_pretrained(config.folder / "tokenizer")
    path = config.folder / "text.pt"

    torch.manual_seed(config.seed)
    text = restore(config, tokenizer).to(where)
    tower = Tower(config.autoencoder.latent_channels, ours.width).to(where)
    head = nn.Linear(ours.width, ours.width).to(where)
    scale = nn.Parameter(torch.tensor(math.log(1 / 0.07), device=where))
    parts = nn.ModuleDict({"text": text, "tower": tower, "head": head})
    optimizer = torch.optim.AdamW([*parts.parameters(), scale], ours.learning_rate, weight_decay=0.01, fused=True)
    if resume := loop.restore(path):
        for name, part in parts.items():
            part.load_state_dict(resume[name])
        scale.data.copy_(resume["scale"])
        optimizer.load_state_dict(resume["optimizer"])

    vae = autoencoder.restore(config).to(where).eval()
    coming = latents.of_scenes(config, vae, resume["number"] if resume else 0, ours.batch, config.seed)

    def step(number: int, fraction: float) -> dict[str, torch.Tensor]:
        _, values, scenes = next(coming)
        label = torch.tensor([scenes.meant.index(each) for each in scenes.meant])
        same = (label[:, None] == label).float().to(where)
        # Some noise, as the denoiser will see them: what only an unspoilt picture shows is no use to it.
        random = loop.generator(config.seed, number, where)
        values = values + 0.5 * torch.randn(values.shape, generator=random, device=where)
        for group in optimizer.param_groups:
            group["lr"] = loop.learning_rate(fraction, ours.learning_rate)
        with loop.autocast(where):
            # The mean over all places: most are padding, which has seen the whole caption, and it is what the
            # UNet's pooling begins with.
            words = head(text(scenes.tokens).last_hidden_state.mean(1))
            pictures = tower(values)
        loss = contrast(words.float(), pictures.float(), scale.clamp(max=math.log(100)).exp(), same)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parts.parameters(), 1.0)
        optimizer.step()
        nearest = (words.detach() @ functional.normalize(pictures.detach(), dim=1).T).argmax(1)
        right = same[torch.arange(len(nearest), device=where), nearest].mean()
        return {"loss": loss.detach(), "found": right}

    loop.train(
        budget=budget or loop.Budget(minutes=ours.minutes),
        step=step,
        state=lambda: {
            **{name: part.state_dict() for name, part in parts.items()},
            "scale": scale.data,
            "optimizer": optimizer.state_dict(),
        },
        path=path,
        resume=resume,
    )
