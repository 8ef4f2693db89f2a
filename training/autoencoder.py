"""Step ``autoencoder``: pictures to a small latent grid and back (latent diffusion, arXiv:2112.10752).

The denoiser then works on 16x16 numbers instead of 64x64 pixels. A faint KL term (arXiv:1312.6114)
keeps the latents near a Gaussian; it is far too weak to make the autoencoder generate by itself.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import nn
from torch.nn import functional

from . import data, loop
from .captions import COLOURS
from .config import Config


def build(config: Config) -> AutoencoderKL:
    ours = config.autoencoder
    levels = len(ours.widths)
    return AutoencoderKL(
        block_out_channels=ours.widths,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        latent_channels=ours.latent_channels,
        layers_per_block=1,
        norm_num_groups=8,
        mid_block_add_attention=False,
        scaling_factor=1.0,  # the latents are whitened, which is more
        sample_size=config.size,
    )


def restore(config: Config, *files: str) -> AutoencoderKL:
    """Load the trained autoencoder from the last step that changed it, or from the first of these files that exists.

    Where there is none, the published one that the training starts from.
    """
    files = files or ("decoder", "whitened", "autoencoder")
    state = next((restored for name in files if (restored := loop.restore(config.folder / f"{name}.pt"))), None)
    if state is None and config.start:
        return AutoencoderKL.from_pretrained(config.start / "vae")
    if state is None:
        raise SystemExit(f"First: python -m training autoencoder --size {config.size}")
    vae = build(config)
    vae.load_state_dict(state["vae"])
    return vae


@torch.no_grad()
def whiten(vae: AutoencoderKL, values: torch.Tensor) -> None:
    """Fold a linear map into the 1x1 convolutions around the latent; latents (n, c, h, w) get mean 0, covariance 1.

    What pictures look like afterwards is the same to rounding. Left as training made them, one channel can outweigh
    the others tenfold; the noise then hides those long before it, and the denoiser learns them last.
    """
    flat = values.double().movedim(1, 0).flatten(1)
    mean = flat.mean(1)
    deviations, axes = torch.linalg.eigh(torch.cov(flat))
    there = axes @ torch.diag(deviations.rsqrt()) @ axes.T
    back = axes @ torch.diag(deviations.sqrt()) @ axes.T
    count, enter, leave = len(mean), vae.quant_conv, vae.post_quant_conv
    weight, bias = enter.weight.double(), enter.bias.double()
    weight[:count] = torch.einsum("ij,jkyx->ikyx", there, weight[:count])
    bias[:count] = there @ (bias[:count] - mean)
    bias[count:] += (
        2 * there.diagonal().log()
    )  # the posterior's log-variance, for the channel that it is mostly made of
    leave_weight = leave.weight.double()
    leave_bias = leave.bias.double() + leave_weight[:, :, 0, 0] @ mean
    for parameter, value in (
        (enter.weight, weight),
        (enter.bias, bias),
        (leave.weight, torch.einsum("ijyx,jk->ikyx", leave_weight, back)),
        (leave.bias, leave_bias),
    ):
        parameter.copy_(value)


def composite(rgba: np.ndarray, grounds: np.ndarray) -> torch.Tensor:
    """Straight RGBA (n, s, s, 4) uint8 on one sRGB colour each (n, 3): (n, 3, s, s) float in [-1, 1]."""
    pixels = torch.from_numpy(np.ascontiguousarray(rgba)).float().permute(0, 3, 1, 2) / 255
    ground = torch.from_numpy(np.asarray(grounds, dtype=np.float32) / 255)[:, :, None, None]
    alpha = pixels[:, 3:]
    return (pixels[:, :3] * alpha + ground * (1 - alpha)) * 2 - 1


def held_out_picture(entry: dict) -> bool:
    """One picture in fifty is kept from the autoencoder, to measure it on pictures it has never seen."""
    return int(hashlib.sha256(f"{entry['name']}|{entry['style']}".encode()).hexdigest(), 16) % 50 == 0


def reconstruction_loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """L1 on pixels, their differences and their means of 8 x 8, for pictures (n, 3, h, w).

    Emoji are flat areas with edges: L1 alone blurs the edges, and the edges alone forget the areas' colours.
    """
    error = output - target
    coarse = functional.avg_pool2d(error, 8)
    return error.abs().mean() + edge_loss(error) + 2 * coarse.abs().mean()


def edge_loss(error: torch.Tensor) -> torch.Tensor:
    """L1 on the differences of neighbours, down and across, of an error (n, 3, h, w)."""
    down, across = error[..., 1:, :] - error[..., :-1, :], error[..., 1:] - error[..., :-1]
    return (down.abs().mean() + across.abs().mean()) / 2


def colour_loss(probe: nn.Conv2d, latent: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Squared error of the coarse picture that a linear map makes of the latent.

    Without it, training stays for long on two axes of colour, green and purple both a dark grey: under
    L1 the middle of two colours is as good as either. It also makes the latents easy to preview.
    """
    return (probe(latent) - functional.interpolate(target, latent.shape[-2:], mode="area")).square().mean()


