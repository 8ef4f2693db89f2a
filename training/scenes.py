"""Scenes: what training shows the networks, made anew for each batch out of the sets' pictures, with captions.

A picture alone would teach one drawing a name. So a thing is mirrored where that leaves it what it is, turned,
scaled, moved and shifted in hue: a little without a word, and strongly where the caption says so. Some scenes show two
things or several of one. Everything of a batch follows from its number.
"""

from __future__ import annotations

import colorsys
import functools
import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from transformers import CLIPTokenizer

from . import canvas, data
from .captions import COLOURS, HUES, PLACES, Look, caption, describe, held_out, join_names, tokenize
from .config import Config, Scenes

#: Words of names that a mirror makes wrong, and of names that say their colour.
ONE_WAY = {"left", "right", "arrow", "letter", "button", "keycap", "clock", "sign", "symbol", "mark", "oncoming"}
COLOURED = {*COLOURS, "light", "dark", "rainbow"}


@dataclass(frozen=True)
class Thing:
    """A picture in a scene: which, and where; see `canvas.affine`."""

    row: int
    scale: float
    x: float = 0.0
    y: float = 0.0
    degrees: float = 0.0
    mirrored: bool = False
    paint: tuple[float, ...] = tuple(canvas.NATURAL.tolist())


@dataclass(frozen=True)
class Scene:
    """Up to three things on a ground, and what a caption says of them."""

    things: tuple[Thing, ...]
    entries: tuple[int, ...]  # of the names that are said, in their order
    what: str
    ground: str


class Batch(NamedTuple):
    """Scenes as tensors."""

    grounds: torch.Tensor  # (n, 3), sRGB
    layers: list[canvas.Layer]
    captions: list[str]
    tokens: torch.Tensor  # (n, length)
    meant: list[tuple]  # equal for scenes that a caption cannot tell apart but by its style


