"""Step ``enlarge``: an autoencoder of larger pictures with the same latents, so that UNets draw them as they are.

Two more levels go around the autoencoder that the UNets know: its 16x16 latents become 256 pixels instead of 64. The
decoder learns to draw the vector sets as they are rendered at the larger size, the encoder to give the same latents.
"""

from __future__ import annotations

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import nn
from torch.nn import functional

from . import autoencoder, data, loop
from .captions import COLOURS
from .config import Config, preset
from .decoder import trainable
from .latents import side_by_side


def grow(config: Config, small: AutoencoderKL) -> AutoencoderKL:
    """An autoencoder of ``config`` whose inner levels start with the weights of the smaller one.

    Levels count from the picture in the encoder and from the latents in the decoder, so only the encoder's move.
    """
    vae = autoencoder.build(config)
    more = len(vae.encoder.down_blocks) - len(small.encoder.down_blocks)
    wanted, moved = vae.state_dict(), {}
    for name, value in small.state_dict().items():
        if name.startswith("encoder.down_blocks."):
            level, rest = name.removeprefix("encoder.down_blocks.").split(".", 1)
            name = f"encoder.down_blocks.{int(level) + more}.{rest}"
        if name in wanted and wanted[name].shape == value.shape:
            moved[name] = value
    vae.load_state_dict(moved, strict=False)
    return vae


def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """`autoencoder.reconstruction_loss` with differences at three scales: edges are wider than a pixel here."""
    total = autoencoder.reconstruction_loss(output, target)
    for scale in (2, 4):
        total = total + autoencoder.edge_loss(functional.avg_pool2d(output - target, scale))
    return total


class Pairs:
    """Random pictures in both sizes, on random grounds, every other one mirrored; one in eight shows two things.

    Both renderings have to come from the same packages.
    """

    def __init__(self, large: Config, small: Config, held_out: bool = False):
        self.large, self.entries = data.load(large)
        self.small, others = data.load(small)
        if others != self.entries:
            raise SystemExit(f"{large.folder} and {small.folder} hold different pictures; run their data steps again")
        self.rows = [i for i, entry in enumerate(self.entries) if autoencoder.held_out_picture(entry) == held_out]

    def draw(self, count: int, random: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """(count, 3, large, large) and (count, 3, small, small), in [-1, 1]."""

        def pick(choices: int) -> int:
            return int(torch.randint(choices, (), generator=random))

        larges, smalls, grounds = [], [], []
        colours = list(COLOURS.values())
        for _ in range(count):
            one, other = self.rows[pick(len(self.rows))], self.rows[pick(len(self.rows))]
            large, small = self.large[one], self.small[one]
            if pick(8) == 0:
                large, small = side_by_side(large, self.large[other]), side_by_side(small, self.small[other])
            turn = slice(None, None, -1 if pick(2) else 1)
            larges.append(large[:, turn])
            smalls.append(small[:, turn])
            grounds.append(colours[pick(len(colours))] if pick(2) else (255, 255, 255))
        return tuple(autoencoder.composite(np.stack(each), np.array(grounds)) for each in (larges, smalls))


def run(config: Config, budget: loop.Budget | None = None, small_config: Config | None = None) -> None:
    """Write enlarged.pt: the larger autoencoder, which export puts into the folder of the model with these latents.

    small_config  of the autoencoder that has the latents, by default the preset of 64 pixels
    """
    ours, where = config.autoencoder, loop.device()
    small_config = small_config or preset(64, seed=config.seed, work=config.work, start=config.start)
    pairs, small = Pairs(config, small_config), autoencoder.restore(small_config).to(where).eval()
    path = config.folder / "enlarged.pt"

    torch.manual_seed(config.seed)
    vae = grow(config, small).to(where, memory_format=torch.channels_last)
    encoder = [*vae.encoder.parameters(), *vae.quant_conv.parameters()]
    decoder = trainable(vae)
    optimizer = torch.optim.AdamW([*encoder, *decoder], lr=ours.learning_rate, weight_decay=0.0, fused=True)
    if resume := loop.restore(path):
        vae.load_state_dict(resume["vae"])
        optimizer.load_state_dict(resume["optimizer"])

    def batch(number: int, fraction: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Pictures of both sizes and the latents of the small ones: the same square of each."""
        random = loop.generator(config.seed + 5, number)
        count, side = (ours.crops, ours.crop) if fraction < ours.cropped else (ours.batch, config.size)
        large, shrunk = pairs.draw(count, random)
        with torch.no_grad():
            known = small.encode(shrunk.to(where)).latent_dist.mean
        y, x = torch.randint((config.size - side) // ours.factor + 1, (2,), generator=random).tolist()
        side //= ours.factor

        def square(images: torch.Tensor, factor: int) -> torch.Tensor:
            top, left, width = y * factor, x * factor, side * factor
            return images[..., top : top + width, left : left + width].to(where, memory_format=torch.channels_last)

        return square(large, ours.factor), square(shrunk, small_config.autoencoder.factor), square(known, 1)

    def decode(images: torch.Tensor, known: torch.Tensor, random: torch.Generator) -> torch.Tensor:
        values = known + ours.latent_noise * torch.randn(known.shape, generator=random).to(where)
        return loss(vae.decode(values).sample, images)

    def encode(images: torch.Tensor, shrunk: torch.Tensor) -> torch.Tensor:
        # Of the square alone: an encoder's normalization sees what it is given.
        with torch.no_grad():
            known = small.encode(shrunk).latent_dist.mean
        return (vae.encode(images).latent_dist.mean - known).square().mean()

    def step(number: int, fraction: float) -> dict[str, float]:
        images, shrunk, known = batch(number, fraction)
        name, parameters = ("encoder", encoder) if number % 4 == 3 else ("decoder", decoder)
        for group in optimizer.param_groups:
            group["lr"] = loop.learning_rate(fraction, ours.learning_rate)
        with loop.autocast(where):
            random = loop.generator(config.seed + 6, number)
            total = encode(images, shrunk) if name == "encoder" else decode(images, known, random)
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        return {name: total.item()}

    shown = Pairs(config, small_config, held_out=True).draw(16, loop.generator(config.seed + 7, 0))

    @torch.no_grad()
    def sample() -> None:
        known = small.encode(shown[1].to(where)).latent_dist.mean
        output = vae.decode(known).sample.cpu()
        loop.contact_sheet(config.folder / "enlarged.png", torch.cat([shown[0], output]))

    loop.train(
        budget=budget or loop.Budget(minutes=ours.minutes),
        step=step,
        state=lambda: {"vae": vae.state_dict(), "optimizer": optimizer.state_dict()},
        path=path,
        resume=resume,
        sample=sample,
    )
