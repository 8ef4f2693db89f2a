"""Step ``denoiser``: train a UNet to predict the noise in a latent from its caption.

The forward process mixes a latent with Gaussian noise, x_t = alpha_t x_0 + sigma_t eps (DDPM,
arXiv:2006.11239); the network sees x_t, t and the caption and predicts eps. A tenth of the captions is
emptied, so that one network also learns the noise of pictures in general, and sampling can push away
from it: classifier-free guidance (arXiv:2207.12598). The text encoder learns along.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from diffusers import SchedulerMixin, UNet2DConditionModel
from torch import nn

from . import autoencoder, export, latents, loop, text
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
    learned = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in learned if p not in shared], "pace": 1.0},
        {"params": [p for p in learned if p in shared], "pace": ours.shared_pace},
    ]
    return torch.optim.AdamW(groups, ours.learning_rate, betas=(0.9, 0.99), weight_decay=ours.weight_decay, fused=True)


class Noised(NamedTuple):
    """Input and target of the network for a batch of n latents."""

    noisy: torch.Tensor  # (n, channels, side, side)
    time: torch.Tensor  # (n,), 0 to 1000
    target: torch.Tensor  # as ``noisy``
    weights: torch.Tensor  # (n,), of each sample in the loss


def alphas_cumprod(steps: int = 1000) -> torch.Tensor:
    """Stable Diffusion's schedule: alpha_t^2 of the forward process, shape (steps,); fixed, not learned."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, steps, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, dim=0).float()


def noised(clean: torch.Tensor, noise: torch.Tensor, uniform: torch.Tensor, snr_range: tuple[float, float]) -> Noised:
    """The forward process at times drawn by ``uniform`` in [0, 1), weighted clamp(snr, low, high) / snr.

    The upper bound is min-SNR (arXiv:2303.09556): it keeps the nearly clean samples, where telling the noise
    is hard and useless, from drowning the rest. The lower one is the truncated SNR of arXiv:2202.00512: where
    nearly all is noise, telling the noise is easy and worth little by itself, but what little is left to tell
    is what the picture will be of.
    """
    alphas = alphas_cumprod().to(clean.device)
    # A uniform number just below 1 may be rounded to it on its way here.
    time = (uniform * len(alphas)).long().clamp(max=len(alphas) - 1)
    square = alphas[time][:, None, None, None]
    snr = alphas[time] / (1 - alphas[time])
    noisy = square.sqrt() * clean + (1 - square).sqrt() * noise
    return Noised(noisy, time, noise, snr.clamp(*snr_range) / snr)


@dataclass(frozen=True)
class Process:
    """A forward process from latents to noise, and the scheduler that samples with a network trained on it."""

    file: str
    noised: Callable[[torch.Tensor, torch.Tensor, torch.Tensor, tuple[float, float]], Noised]
    scheduler: Callable[[], SchedulerMixin]


DIFFUSION = Process("denoiser.pt", noised, export.scheduler)


@torch.no_grad()
def go_on_from(unet: UNet2DConditionModel, published: UNet2DConditionModel) -> None:
    """Load the weights of a published UNet, also of one with cross-attention at fewer levels or with fewer channels.

    An attention or a channel that is new here adds nothing at first, so the network begins as the published one.
    """
    ours, theirs = unet.state_dict(), published.state_dict()
    for key in ("conv_in.weight", "conv_out.weight", "conv_out.bias"):
        wider = torch.zeros_like(ours[key])
        old = theirs[key]
        if any(new < there for new, there in zip(wider.shape, old.shape, strict=True)):
            continue
        wider[tuple(slice(size) for size in old.shape)] = old
        theirs[key] = wider
    wrong = [key for key, value in theirs.items() if key not in ours or ours[key].shape != value.shape]
    missing = [key for key in ours if key not in theirs]
    if wrong or any(".attentions." not in key for key in missing):
        raise SystemExit(f"The UNet to go on from has another shape: it lacks {missing[:3]} or adds {wrong[:3]}.")
    unet.load_state_dict(theirs, strict=False)
    for key, value in unet.named_parameters():
        if key in missing and ".proj_out." in key:
            value.zero_()


def update_average(average: list[torch.Tensor], current: list[torch.Tensor], decay: float) -> None:
    """Exponential moving average of the weights, in place: samples are drawn from it."""
    torch._foreach_lerp_(average, current, 1 - decay)


