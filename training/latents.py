"""Step ``latents``: give the latents unit variance; and the latents of scenes, on which all later steps train."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import torch
from diffusers import AutoencoderKL

from . import autoencoder, canvas, export, loop, scenes
from .config import Config

WHITENED_BY = 64  # batches of scenes
COUNT = 64  # scenes in each

#: Pictures (n, 3, s, s), their latents (n, channels, side, side), and what was drawn.
Shown = Iterator[tuple[torch.Tensor, torch.Tensor, scenes.Batch]]


def drawn(
    config: Config,
    where: torch.device,
    first: int,
    count: int,
    seed: int,
    drop_prompt: float = 0.0,
    book: scenes.Book | None = None,
) -> Iterator[tuple[torch.Tensor, scenes.Batch]]:
    """Pictures of batches of ``count`` scenes on a device, from number ``first`` on, and what they show.

    In single precision whatever the networks compute in: half of it would place a thing to whole pixels.
    """
    pictures, *_ = scenes.pictures(config, where)
    batches = scenes.Batches(book or scenes.book(config, where), export.tokenizer(config), count, seed, drop_prompt)
    for batch in batches.since(first, where):
        batch = scenes.on(where, batch)
        with torch.no_grad():
            images = canvas.draw(pictures, batch.grounds, batch.layers)
        yield images.contiguous(memory_format=torch.channels_last), batch


def of_scenes(
    config: Config,
    vae: AutoencoderKL,
    first: int,
    count: int,
    seed: int,
    drop_prompt: float = 0.0,
    book: scenes.Book | None = None,
) -> Shown:
    """As `drawn`, on the device of ``vae``, with the latents that it makes of the pictures."""
    where = next(vae.parameters()).device
    for images, batch in drawn(config, where, first, count, seed, drop_prompt, book):
        with torch.no_grad(), loop.autocast(where):
            # The mean alone: the posterior's own noise is far below what the denoiser is trained to remove.
            values = vae.encode(images).latent_dist.mean.float()
        yield images, values, batch


@torch.no_grad()
def whiten(config: Config, vae: AutoencoderKL) -> None:
    """Fold what gives the latents of scenes unit variance into ``vae``, and write it: whitened.pt."""
    shown = islice(of_scenes(config, vae, 0, COUNT, config.seed + 9), WHITENED_BY)
    autoencoder.whiten(vae, torch.cat([values.cpu() for _, values, _ in shown]))
    loop.save(config.folder / "whitened.pt", {"vae": vae.state_dict()})


def run(config: Config) -> None:
    """Write whitened.pt, from what step ``autoencoder`` has trained."""
    vae = autoencoder.restore(config, "autoencoder").to(loop.device()).eval()
    if (config.folder / "autoencoder.pt").exists():
        whiten(config, vae)
    else:  # a published one has been whitened, and UNets know its latents
        loop.save(config.folder / "whitened.pt", {"vae": vae.state_dict()})
