"""Step ``classifier``: train the judge, a small residual network (arXiv:1512.03385) that classifies names.

It sees real pictures only, changed by `augmentation` and on all grounds, so that what it recognizes in a
drawn picture is the thing and not its place. Pixel distance would measure the wrong thing: a copy
shifted by two pixels is already far from its original.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from . import data, loop
from .augmentation import augmented, freedoms, shrunk
from .captions import STYLES
from .config import Config


class Block(nn.Module):
    """Two convolutions and a shortcut; halves the side."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)])
        self.shortcut = nn.Conv2d(inputs, outputs, 1, 2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.norms[1](self.second(functional.relu(self.norms[0](self.first(x)))))
        return functional.relu(inner + self.shortcut(x))


@dataclass(frozen=True, eq=False)
class Judge:
    """Classify name and style of pictures (n, 3, size, size) in [-1, 1]."""

    name_model: nn.Sequential
    style_model: nn.Sequential
    names: list[str]

    @torch.no_grad()
    def rank(self, images: torch.Tensor, names: list[str]) -> torch.Tensor:
        """Rank of the prompted names among all names, (n,): 0 is first, below 5 is among the top 5."""
        target = torch.tensor([self.names.index(name) for name in names], device=self.device)
        return ranks(of_all(self.name_model, images)[:, : len(self.names)], target).cpu()

    @torch.no_grad()
    def styles(self, images: torch.Tensor) -> list[str]:
        """The most likely style of each picture."""
        return [STYLES[i] for i in of_all(self.style_model, images).argmax(1).tolist()]

    @torch.no_grad()
    def features(self, images: torch.Tensor) -> torch.Tensor:
        """What the judge of names goes by, (n, width) of length 1: like things lie near each other."""
        return functional.normalize(of_all(self.name_model[:-1], images), dim=1)

    @property
    def device(self) -> torch.device:
        return next(self.name_model.parameters()).device


def of_all(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """What a network says of many pictures, on its device."""
    where = next(model.parameters()).device
    return torch.cat([model(part.to(where)) for part in images.split(64)])


def build(config: Config, outputs: int) -> nn.Sequential:
    """Pictures (n, 3, size, size) in [-1, 1] to scores (n, outputs); sees ``classifier.side`` pixels."""
    first, *rest = config.classifier.widths
    stem = [nn.Conv2d(3, first, 5, 2, 2, bias=False), nn.BatchNorm2d(first), nn.ReLU()]
    blocks = [Block(a, b) for a, b in itertools.pairwise(config.classifier.widths)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(rest[-1], outputs)]
    return nn.Sequential(nn.AdaptiveAvgPool2d(config.classifier.side), *stem, *blocks, *head)


def names_of(entries: list[dict]) -> list[str]:
    return sorted({entry["name"] for entry in entries})


#: From scores and the labels of names and styles, each (n,), to the loss and what is right of each sample.
Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, dict[str, torch.Tensor]]]


def run(config: Config, budget: loop.Budget | None = None) -> None:
    """Train the judge of names, with styles as an auxiliary task: classifier.pt."""
    names = len(names_of(data.load(config)[1]))

    def loss(scores: torch.Tensor, name: torch.Tensor, style: torch.Tensor):
        scores, guess = scores[:, :names], scores[:, names:]
        total = functional.cross_entropy(scores, name) + 0.3 * functional.cross_entropy(guess, style)
        return total, {"top5": ranks(scores, name) < 5, "style": guess.argmax(1) == style}

    torch.manual_seed(config.seed)
    learn(config, "classifier.pt", build(config, names + len(STYLES)), loss, budget)


def learn(config: Config, file: str, model: nn.Module, loss: Loss, budget: loop.Budget | None) -> None:
    """Train ``model`` on augmented real pictures; resumes from ``file``."""
    ours, where, path = config.classifier, loop.device(), config.folder / file
    pictures, entries = data.load(config)
    names = names_of(entries)
    labels = torch.tensor([names.index(entry["name"]) for entry in entries]).to(where)
    styles = torch.tensor([STYLES.index(entry["style"]) for entry in entries]).to(where)
    pixels, free = shrunk(pictures, ours.side, where), freedoms([entry["name"] for entry in entries]).to(where)
    model = model.to(where, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), ours.learning_rate, weight_decay=0.02, fused=True)
    if resume := loop.restore(path):
        model.load_state_dict(resume["model"])
        optimizer.load_state_dict(resume["optimizer"])

    def step(number: int, fraction: float) -> dict[str, torch.Tensor]:
        random = loop.generator(config.seed + 1, number)
        rows = torch.randint(len(entries), (ours.batch,), generator=random).to(where)
        images = augmented(pixels[rows], free[rows], random).contiguous(memory_format=torch.channels_last)
        for group in optimizer.param_groups:
            group["lr"] = loop.learning_rate(fraction, ours.learning_rate)
        with loop.autocast(where):
            scores = model(images)
        total, right = loss(scores.float(), labels[rows], styles[rows])
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        optimizer.step()
        return {"loss": total.detach(), **{key: hits.float().mean() for key, hits in right.items()}}

    loop.train(
        budget=budget or loop.Budget(minutes=ours.minutes),
        step=step,
        state=lambda: {"model": model.state_dict(), "optimizer": optimizer.state_dict()},
        path=path,
        resume=resume,
    )


def ranks(scores: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Count the names that score higher than the right one: 0 is first, below 5 is among the top 5."""
    return (scores > scores.gather(1, target[:, None])).sum(1)


def load(config: Config) -> Judge:
    """The two trained judges, on the device."""
    names = names_of(data.load(config)[1])
    models = restore(config, "classifier", len(names) + len(STYLES)), restore(config, "styles", len(STYLES))
    return Judge(*(model.to(loop.device()) for model in models), names)


def restore(config: Config, step: str, outputs: int) -> nn.Sequential:
    """The network that a step has trained."""
    trained = loop.restore(config.folder / f"{step}.pt")
    if trained is None:
        raise SystemExit(f"First: python -m training {step} --size {config.size}")
    model = build(config, outputs)
    model.load_state_dict(trained["model"])
    return model.eval()
