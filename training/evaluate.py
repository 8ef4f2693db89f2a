"""Step ``evaluate``: one table of what the exported models draw, in 20 steps at guidance 5 unless said.

The model draws with DDIM, its flow twin with DPM-Solver++ of second order (arXiv:2211.01095).

The prompts come from plain_names.txt (what a visitor may type first), evaluation_names.txt (200 drawn by a seed among
all names of at most two words that three sets draw) and two rules: ``captions.held_out`` and the order of the lists.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch.nn import functional

from . import augmentation, autoencoder, classifier, data, export, loop
from .captions import COLOURS, STYLES, held_out
from .classifier import Judge
from .config import Config

HERE = Path(__file__).parent
#: A ground is right when the border's mean colour lies this near the asked one, in sRGB, each channel 0 to 255.
GROUND_DISTANCE = 50.0
GUIDANCES, STEPS = (1.0, 3.0, 5.0, 8.0), (5, 10, 20, 50)


def read(name: str) -> list[str]:
    """The lines of one of the lists beside this file."""
    return (HERE / name).read_text("utf-8").split("\n")[:-1]


def draw(pipe: StableDiffusionPipeline, prompts: list[str], steps: int = 20, guidance: float = 5.0) -> torch.Tensor:
    """Pictures (n, 3, s, s) in [-1, 1]; the i-th prompt has seed i."""
    images = []
    for start in range(0, len(prompts), 8):
        chunk = prompts[start : start + 8]
        random = [torch.Generator().manual_seed(start + i) for i in range(len(chunk))]
        kind = {"num_inference_steps": steps, "guidance_scale": guidance, "output_type": "pt"}
        images.append(pipe(chunk, generator=random, **kind).images.cpu().float() * 2 - 1)
    return torch.cat(images)


def draw_on_white(
    pipe: StableDiffusionPipeline, names: list[str], steps: int = 20, guidance: float = 5.0
) -> torch.Tensor:
    """Pictures of names on the ground where names are judged, as `draw` makes them."""
    return draw(pipe, [f"{name} on a white background" for name in names], steps, guidance)


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
    pairs = []
    for i, name in enumerate(names):
        colours = [c for c in COLOURS if c != "white" and held_out(name, c) != seen]
        if colours:
            pairs.append((name, colours[i % len(colours)]))
    return pairs


def halves(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The left and the right of two objects side by side, each made as large as a picture."""
    side = images.shape[-1]
    middle = images[:, :, side // 4 : side - side // 4]
    large = {"size": (side, side), "mode": "bilinear", "align_corners": False}
    return tuple(functional.interpolate(part, **large) for part in middle.chunk(2, dim=-1))


@torch.no_grad()
def psnr(vae: AutoencoderKL, images: torch.Tensor) -> float:
    """Peak signal-to-noise ratio in dB of reconstructions, the mean over pictures; both in [-1, 1]."""
    output = torch.cat([vae.decode(vae.encode(part).latent_dist.mean).sample.clamp(-1, 1) for part in images.split(16)])
    error = (output - images).square().mean(dim=(1, 2, 3))
    return (10 * torch.log10(4 / error)).mean().item()


@torch.no_grad()
def run(config: Config, folder: Path) -> None:
    """Print the table of the model in ``folder``, and of its flow twin where there is one."""
    pictures, entries = data.load(config)
    judge = classifier.load(config)
    pipe = StableDiffusionPipeline.from_pretrained(folder).to(loop.device())
    pipe.set_progress_bar_config(disable=True)

    show("what", "figure")
    show("---", "---")
    judge_the_judge(judge, config.classifier.side, pictures, entries, loop.generator(config.seed + 2, 0))
    kept = np.array([i for i, entry in enumerate(entries) if autoencoder.held_out_picture(entry)])
    images = autoencoder.composite(pictures[kept], np.full((len(kept), 3), 255)).to(loop.device())
    show(f"autoencoder, PSNR on {len(kept)} held-out pictures", f"{psnr(pipe.vae, images):.1f} dB")

    judge_the_model(pipe, judge, folder.name, config.folder / "evaluate.png")
    judge_the_settings(pipe, judge, folder.name)
    if (twin := export.twin(folder)).exists():
        pipe.unet = UNet2DConditionModel.from_pretrained(twin, subfolder="unet").to(loop.device())
        pipe.scheduler = DPMSolverMultistepScheduler.from_pretrained(twin, subfolder="scheduler")
        judge_the_model(pipe, judge, twin.name, config.folder / "evaluate-flow.png")


def show(what: str, figure: str) -> None:
    print(f"| {what} | {figure} |", flush=True)


def judge_the_judge(
    judge: Judge, side: int, pictures: np.ndarray, entries: list[dict], random: torch.Generator
) -> None:
    """On augmentations that the judge's training has not drawn."""
    picked = torch.randint(len(entries), (1000,), generator=random).numpy()
    names = [entries[i]["name"] for i in picked]
    pixels = augmentation.shrunk(pictures[picked], side, judge.device)
    unseen = augmentation.augmented(pixels, augmentation.freedoms(names).to(judge.device), random)
    rank = judge.rank(unseen, names)
    style = torch.tensor([a == entries[i]["style"] for a, i in zip(judge.styles(unseen), picked, strict=True)])
    show("the judge on unseen augmentations of real pictures: first / top 5 / style", share(rank < 1, rank < 5, style))


def judge_the_model(pipe: StableDiffusionPipeline, judge: Judge, model: str, sheet: Path) -> None:
    """What a model draws when asked for names, grounds, styles and two things; plain names go to ``sheet``."""
    plain = read("plain_names.txt")
    images = draw_on_white(pipe, plain)
    rank = judge.rank(images, plain)
    show(f"{model}: recognized, {len(plain)} plain names: first / top 5", count(rank < 1, rank < 5))
    show(f"{model}: white ground right", count(grounds_right(images, ["white"] * len(plain))))
    loop.contact_sheet(sheet, images)

    drawn = read("evaluation_names.txt")
    rank = judge.rank(draw_on_white(pipe, drawn), drawn)
    show(f"{model}: recognized, {len(drawn)} names drawn by a seed: first / top 5", share(rank < 1, rank < 5))

    for seen in (True, False):
        asked = pairs(plain + drawn, seen)[:100]
        images = draw(pipe, [f"{name} on a {colour} background" for name, colour in asked])
        rank = judge.rank(images, [name for name, _ in asked])
        right = grounds_right(images, [colour for _, colour in asked])
        kind = "trained" if seen else "never trained"
        show(
            f"{model}: name and colour, pairs {kind}: ground right / and name in top 5",
            count(right, right & (rank < 5)),
        )

    asked = [(style, name) for name in plain for style in STYLES]
    guesses = judge.styles(draw(pipe, [f"{style} style {name}" for style, name in asked]))
    show(f"{model}: style right", share(torch.tensor([a == b for a, (b, _) in zip(guesses, asked, strict=True)])))

    both = list(pairwise(plain + drawn))[:50]
    sides = halves(draw(pipe, [f"a {a} and a {b}" for a, b in both]))
    there = [judge.rank(side, [pair[i] for pair in both]) < 5 for i, side in enumerate(sides)]
    show(f"{model}: two objects, both in the top 5 of their half", count(there[0] & there[1]))


def judge_the_settings(pipe: StableDiffusionPipeline, judge: Judge, model: str) -> None:
    """Plain names over guidance scales and numbers of steps: the page's defaults come from here."""
    plain = read("plain_names.txt")
    for guidance in GUIDANCES:
        for steps in STEPS:
            rank = judge.rank(draw_on_white(pipe, plain, steps, guidance), plain)
            figure = count(rank < 1, rank < 5)
            show(f"{model}: plain names at guidance {guidance:g}, {steps} steps: first / top 5", figure)


def share(*hits: torch.Tensor) -> str:
    return " / ".join(f"{100 * hit.float().mean():.1f} %" for hit in hits)


def count(*hits: torch.Tensor) -> str:
    return " / ".join(str(int(hit.sum())) for hit in hits) + f" of {len(hits[0])}"