def batch(pictures: np.ndarray, rows: np.ndarray, size: int, side: int, random: torch.Generator) -> torch.Tensor:
    """Squares of ``side`` pixels out of random pictures on random grounds, (size, 3, side, side).

    Every other one is mirrored, which is a picture as good as any.
    """
    chosen = rows[torch.randint(len(rows), (size,), generator=random).numpy()]
    colours = np.array(list(COLOURS.values()))
    grounds = colours[torch.randint(len(colours), (size,), generator=random).numpy()]
    images = composite(pictures[chosen], grounds)
    corners = torch.randint(images.shape[-1] - side + 1, (size, 2), generator=random).tolist()
    images = torch.stack([i[:, y : y + side, x : x + side] for i, (y, x) in zip(images, corners, strict=True)])
    mirrored = torch.rand(size, generator=random) < 0.5
    images[mirrored] = images[mirrored].flip(-1)
    return images


def run(config: Config, budget: loop.Budget | None = None) -> None:
    ours, where = config.autoencoder, loop.device()
    pictures, entries = data.load(config)
    rows = np.array([i for i, entry in enumerate(entries) if not held_out_picture(entry)])
    shown = np.array([i for i, entry in enumerate(entries) if held_out_picture(entry)][:32])
    path = config.folder / "autoencoder.pt"

    torch.manual_seed(config.seed)
    vae = build(config).to(where)
    probe = nn.Conv2d(ours.latent_channels, 3, 1).to(where)
    parameters = [*vae.parameters(), *probe.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=ours.learning_rate, weight_decay=0.0, fused=True)
    if resume := loop.restore(path):
        vae.load_state_dict(resume["vae"])
        probe.load_state_dict(resume["probe"])
        optimizer.load_state_dict(resume["optimizer"])
    elif config.start:
        vae.load_state_dict(AutoencoderKL.from_pretrained(config.start / "vae").state_dict())

    def forward(images: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        posterior = vae.encode(images).latent_dist
        output = vae.decode(posterior.mean + posterior.std * noise).sample
        loss = reconstruction_loss(output, images) + ours.colour * colour_loss(probe, posterior.mean, images)
        return loss, posterior.kl().mean()

    if where.type == "cuda":
        forward = torch.compile(forward)

    def step(number: int, fraction: float) -> dict[str, float]:
        random = loop.generator(config.seed, number)
        count, side = (ours.crops, ours.crop) if fraction < ours.cropped else (ours.batch, config.size)
        images = batch(pictures, rows, count, side, random).to(where)
        side //= ours.factor
        noise = torch.randn(count, ours.latent_channels, side, side, generator=random).to(where)
        for group in optimizer.param_groups:
            group["lr"] = loop.learning_rate(fraction, ours.learning_rate)
        with loop.autocast(where):
            loss, kl = forward(images, noise)
        optimizer.zero_grad(set_to_none=True)
        (loss + ours.kl * kl).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        return {"loss": loss.item(), "kl": kl.item()}

    @torch.no_grad()
    def sample() -> None:
        images = composite(pictures[shown], np.full((len(shown), 3), 255)).to(where)
        output = vae.decode(vae.encode(images).latent_dist.mean).sample
        loop.contact_sheet(config.folder / "autoencoder.png", torch.cat([images, output]).cpu().float())

    loop.train(
        budget=budget or loop.Budget(minutes=ours.minutes),
        step=step,
        state=lambda: {"vae": vae.state_dict(), "probe": probe.state_dict(), "optimizer": optimizer.state_dict()},
        path=path,
        resume=resume,
        sample=sample,
    )