class Book:
    """The sets' pictures as scenes are made of them.

    rows  of the entries that may be shown, by default all
    main  each picture's main colour as hue, saturation, value, and the share of all colour that is near it: (count, 4)
    """

    def __init__(self, entries: list[dict], main: np.ndarray, mix: Scenes, rows: Sequence[int] | None = None) -> None:
        self.entries, self.main, self.mix = entries, main.tolist(), mix
        by_name: dict[str, list[int]] = {}
        by_style: dict[str, list[int]] = {}
        for row in range(len(entries)) if rows is None else rows:
            by_name.setdefault(entries[row]["name"], []).append(row)
            if entries[row]["weight"] == 1:
                by_style.setdefault(entries[row]["style"], []).append(row)
        self.by_name = list(by_name.values())
        self.cumulative = list(itertools.accumulate(entries[rows[0]]["weight"] for rows in self.by_name))
        self.by_style = [rows for _, rows in sorted(by_style.items()) if len(rows) > 1]

    def draw(self, rng: random.Random) -> Scene:
        """A random scene. A pair of name and ground that `captions.held_out` names is never drawn."""
        kind, mix = rng.random(), self.mix
        if self.by_style and kind < mix.two:
            rows, things, what = self._two(rng)
        else:
            rows = (rng.choice(rng.choices(self.by_name, cum_weights=self.cumulative)[0]),)
            things, what = self._several(rows[0], rng) if kind < mix.two + mix.several else self._one(rows[0], rng)
        ground = "white" if rng.random() < mix.white else rng.choice(list(COLOURS))
        if any(held_out(self.entries[row]["name"], ground) for row in rows):
            ground = "white"
        return Scene(things, rows, what, ground)

    def say(self, scene: Scene, rng: random.Random) -> str:
        first = self.entries[scene.entries[0]]
        keywords = first["keywords"] if len(scene.entries) == 1 else ()
        return caption(scene.what, keywords, first["style"], scene.ground, rng)

    def _one(self, row: int, rng: random.Random) -> tuple[tuple[Thing, ...], str]:
        thing, look = self._loose(row, rng), Look()
        name = self.entries[row]["name"]
        if rng.random() < self.mix.said:
            changes = self._tilted, self._small, self._placed, self._painted
            for i in sorted(rng.sample(range(len(changes)), rng.choice((1, 1, 2)))):
                thing, look = changes[i](thing, look, rng)
        return (thing,), describe(name, look)

    def _several(self, row: int, rng: random.Random) -> tuple[tuple[Thing, ...], str]:
        count = rng.choice((2, 3))
        spots, scale = (((-0.5, 0.0), (0.5, 0.0)), 0.48)
        if count == 3:
            row_of_three = (-0.66, 0.0), (0.0, 0.0), (0.66, 0.0)
            triangle = (0.0, -0.47), (-0.48, 0.45), (0.48, 0.45)
            spots, scale = ((row_of_three, 0.32), (triangle, 0.46))[rng.random() < 0.6]
        one = self._loose(row, rng)
        things = tuple(self._moved(replace(one, scale=scale * rng.uniform(0.9, 1.0)), x, y, rng) for x, y in spots)
        return things, describe(self.entries[row]["name"], Look(count=count))

    def _two(self, rng: random.Random) -> tuple[tuple[int, ...], tuple[Thing, ...], str]:
        rows = tuple(rng.sample(rng.choice(self.by_style), 2))
        above = rng.random() < 0.35
        spots = ((0.0, -0.5), (0.0, 0.5)) if above else ((-0.5, 0.0), (0.5, 0.0))
        things = tuple(
            self._moved(replace(self._loose(row, rng), scale=0.5 * rng.uniform(0.88, 1.0)), x, y, rng)
            for row, (x, y) in zip(rows, spots, strict=True)
        )
        return rows, things, join_names([self.entries[row]["name"] for row in rows], above, rng)

    def _loose(self, row: int, rng: random.Random) -> Thing:
        """A thing with the small differences that no caption names."""
        name = self.entries[row]["name"].split()
        rare = self.entries[row]["weight"] < 0.1  # flags, signs, people by trade
        degrees = rng.gauss(0, 7) if rng.random() < 0.6 else 0.0
        scale = rng.uniform(0.8, 1.0) if rng.random() < 0.75 else 1.0
        room = max(0.0, 0.98 - scale)
        hue = rng.gauss(0, 7) if not rare and rng.random() < 0.5 else 0.0
        return Thing(
            row,
            scale,
            rng.uniform(-room, room),
            rng.uniform(-room, room),
            max(-16.0, min(16.0, degrees)),
            rng.random() < 0.5 and not rare and not ONE_WAY & {*name},
            (hue, rng.uniform(0.9, 1.1), 1.0, 1.0, 1.0, 1.0),
        )

    def _moved(self, thing: Thing, x: float, y: float, rng: random.Random) -> Thing:
        return replace(
            thing,
            x=x + rng.uniform(-0.03, 0.03),
            y=y + rng.uniform(-0.05, 0.05),
            degrees=0.6 * thing.degrees,
        )

    def _painted(self, thing: Thing, look: Look, rng: random.Random) -> tuple[Thing, Look]:
        entry = self.entries[thing.row]
        hue, saturation, value, share = self.main[thing.row]
        if entry["weight"] < 0.1 or COLOURED & {*entry["name"].split()}:
            return thing, look
        colour = rng.choice(HUES)
        wanted = colorsys.rgb_to_hsv(*(part / 255 for part in COLOURS[colour]))
        if saturation < 0.15:  # no colour of its own: it is tinted
            paint = 0.0, 1.0, 1.0, *(part / 255 for part in COLOURS[colour])
        elif share > 0.6:
            factors = min(wanted[1] / saturation, 2.0), min(wanted[2] / max(value, 0.1), 2.0)
            paint = 360 * (wanted[0] - hue) + rng.gauss(0, 4), *factors, 1.0, 1.0, 1.0
        else:  # of many colours: which of them would be meant?
            return thing, look
        return replace(thing, paint=paint), replace(look, colour=colour)

    def _small(self, thing: Thing, look: Look, rng: random.Random) -> tuple[Thing, Look]:
        scale = rng.uniform(0.42, 0.6)
        room = 0.3 * (1 - scale)
        x, y = rng.uniform(-room, room), rng.uniform(-room, room)
        return replace(thing, scale=scale, x=x, y=y), replace(look, small=True)

    def _tilted(self, thing: Thing, look: Look, rng: random.Random) -> tuple[Thing, Look]:
        if rng.random() < 0.3:
            return replace(thing, degrees=180 + rng.gauss(0, 5)), replace(look, upside_down=True)
        side = rng.choice(("left", "right"))
        degrees, scale = rng.uniform(24, 42), min(thing.scale, rng.uniform(0.75, 0.85))
        turned = replace(thing, degrees=degrees if side == "right" else -degrees, scale=scale)
        return turned, replace(look, tilted=side)

    def _placed(self, thing: Thing, look: Look, rng: random.Random) -> tuple[Thing, Look]:
        place, (right, down) = rng.choice(list(PLACES.items()))
        scale = thing.scale if look.small else rng.uniform(0.45, 0.68)
        far = (1 - scale) * rng.uniform(0.85, 1.05)
        aside = (1 - scale) * rng.uniform(-0.2, 0.2)
        placed = replace(thing, scale=scale, x=right * far or aside, y=down * far or aside)
        return placed, replace(look, place=place)