def run(config: Config, budget: loop.Budget | None = None) -> None:
    """Train the UNet and the text encoder: denoiser.pt."""
    tokenizer = export.tokenizer(config)
    torch.manual_seed(config.seed)
    model = Model(config, tokenizer, text.restore(config, tokenizer))
    if config.start:
        go_on_from(model.unet, UNet2DConditionModel.from_pretrained(config.start / "unet"))
    learn(config, DIFFUSION, model, budget, fresh=not config.start)


def learn(
    config: Config, process: Process, model: Model, budget: loop.Budget | None = None, fresh: bool = False
) -> None:
    """Train the parameters of ``model`` that require a gradient to undo ``process``; resumes from its file."""
    ours, where, path = config.denoiser, loop.device(), config.folder / process.file
    model = model.to(where)
    if where.type == "cpu":
        model.plain_attention()
    else:
        model.unet.compile()
    optimizer = optimizer_for(model, config)
    vae = autoencoder.restore(config).to(where, memory_format=torch.channels_last).eval()

    def shown_from(first: int, count: int) -> latents.Shown:
        return latents.of_scenes(config, vae, first, count, config.seed, ours.drop_prompt)

    if resume := loop.restore(path):
        model.load_state_dict(resume["model"])
        optimizer.load_state_dict(resume["optimizer"])
    elif fresh:
        centre_words(model, next(shown_from(0, 8 * ours.batch))[2].tokens)
    weights = model.state_dict()
    average = {key: value.to(where, copy=True) for key, value in (resume["ema"] if resume else weights).items()}
    averaged, current = list(average.values()), [weights[key] for key in average]
    learned = [p for p in model.parameters() if p.requires_grad]
    coming = shown_from(resume["number"] if resume else 0, ours.batch // ours.shown)

    def step(number: int, fraction: float) -> dict[str, torch.Tensor | float]:
        rate = loop.learning_rate(fraction, ours.learning_rate, ours.warmup)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["pace"]
        _, clean, scenes = next(coming)
        clean, tokens = clean.repeat(ours.shown, 1, 1, 1), scenes.tokens.repeat(ours.shown, 1)
        random = loop.generator(config.seed, number, where)
        noise = torch.randn(clean.shape, generator=random, device=where)
        # One draw in each of n equal parts of [0, 1): every batch covers all times, so losses jump less.
        spread = torch.rand(len(clean), generator=random, device=where)
        uniform = (torch.arange(len(clean), device=where) + spread) / len(clean)
        shown = process.noised(clean, noise, uniform, ours.snr_range)
        with loop.autocast(where):
            output = model(shown.noisy, shown.time, tokens)
        error = (output.float() - shown.target).square().mean(dim=(1, 2, 3))
        loss = (error * shown.weights).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(learned, ours.clip_norm)
        optimizer.step()
        # Short at first, or the average would hold on to the random beginning.
        decay = min(ours.ema_decay, (1 + number) / (10 + number))
        update_average(averaged, current, decay)
        return {"loss": loss.detach(), "error": error.detach().mean(), "norm": norm.detach(), "rate": rate}

    loop.train(
        budget=budget or loop.Budget(minutes=ours.minutes),
        step=step,
        state=lambda: {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "ema": average},
        path=path,
        resume=resume,
        sample=lambda: sample(config, process, average),
    )


PROMPTS = (
    "red apple on a white background",
    "rocket",
    "cat face on a blue background",
    "pizza on a yellow background",
    "noto style red heart",
    "penguin, 3d style",
    "house on a pink background",
    "sunflower",
)
STEPS = 20  # of the pictures of these


@torch.no_grad()
def sample(config: Config, process: Process, weights: dict) -> None:
    """Save pictures of the averaged weights for a few prompts beside the checkpoint, to monitor the training."""
    known = any((config.folder / f"{name}.pt").exists() for name in ("decoder", "whitened", "autoencoder"))
    if not known and not config.start:
        return
    tokenizer = export.tokenizer(config)
    vae, model = autoencoder.restore(config), Model(config, tokenizer)
    model.load_state_dict({key: value.cpu() for key, value in weights.items()})
    pipe = export.pipeline(vae, model.text, model.unet, tokenizer, process.scheduler()).to(loop.device())
    pipe.set_progress_bar_config(disable=True)
    random = [torch.Generator().manual_seed(seed) for seed in range(len(PROMPTS))]
    images = pipe(
        list(PROMPTS), num_inference_steps=STEPS, guidance_scale=5.0, generator=random, output_type="pt"
    ).images
    sheet = (config.folder / process.file).with_suffix(".png")
    loop.contact_sheet(sheet, images.cpu().float() * 2 - 1)
