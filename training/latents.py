"""Step ``latents``: encode every picture once; the denoiser trains on latents only."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image

from . import autoencoder, data, loop
from .captions import COLOURS, HOUSE, STYLES, caption, held_out
from .config import Config


@dataclass(frozen=True)
class Latents:
    """Every encoded picture, grouped for sampling by name first, then style, then ground.

    ``values`` (n, channels, side, side) has unit standard deviation; ``grounds[entry]`` lists the
    (row, colour) pairs of a picture, white first; ``names`` lists the entries of each name and
    ``chances`` how likely each name is; ``couples`` lists (row, (left entry, right entry), colour).
    """

    values: torch.Tensor
    entries: list[dict]
    grounds: list[list[tuple[int, str]]]
    names: list[list[int]]
    chances: np.ndarray
    couples: list[tuple[int, tuple[int, int], str]]


def plan(entries: list[dict], grounds: int, seed: int) -> list[tuple[int, str]]:
    """Choose the grounds of every picture: white for all, some colours for familiar names, one for other plain ones.

    Held-out pairs are skipped, so the denoiser cannot have seen them.
    """
    pairs = [(i, "white") for i in range(len(entries))]
    rng = random.Random(seed)
    for i, entry in enumerate(entries):
        allowed = [c for c in COLOURS if c != "white" and not held_out(entry["name"], c)]
        wanted = grounds if entry["weight"] == 1 else int(entry["weight"] >= 0.1)
        pairs += [(i, colour) for colour in rng.sample(allowed, min(wanted, len(allowed)))]
    return pairs


def plan_couples(entries: list[dict], count: int, seed: int) -> list[tuple[int, int, str]]:
    """Choose two pictures to put side by side: familiar names in one style, half on white, no held-out pair."""
    rng = random.Random(seed)
    by_style = {
        style: [i for i, e in enumerate(entries) if e["style"] == style and e["weight"] == 1] for style in STYLES
    }
    by_style = {style: rows for style, rows in by_style.items() if len(rows) > 1}
    couples = []
    while by_style and len(couples) < count:
        left, right = rng.sample(by_style[rng.choice(sorted(by_style))], 2)
        colour = rng.choice(list(COLOURS)) if rng.random() < 0.5 else "white"
        if not any(held_out(entries[i]["name"], colour) for i in (left, right)):
            couples.append((left, right, colour))
    return couples


def side_by_side(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Two straight RGBA pictures (s, s, 4), halved and set beside each other in the middle of one."""
    side = len(left)
    canvas = Image.new("RGBA", (side, side))
    for i, picture in enumerate((left, right)):
        # Pillow's reduce weighs colours by alpha only when they are premultiplied.
        small = Image.fromarray(picture).convert("RGBa").reduce(2).convert("RGBA")
        canvas.paste(small, (i * side // 2, side // 4))
    return np.asarray(canvas)


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: Callable[[slice], np.ndarray], colours: list[str]) -> torch.Tensor:
    """The latents of pictures on these grounds; ``pictures`` gives the RGBA of a slice of them."""
    values, begun, where = [], time.monotonic(), next(vae.parameters()).device
    for start in range(0, len(colours), 64):
        part = slice(start, start + 64)
        images = autoencoder.composite(pictures(part), np.array([COLOURS[colour] for colour in colours[part]]))
        # The mean alone: the posterior's own noise is far below what the denoiser is trained to remove.
        values.append(vae.encode(images.to(where)).latent_dist.mean.cpu())
        if start // 64 % 50 == 49:
            left = (time.monotonic() - begun) * (len(colours) - start) / start / 60
            print(f"{start} of {len(colours)} encoded  {left:.1f} min left", flush=True)
    return torch.cat(values) if values else torch.zeros(0)


def run(config: Config) -> None:
    """Write latents.pt (latents and their pairs) and whitened.pt (the autoencoder that gives them unit variance)."""
    vae = autoencoder.restore(config, "autoencoder").to(loop.device()).eval()
    pictures, entries = data.load(config)
    pairs = plan(entries, config.denoiser.grounds, config.seed)
    couples = plan_couples(entries, config.denoiser.couples, config.seed)
    rows = np.array([row for row, _ in pairs])
    if (config.folder / "autoencoder.pt").exists():  # a published one has been whitened, and UNets know its latents
        values = encode(vae, lambda part: pictures[rows[part]], [colour for _, colour in pairs])
        autoencoder.whiten(vae, values)
    loop.save(config.folder / "whitened.pt", {"vae": vae.state_dict()})

    values = encode(vae, lambda part: pictures[rows[part]], [colour for _, colour in pairs])
    both = encode(
        vae,
        lambda part: np.stack([side_by_side(pictures[a], pictures[b]) for a, b, _ in couples[part]]),
        [colour for *_, colour in couples],
    )
    state = {
        "values": torch.cat([values, both]).half() if couples else values.half(),
        "pairs": pairs,
        "couples": couples,
    }
    loop.save(config.folder / "latents.pt", state)
    print(f"{len(pairs)} latents of one thing, {len(couples)} of two")


def load(config: Config) -> Latents:
    """The encoded pictures."""
    state = loop.restore(config.folder / "latents.pt")
    if state is None:
        raise SystemExit(f"First: python -m training latents --size {config.size}")
    _, entries = data.load(config)
    return group(state, entries)


def group(state: dict, entries: list[dict]) -> Latents:
    """What ``run`` saved, ordered for sampling."""
    grounds: list[list[tuple[int, str]]] = [[] for _ in entries]
    for row, (entry, colour) in enumerate(state["pairs"]):
        grounds[entry].append((row, colour))
    by_name: dict[str, list[int]] = {}
    for i, entry in enumerate(entries):
        by_name.setdefault(entry["name"], []).append(i)
    weights = np.array([entries[rows[0]]["weight"] for rows in by_name.values()])
    return Latents(
        values=state["values"].float(),
        entries=entries,
        grounds=grounds,
        names=list(by_name.values()),
        chances=weights / weights.sum(),
        couples=[(len(state["pairs"]) + i, (a, b), colour) for i, (a, b, colour) in enumerate(state["couples"])],
    )


Drawn = tuple[int, tuple[int, ...], str]


def draw(
    latents: Latents, count: int, seed: int, white: float = 0.7, two: float = 0.0, house: float = 0.5
) -> list[Drawn]:
    """Random (row of values, entries, colour): a name by its weight, one of its styles, one of its grounds.

    A share ``house`` is of the house styles, which are what an unstyled prompt asks for, the rest of any; a share
    ``two`` shows two things.
    """
    rng = np.random.default_rng(seed)
    drawn: list[Drawn] = []
    for name in rng.choice(len(latents.names), size=count, p=latents.chances):
        if latents.couples and rng.random() < two:
            drawn.append(latents.couples[rng.integers(len(latents.couples))])
            continue
        entries = latents.names[name]
        usual = [entry for entry in entries if latents.entries[entry]["style"] in HOUSE]
        entries = usual if usual and rng.random() < house else entries
        entry = entries[rng.integers(len(entries))]
        coloured = latents.grounds[entry][1:]
        plain = rng.random() < white or not coloured
        row, colour = latents.grounds[entry][0] if plain else coloured[rng.integers(len(coloured))]
        drawn.append((row, (entry,), colour))
    return drawn


def describe(latents: Latents, drawn: list[Drawn], rng: random.Random) -> list[str]:
    """A caption for each."""
    captions = []
    for _, entries, colour in drawn:
        what = [latents.entries[entry] for entry in entries]
        keywords = what[0]["keywords"] if len(what) == 1 else ()
        captions.append(caption([entry["name"] for entry in what], keywords, what[0]["style"], colour, rng))
    return captions