class Batches(Dataset):
    """Batch number i of a training."""

    def __init__(self, book: Book, tokenizer: CLIPTokenizer, count: int, seed: int, drop_prompt: float = 0.0) -> None:
        self.book, self.tokenizer, self.count, self.seed, self.drop_prompt = book, tokenizer, count, seed, drop_prompt

    def __getitem__(self, number: int) -> Batch:
        rng = random.Random(self.seed * 1_000_003 + number)
        scenes = [self.book.draw(rng) for _ in range(self.count)]
        texts = ["" if rng.random() < self.drop_prompt else self.book.say(scene, rng) for scene in scenes]
        grounds = torch.tensor([COLOURS[scene.ground] for scene in scenes], dtype=torch.float32)
        layers = []
        for depth in range(max(len(scene.things) for scene in scenes)):
            there = [(i, scene.things[depth]) for i, scene in enumerate(scenes) if len(scene.things) > depth]
            places = torch.tensor([(t.scale, t.x, t.y, t.degrees, t.mirrored) for _, t in there])
            layers.append(
                canvas.Layer(
                    torch.tensor([i for i, _ in there]),
                    torch.tensor([thing.row for _, thing in there]),
                    canvas.affine(*places.unbind(1)),
                    torch.tensor([thing.paint for _, thing in there]),
                )
            )
        meant = [(scene.what, scene.ground) for scene in scenes]
        return Batch(grounds, layers, texts, tokenize(self.tokenizer, texts), meant)

    def since(self, number: int, where: torch.device) -> Iterator[Batch]:
        """Batch ``number`` and all after it, made ahead by other processes where a device draws meanwhile."""
        workers = 8 if where.type == "cuda" else 0
        ahead = {"num_workers": workers, "prefetch_factor": 4} if workers else {}
        return iter(DataLoader(self, batch_size=None, sampler=itertools.count(number), collate_fn=lambda x: x, **ahead))


def on(where: torch.device, value):
    """Tensors in tuples and lists, moved to a device."""
    if isinstance(value, torch.Tensor):
        return value.to(where, non_blocking=True)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(on(where, part) for part in value))
    return [on(where, part) for part in value] if isinstance(value, list) else value


@functools.lru_cache(2)
def pictures(config: Config, where: torch.device) -> tuple[torch.Tensor, list[dict], np.ndarray]:
    """All pictures on the device, their entries and their main colours; see `Book`."""
    stored, entries = data.load(config)
    there = torch.tensor(stored).to(where)
    return there, entries, torch.cat([main_colours(part) for part in there.split(256)]).cpu().numpy()


def main_colours(rgba: torch.Tensor) -> torch.Tensor:
    """Hue, saturation and value of the colour that a picture has most of, and its share of all colour: (n, 4).

    rgba  straight, (n, s, s, 4) uint8. Colour is counted by saturation times value, in 24 hues.
    """
    part = rgba[:, ::4, ::4].movedim(-1, 1).float() / 255 if rgba.shape[1] >= 64 else rgba.movedim(-1, 1).float() / 255
    hue, saturation, value = canvas.to_hsv(part[:, :3])
    seen = part[:, 3].flatten(1)
    colour = (saturation * value).flatten(1) * seen
    bins = torch.zeros(len(rgba), 24, device=rgba.device)
    bins.scatter_add_(1, (hue.flatten(1) * 24).long().clamp(max=23), colour)
    near = bins + bins.roll(1, 1) + bins.roll(-1, 1)
    middle = (near.argmax(1) + 0.5) / 24
    away = (hue.flatten(1) - middle[:, None] + 0.5) % 1 - 0.5
    chosen = colour * (away.abs() < 1.5 / 24)
    total = chosen.sum(1).clamp(min=1e-6)

    def mean(values: torch.Tensor) -> torch.Tensor:
        return (values * chosen).sum(1) / total

    overall = colour.sum(1) / seen.sum(1).clamp(min=1e-6)
    main = [(middle + mean(away)) % 1, mean(saturation.flatten(1)), mean(value.flatten(1)), total / colour.sum(1)]
    main[1] = torch.where(overall < 0.12, torch.zeros_like(overall), main[1])
    return torch.stack([part.nan_to_num(0.0) for part in main], 1)


def book(config: Config, where: torch.device, shown: Callable[[dict], bool] = lambda entry: True) -> Book:
    """The book of a configuration's pictures, or of those that ``shown`` lets through."""
    _, entries, main = pictures(config, where)
    return Book(entries, main, config.scenes, [row for row, entry in enumerate(entries) if shown(entry)])
