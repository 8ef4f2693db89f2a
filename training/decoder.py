"""Step ``decoder``: continue training the autoencoder's decoder; the encoder, and so every latent, stays unchanged.

What the denoiser learns depends on the encoder alone, so this can run beside it or after it. The latents
get a little noise, as drawn ones are never as exact as encoded ones.
"""

from __future__ import annotations

import torch
from torch import nn

from . import autoencoder, latents, loop, scenes
from .config import Config


def trainable(vae: nn.Module) -> list[nn.Parameter]:
    return [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]


def run(config: Config, budget: loop.Budget | None = None) -> None:
    ours, where, path = config.autoencoder, loop.device(), config.folder / "decoder.pt"
    vae = autoencoder.restore(config, "whitened").to(where)
    optimizer = torch.optim.AdamW(trainable(vae), lr=ours.learning_rate, weight_decay=0.0, fused=True)
    if resume := loop.restore(path):
        vae.load_state_dict(resume["vae"])
        optimizer.load_state_dict(resume["optimizer"])
    book = scenes.book(config, where, lambda entry: not autoencoder.held_out_picture(entry))
    first = resume["number"] if resume else 0
    crops, whole = (
        latents.of_scenes(config, vae, first, n, config.seed + 3, 0, book) for n in (ours.crops, ours.batch)
    )

    def batch(number: int, fraction: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents as the denoiser makes them, and their pictures: crops first, then whole ones."""
        images, values, _ = next(crops if fraction < ours.cropped else whole)
        side = ours.crop if fraction < ours.cropped else config.size
        random = loop.generator(config.seed + 3, number, where)
        values = values + ours.latent_noise * torch.randn(values.shape, generator=random, device=where)
        corner = torch.randint((config.size - side) // ours.factor + 1, (2,), generator=loop.generator(3, number))
        y, x = corner.tolist()
        values = values[..., y : y + side // ours.factor, x : x + side // ours.factor]
        y, x = y * ours.factor, x * ours.factor
        return values, images[..., y : y + side, x : x + side]

    def step(number: int, fraction: float) -> dict[str, float]:
        values, images = batch(number, fraction)
        for group in optimizer.param_groups:
            group["lr"] = loop.learning_rate(fraction, ours.learning_rate / 5)  # it starts trained
        with loop.autocast(where):
            loss = autoencoder.reconstruction_loss(vae.decode(values).sample, images)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(trainable(vae), 1.0)
        optimizer.step()
        return {"loss": loss.detach()}

    loop.train(
        budget=budget or loop.Budget(minutes=ours.decoder_minutes),
        step=step,
        state=lambda: {"vae": vae.state_dict(), "optimizer": optimizer.state_dict()},
        path=path,
        resume=resume,
    )
