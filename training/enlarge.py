"""Step ``enlarge``: an autoencoder of larger pictures around the latents of a published one, and more of them.

Two more levels go around the autoencoder that the UNets know: 16x16 latents become 256 pixels instead of 64. The first
channels stay what they are, so that a UNet goes on from what it knows; channels that are added carry what these
leave out.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from torch import nn
from torch.nn import functional

from . import autoencoder, latents, loop, scenes
from .config import Config

ANCHOR = 0.3  # weight of the squared distance of the first channels from the published latents
SPREAD = 0.1  # weight of what keeps the added channels near unit variance
LOG_VARIANCE = -8.0  # of the posterior: the latents of a picture are told apart by far more than that


def grow(config: Config, small: AutoencoderKL) -> AutoencoderKL:
    """An autoencoder of ``config`` whose inner levels start with the weights of the smaller one.

    Levels count from the picture in the encoder and from the latents in the decoder, so only the encoder's move. Added
    channels start at random in the encoder, and unheard by the decoder.
    """
    vae = autoencoder.build(config)
    more = len(vae.encoder.down_blocks) - len(small.encoder.down_blocks)
    wanted, old, new = vae.state_dict(), small.config.latent_channels, config.autoencoder.latent_channels
    # Where the published latents are among ours, and among a posterior's means and, after them, log-variances.
    latents = list(range(old))
    moments = [*latents, *range(new, new + old)]
    for name, value in small.state_dict().items():
        if name.startswith("encoder.down_blocks."):
            level, rest = name.removeprefix("encoder.down_blocks.").split(".", 1)
            name = f"encoder.down_blocks.{int(level) + more}.{rest}"
        if name not in wanted:
            continue
        ours, layer = wanted[name], name.rsplit(".", 1)[0]
        rows = {"encoder.conv_out": moments, "quant_conv": moments, "post_quant_conv": latents}.get(layer)
        columns = {"quant_conv": moments, "post_quant_conv": latents, "decoder.conv_in": latents}.get(layer)
        rows = range(len(value)) if rows is None else rows
        if columns is not None and value.dim() > 1:
            ours[list(rows)] = 0.0
            ours[torch.tensor(list(rows))[:, None], torch.tensor(columns)] = value
        elif value.shape[1:] == ours.shape[1:] and len(rows) == len(value) <= len(ours):
            ours[list(rows)] = value
    wanted["quant_conv.weight"][new:], wanted["quant_conv.bias"][new:] = 0.0, LOG_VARIANCE
    vae.load_state_dict(wanted)
    return vae


def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """`autoencoder.reconstruction_loss` with differences at three scales: edges are wider than a pixel here."""
    total = autoencoder.reconstruction_loss(output, target)
    for scale in (2, 4):
        total = total + autoencoder.edge_loss(functional.avg_pool2d(output - target, scale))
    return total


def spread(values: torch.Tensor) -> torch.Tensor:
    """How far channels (n, c, h, w) are from mean 0 and variance 1."""
    if not values.shape[1]:
        return values.new_zeros(())
    flat = values.movedim(1, 0).flatten(1)
    return (flat.mean(1).square() + (flat.var(1) - 1).square()).mean()


class Larger(nn.Module):
    """The forward pass of a step, as one thing to compile."""

    def __init__(self, vae: AutoencoderKL, known: int, noise: float) -> None:
        super().__init__()
        self.vae, self.known, self.noise = vae, known, noise

    def forward(self, images: torch.Tensor, known: torch.Tensor, noise: torch.Tensor):
        values = self.vae.encode(images).latent_dist.mean
        output = self.vae.decode(values + self.noise * noise).sample
        near = (values[:, : self.known] - known).square().mean()
        return loss(output, images), near, spread(values[:, self.known :].float())


def run(config: Config, budget: loop.Budget | None = None) -> None:
    """Write enlarged.pt, the larger autoencoder, and whitened.pt, which gives its latents unit variance."""
    ours, where, path = config.autoencoder, loop.device(), config.folder / "enlarged.pt"
    if not config.start:
        raise SystemExit("enlarge goes on from a published model: add --start weights/emoji")
    small = AutoencoderKL.from_pretrained(config.start / "vae").to(where).eval()
    fewer = 2 ** (len(small.config.block_out_channels) - 1)
    kept = small.config.latent_channels
    shrink = ours.factor // fewer

    torch.manual_seed(config.seed)
    vae = grow(config, small).to(where, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=ours.learning_rate, weight_decay=0.0, fused=True)
    if resume := loop.restore(path):
        vae.load_state_dict(resume["vae"])
        optimizer.load_state_dict(resume["optimizer"])
    forward = Larger(vae, kept, ours.latent_noise)
    if where.type == "cuda":
        forward.compile()
    book = scenes.book(config, where, lambda entry: not autoencoder.held_out_picture(entry))
    first = resume["number"] if resume else 0
    coming = latents.drawn(config, where, first, ours.batch, config.seed + 5, book=book)

    def step(number: int, fraction: float) -> dict[str, torch.Tensor]:
        images, _ = next(coming)
        with torch.no_grad(), loop.autocast(where):
            known = small.encode(functional.avg_pool2d(images, shrink)).latent_dist.mean.float()
        noise = torch.randn(
            len(images),
            ours.latent_channels,
            *known.shape[2:],
            generator=loop.generator(config.seed + 6, number, where),
            device=where,
        )
        for group in optimizer.param_groups:
            group["lr"] = loop.learning_rate(fraction, ours.learning_rate)
        with loop.autocast(where):
            drawn, near, wide = forward(images, known, noise)
        optimizer.zero_grad(set_to_none=True)
        (drawn + ANCHOR * near + SPREAD * wide).backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        return {"drawn": drawn.detach(), "near": near.detach(), "spread": wide.detach()}

    held = scenes.book(config, where, autoencoder.held_out_picture)
    shown, _ = next(latents.drawn(config, where, 0, 16, config.seed + 7, book=held))

    @torch.no_grad()
    def sample() -> None:
        output = vae.decode(vae.encode(shown).latent_dist.mean).sample
        loop.contact_sheet(config.folder / "enlarged.png", torch.cat([shown, output]).cpu())

    loop.train(
        budget=budget or loop.Budget(minutes=ours.minutes),
        step=step,
        state=lambda: {"vae": vae.state_dict(), "optimizer": optimizer.state_dict()},
        path=path,
        resume=resume,
        sample=sample,
    )
    latents.whiten(config, vae.eval())
