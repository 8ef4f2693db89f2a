"""Step ``evaluate``: one table of what the exported model draws, at 20 steps of DDIM and guidance 5."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline

from . import autoencoder, classifier, data, loop
from .captions import COLOURS, held_out
from .config import Config

NAMES = Path(__file__).with_name("plain_names.txt")
#: A ground is right when the border's mean colour lies this near the asked one, in sRGB, each channel 0 to 255.
GROUND_DISTANCE = 50.0


def draw(pipe: StableDiffusionPipeline, prompts: list[str], steps: int = 20, guidance: float = 5.0) -> torch.Tensor:
    """Pictures (n, 3, s, s) in [-1, 1]; the i-th prompt has seed i."""
    images = []
    for start in range(0, len(prompts), 8):
        chunk = prompts[start : start + 8]
        random = [torch.Generator().manual_seed(start + i) for i in range(len(chunk))]
        kind = {"num_inference_steps": steps, "guidance_scale": guidance, "output_type": "pt"}
        images.append(pipe(chunk, generator=random, **kind).images.cpu().float() * 2 - 1)
    return torch.cat(images)


def border(images: torch.Tensor, width: int = 2) -> torch.Tensor:
    """Mean colour of the outermost pixels, (n, 3), 0 to 255."""
    mask = torch.ones(images.shape[-2:], dtype=torch.bool)
    mask[width:-width, width:-width] = False
    return (images[:, :, mask].mean(-1) + 1) * 127.5


def grounds_right(images: torch.Tensor, colours: list[str]) -> torch.Tensor:
    wanted = torch.tensor([COLOURS[colour] for colour in colours], dtype=torch.float32)
    return (border(images) - wanted).norm(dim=1) < GROUND_DISTANCE


def pairs(names: list[str], seen: bool) -> list[tuple[str, str]]:
    """One coloured ground per name, as the held-out rule calls it seen or unseen; names without one drop out."""
    found = []
    for i, name in enumerate(names):
        colours = [c for c in COLOURS if c != "white" and held_out(name, c) != seen]
        if colours:
            found.append((name, colours[i % len(colours)]))
    return found


@torch.no_grad()
def psnr(vae: AutoencoderKL, images: torch.Tensor) -> float:
    """Peak signal-to-noise ratio in dB of reconstructions, the mean over pictures; both in [-1, 1]."""
    output = torch.cat([vae.decode(vae.encode(part).latent_dist.mean).sample.clamp(-1, 1) for part in images.split(16)])
    error = (output - images).square().mean(dim=(1, 2, 3))
    return (10 * torch.log10(4 / error)).mean().item()


@torch.no_grad()
def run(config: Config, folder: Path) -> None:
    pictures, entries = data.load(config)
    judge, names = classifier.load(config)
    pipe = StableDiffusionPipeline.from_pretrained(folder).to(loop.device())
    pipe.set_progress_bar_config(disable=True)
    rows: list[tuple[str, str]] = []

    random = loop.generator(config.seed + 2, 0)  # augmentations that the judge's training has not drawn
    picked = torch.randint(len(entries), (1000,), generator=random)
    labels = torch.tensor([names.index(entries[i]["name"]) for i in picked])
    rank = classifier.ranks(judge(classifier.augmented(pictures[picked.numpy()], random)), labels)
    rows.append(("judge on unseen augmentations of real pictures, top 1 / top 5", share(rank < 1, rank < 5)))

    plain = NAMES.read_text().split("\n")[:-1]
    images = draw(pipe, [f"{name} on a white background" for name in plain])
    rank = classifier.ranks(judge(images), torch.tensor([names.index(name) for name in plain]))
    rows.append((f"recognized of {len(plain)} plain names, top 1 / top 5", count(rank < 1, rank < 5)))
    rows.append(("white ground right", count(grounds_right(images, ["white"] * len(plain)))))
    loop.contact_sheet(config.folder / "evaluate.png", images)
    recognized = [name for name, place in zip(plain, rank.tolist(), strict=True) if place < 5]

    for seen in (True, False):
        asked = pairs(plain, seen)
        images = draw(pipe, [f"{name} on a {colour} background" for name, colour in asked])
        rank = classifier.ranks(judge(images), torch.tensor([names.index(name) for name, _ in asked]))
        right = grounds_right(images, [colour for _, colour in asked])
        kind = "trained" if seen else "never trained"
        rows.append((f"ground right / and name in top 5, pairs {kind}", count(right, right & (rank < 5))))
        loop.contact_sheet(config.folder / f"evaluate-{kind.replace(' ', '-')}.png", images)

    kept = np.array([i for i, entry in enumerate(entries) if autoencoder.held_out_picture(entry)])
    images = autoencoder.composite(pictures[kept], np.full((len(kept), 3), 255)).to(loop.device())
    rows.append(("autoencoder, PSNR on held-out pictures", f"{psnr(pipe.vae, images):.1f} dB"))

    width = max(len(what) for what, _ in rows)
    print("\n".join(f"{what:{width}}  {figure}" for what, figure in rows))
    print("recognized:", ", ".join(recognized))


def share(*hits: torch.Tensor) -> str:
    return " / ".join(f"{100 * hit.float().mean():.1f} %" for hit in hits)


def count(*hits: torch.Tensor) -> str:
    return " / ".join(str(int(hit.sum())) for hit in hits) + f" of {len(hits[0])}"
