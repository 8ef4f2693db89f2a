"""Step ``flow``: train a second UNet on the same latents and captions by flow matching.

Rectified flow (arXiv:2209.03003) goes from picture to noise on a straight line, z_t = (1 - t) x_0 + t eps for
t from 0 to 1, and the network learns the direction of the line, u = eps - x_0. Where many lines cross, it
learns their mean, so the paths that it draws bend after all. Its states are those of the denoiser, scaled:
z_t / (1 - t) = x_0 + sigma eps with sigma = t / (1 - t). So it has the same things to learn, asked in other
words, and starts from the denoiser's weights. The text encoder is shared, and stays as it is.
"""

from __future__ import annotations

import torch

from . import export, loop
from .config import Config
from .denoiser import Noised, Process, learn
from .model import Model


def straight(clean: torch.Tensor, noise: torch.Tensor, uniform: torch.Tensor, snr_range: tuple[float, float]) -> Noised:
    """Points on the lines and their directions, at times that favour the middle.

    Times follow a logit-normal (arXiv:2403.03206, section 3.1): both ends are easy to tell, for there the
    direction is nearly the noise or nearly the picture itself. That is all the weighting there is.
    """
    t = torch.special.ndtri(uniform.clamp(1e-4, 1 - 1e-4)).sigmoid()
    mix = t[:, None, None, None]
    return Noised((1 - mix) * clean + mix * noise, t * 1000, noise - clean, torch.ones_like(t))


FLOW = Process("flow.pt", straight, export.flow_scheduler)


def run(config: Config, budget: loop.Budget | None = None) -> None:
    """Train the UNet alone: flow.pt."""
    trained = loop.restore(config.folder / "denoiser.pt")
    if trained is None:
        raise SystemExit(f"First: python -m training denoiser --size {config.size}")
    model = Model(config, export.tokenizer(config))
    model.load_state_dict(trained["ema"])
    model.text.requires_grad_(False)
    learn(config, FLOW, model, budget or loop.Budget(minutes=config.denoiser.flow_minutes))
