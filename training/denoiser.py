"""Step ``denoiser``: teach a UNet to tell the noise in a noisy latent, with words to help it.

The forward process mixes a latent with Gaussian noise, x_t = alpha_t x_0 + sigma_t eps (DDPM,
arXiv:2006.11239); the network sees x_t, t and the caption and predicts eps. A tenth of the captions is
emptied, so that one network also learns the noise of pictures in general, and sampling can push away
from it: classifier-free guidance (arXiv:2207.12598). The text encoder learns along.
"""

from __future__ import annotations

import random

import torch
from diffusers import UNet2DConditionModel
from torch import nn
from transformers import CLIPTokenizer

from . import autoencoder, latents, loop, text
from .captions import tokenize
from .config import Config
from .model import Model, centre_words


def optimizer_for(model: Model, config: Config) -> torch.optim.Optimizer:
    """AdamW (arXiv:1711.05101), slower where all words share a path into the UNet.

    Early on every word is noise to the UNet, and at full pace the shared layers learn within a hundred
    steps to let none of it through; names would then have to be learned through a closed door. The words'
    own embeddings are free of that: each is moved by the captions it stands in alone.
    """
    ours = config.denoiser
    shared = {*model.text.parameters(), *model.unet.add_embedding.parameters()} - {
        model.text.get_input_embeddings().weight
    }
    groups = [
        {"params": [p for p in model.parameters() if p not in shared], "pace": 1.0},
        {"params": [p for p in model.parameters() if p in shared], "pace": ours.shared_pace},
    ]
    return torch.optim.AdamW(groups, ours.learning_rate, betas=(0.9, 0.99), weight_decay=ours.weight_decay, fused=True)


def alphas_cumprod(steps: int = 1000) -> torch.Tensor:
    """Stable Diffusion's schedule: alpha_t^2 of the forward process, shape (steps,); fixed, not learned."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, steps, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, dim=0).float()


def objective(
    kind: str, clean: torch.Tensor, noise: torch.Tensor, uniform: torch.Tensor, snr_range: tuple[float, float]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noisy latents, their times, the target and the weight of each sample, from ``uniform`` in [0, 1).

    ``eps``: the noise, weighted clamp(snr, low, high) / snr. The upper bound is min-SNR (arXiv:2303.09556):
    it keeps the nearly clean samples, where telling the noise is hard and useless, from drowning the rest.
    The lower one is the truncated SNR of arXiv:2202.00512: where nearly all is noise, telling the noise is
    easy and worth little by itself, but what little is left to tell is what the picture will be of.
    ``flow``: the straight line from picture to noise, x_t = (1 - t) x_0 + t eps, and its direction
    (rectified flow, arXiv:2209.03003), with t drawn from a logit-normal (arXiv:2403.03206).
    """
    if kind == "flow":
        t = torch.special.ndtri(uniform.clamp(1e-4, 1 - 1e-4)).sigmoid()
        mix = t[:, None, None, None]
        return (1 - mix) * clean + mix * noise, t * 1000, noise - clean, torch.ones_like(t)
    alphas = alphas_cumprod().to(clean.device)
    time = (uniform * len(alphas)).long()
    square = alphas[time][:, None, None, None]
    snr = alphas[time] / (1 - alphas[time])
    return square.sqrt() * clean + (1 - square).sqrt() * noise, time, noise, snr.clamp(*snr_range) / snr


def update_average(average: dict[str, torch.Tensor], model: nn.Module, decay: float) -> None:
    """Exponential moving average of the weights, in place: samples are drawn from it."""
    current = model.state_dict()
    torch._foreach_lerp_(list(average.values()), [current[key] for key in average], 1 - decay)


def run(config: Config, budget: loop.Budget | None = None, known: latents.Latents | None = None) -> None:
    ours, where = config.denoiser, loop.device()
    known = known or latents.load(config)
    tokenizer = CLIPTokenizer.from_pretrained(config.folder / "tokenizer")
    path = config.folder / "denoiser.pt"

    torch.manual_seed(config.seed)
    model = Model(config, tokenizer, text.restore(config, tokenizer)).to(where)
    optimizer = optimizer_for(model, config)

    def batch(number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents (batch, 4, side, side) and the tokens of their captions."""
        rng = random.Random(config.seed * 1_000_003 + number)
        drawn = latents.draw(known, ours.batch, rng.getrandbits(63), ours.white, ours.two)
        texts = ["" if rng.random() < ours.drop_prompt else text for text in latents.describe(known, drawn, rng)]
        return known.values[[row for row, _, _ in drawn]].to(where), tokenize(tokenizer, texts).to(where)

    if resume := loop.restore(path):
        model.load_state_dict(resume["model"])
        optimizer.load_state_dict(resume["optimizer"])
    elif config.start:
        model.unet.load_state_dict(UNet2DConditionModel.from_pretrained(config.start / "unet").state_dict())
    else:
        centre_words(model, torch.cat([batch(-1 - i)[1] for i in range(8)]))
    start = resume["ema"] if resume else model.state_dict()
    average = {key: value.to(where, copy=True) for key, value in start.items()}
    forward = torch.compile(model) if where.type == "cuda" else model

    def step(number: int, fraction: float) -> dict[str, float]:
        rate = loop.learning_rate(fraction, ours.learning_rate, ours.warmup)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["pace"]
        clean, tokens = batch(number)
        random = loop.generator(config.seed, number)
        noise = torch.randn(clean.shape, generator=random).to(where)
        # One draw in each of n equal parts of [0, 1): every batch covers all times, so losses jump less.
        uniform = (torch.arange(len(clean)) + torch.rand(len(clean), generator=random)) / len(clean)
        noisy, time, target, weights = objective(ours.objective, clean, noise, uniform.to(where), ours.snr_range)
        with loop.autocast(where):
            output = forward(noisy, time, tokens)
        error = (output.float() - target).square().mean(dim=(1, 2, 3))
        loss = (error * weights).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), ours.clip_norm)
        optimizer.step()
        # Short at first, or the average would hold on to the random beginning.
        update_average(average, model, min(ours.ema_decay, (1 + number) / (10 + number)))
        return {"loss": loss.item(), "error": error.mean().item(), "norm": norm.item(), "rate": rate}

    loop.train(
        budget=budget or loop.Budget(minutes=ours.minutes),
        step=step,
        state=lambda: {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "ema": average},
        path=path,
        resume=resume,
        sample=lambda: sample(config, average, tokenizer),
    )


PROMPTS = (
    "red apple on a white background", "rocket", "cat face on a blue background", "pizza on a yellow background",
    "noto style red heart", "penguin, 3d style", "house on a pink background", "sunflower",
)  # fmt: skip


@torch.no_grad()
def sample(config: Config, weights: dict, tokenizer: CLIPTokenizer) -> None:
    """Pictures of the averaged weights for a few prompts, to watch the training by: denoiser.png."""
    if config.denoiser.objective != "eps" or not (config.folder / "autoencoder.pt").exists():
        return
    from .export import pipeline  # only here: export builds its modules with this file

    vae, model = autoencoder.restore(config), Model(config, tokenizer)
    model.load_state_dict({key: value.cpu() for key, value in weights.items()})
    pipe = pipeline(vae, model.text, model.unet, tokenizer).to(loop.device())
    pipe.set_progress_bar_config(disable=True)
    random = [torch.Generator().manual_seed(seed) for seed in range(len(PROMPTS))]
    images = pipe(list(PROMPTS), num_inference_steps=20, guidance_scale=5.0, generator=random, output_type="pt").images
    loop.contact_sheet(config.folder / "denoiser.png", images.cpu().float() * 2 - 1)
