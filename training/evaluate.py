"""Step ``evaluate``: one table of what the exported models draw, in 20 steps at guidance 5 unless said.

The model draws with DDIM, its flow twin with DPM-Solver++ of second order (arXiv:2211.01095), and with the LoRA for few
calls by LCM.

The prompts come from plain_names.txt (what a visitor may type first), evaluation_names.txt (200 drawn by a seed among
all names of at most two words that three sets draw), familiar_names.txt (what training shows most) and two rules:
``captions.held_out`` and the order of the lists.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, StableDiffusionPipeline, UNet2DConditionModel

from samplers.registry import discover
from weights.diffusers_folder import read_folder
from weights.lora_file import read_lora
from weights.opening import open_model

from . import augmentation, autoencoder, classifier, data, export, loop, measures
from .captions import COLOURS, STYLES, article, held_out
from .classifier import Judge
from .config import Config
from .drawing import draw, draw_in_few_calls, on_white, sheet
from .measures import count, grounds_right, halves, share, show
from .variety import HANDS, judge_the_variety
from .words import judge_the_words

HERE = Path(__file__).parent
GUIDANCES, STEPS = (1.0, 3.0, 5.0, 8.0), (5, 10, 20)
CALLS = (2, 3, 4)


def read(name: str) -> list[str]:
    """The lines of one of the lists beside this file."""
    return (HERE / name).read_text("utf-8").split("\n")[:-1]


def pairs(names: list[str], seen: bool) -> list[tuple[str, str]]:
    """One coloured ground per name, as the held-out rule calls it seen or unseen; names without one drop out."""
    pairs = []
    for i, name in enumerate(names):
        colours = [c for c in COLOURS if c != "white" and held_out(name, c) != seen]
        if colours:
            pairs.append((name, colours[i % len(colours)]))
    return pairs


class Real:
    """The sets' own drawings on white, (n, 3, s, s) on the device."""

    def __init__(self, pictures: np.ndarray, entries: list[dict]) -> None:
        self.pictures, self.entries = pictures, entries

    def at(self, rows: list[int]) -> torch.Tensor:
        images = autoencoder.composite(self.pictures[np.array(rows)], np.full((len(rows), 3), 255))
        return images.to(loop.device())

    def of(self, name: str, styles: tuple[str, ...] = STYLES) -> torch.Tensor:
        """All drawings of a name, or those in some styles."""
        return self.at([i for i, e in enumerate(self.entries) if e["name"] == name and e["style"] in styles])


@torch.no_grad()
def run(config: Config, folder: Path, before: Path | None = None) -> None:
    """Print the table of the model in ``folder``, of its few-call LoRA and its flow twin where there are such.

    before  a folder with the autoencoder of smaller pictures that this one is compared with
    """
    pictures, entries = data.load(config)
    judge, real = classifier.load(config), Real(pictures, entries)
    pipe = StableDiffusionPipeline.from_pretrained(folder).to(loop.device())
    pipe.set_progress_bar_config(disable=True)

    show("what", "figure")
    show("---", "---")
    judge_the_judge(judge, config.classifier.side, pictures, entries, loop.generator(config.seed + 2, 0))
    judge_the_autoencoder(pipe.vae, real, before)
    plain, name = read("plain_names.txt"), folder.name
    judge_the_model(pipe, judge, name, config.folder / "evaluate.png")
    edges = [
        measures.edge_width(each) for each in (draw(pipe, on_white(plain)), torch.cat([real.of(n) for n in plain]))
    ]
    show(f"{name}: width of edges, drawn / real", " / ".join(f"{width:.1f}" for width in edges) + " px")
    hands = {each: real.of(each, HANDS) for each in plain}
    judge_the_variety(pipe, judge, name, hands, config.folder / "evaluate-seeds.png")
    judge_the_words(
        pipe, judge, name, plain, read("familiar_names.txt"), real.of, config.folder / "evaluate-colours.png"
    )
    judge_the_settings(pipe, judge, name)
    judge_few_calls(folder, judge, config.folder / "evaluate-calls.png")
    if (twin := export.twin(folder)).exists():
        pipe.unet = UNet2DConditionModel.from_pretrained(twin, subfolder="unet").to(loop.device())
        pipe.scheduler = DPMSolverMultistepScheduler.from_pretrained(twin, subfolder="scheduler")
        judge_the_model(pipe, judge, twin.name, config.folder / "evaluate-flow.png")


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


def judge_the_autoencoder(vae: AutoencoderKL, real: Real, before: Path | None) -> None:
    """On pictures that its training has not shown, beside an earlier one whose pictures are enlarged."""
    images = real.at([i for i, entry in enumerate(real.entries) if autoencoder.held_out_picture(entry)])
    figure = measures.psnr(measures.reconstructed(vae, images), images)
    show(f"autoencoder, PSNR on {len(images)} held-out pictures", f"{figure:.1f} dB")
    if before:
        small = AutoencoderKL.from_pretrained(before).to(loop.device())
        enlarged = measures.reconstructed_small(small, images, small.config.sample_size)
        gained = figure - measures.psnr(enlarged, images)
        show(f"autoencoder, PSNR above {before} enlarged by bicubic interpolation", f"{gained:+.1f} dB")


def judge_the_model(pipe: StableDiffusionPipeline, judge: Judge, model: str, path: Path) -> None:
    """What a model draws when asked for names, grounds, styles and two things; plain names go to a sheet."""
    plain = read("plain_names.txt")
    images = draw(pipe, on_white(plain))
    rank = judge.rank(images, plain)
    show(f"{model}: recognized, {len(plain)} plain names: first / top 5", count(rank < 1, rank < 5))
    show(f"{model}: white ground right", count(grounds_right(images, ["white"] * len(plain))))
    sheet(path, images)

    drawn = read("evaluation_names.txt")
    rank = judge.rank(draw(pipe, on_white(drawn)), drawn)
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
    sides = halves(draw(pipe, [f"{article(a)} and {article(b)}" for a, b in both]))
    there = [judge.rank(side, [pair[i] for pair in both]) < 5 for i, side in enumerate(sides)]
    show(f"{model}: two objects, both in the top 5 of their half", count(there[0] & there[1]))


def judge_the_settings(pipe: StableDiffusionPipeline, judge: Judge, model: str) -> None:
    """Plain names over guidance scales and numbers of steps: the page's defaults come from here."""
    plain = read("plain_names.txt")
    for guidance in GUIDANCES:
        for steps in STEPS:
            rank = judge.rank(draw(pipe, on_white(plain), steps, guidance), plain)
            figure = count(rank < 1, rank < 5)
            show(f"{model}: plain names at guidance {guidance:g}, {steps} steps: first / top 5", figure)


def judge_few_calls(folder: Path, judge: Judge, path: Path) -> None:
    """Plain names by the LoRA that draws in few calls, where there is one; the first of each number go to a sheet."""
    file = export.few_calls(folder)
    if not file.exists():
        return
    model, registry = open_model(read_folder(folder), loop.device().type), discover(Path("plugins"), packages=False)
    plain, shown, lora = read("plain_names.txt"), [], read_lora(file, file.stem)
    for calls in CALLS:
        images = draw_in_few_calls(model, lora, registry, on_white(plain), calls)
        rank = judge.rank(images, plain)
        show(f"{file.stem}: plain names in {calls} calls: first / top 5", count(rank < 1, rank < 5))
        shown.append(images[:8])
    sheet(path, torch.cat(shown))
