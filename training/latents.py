"""Step ``latents``: encode every picture once, so that the denoiser's training never touches a pixel."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

import numpy as np
import torch

from . import autoencoder, data, loop
from .captions import COLOURS, HOUSE, held_out
from .config import Config


@dataclass(frozen=True)
class Latents:
    """Every encoded picture, grouped for sampling by name first, then style, then ground.

    ``values`` (n, channels, side, side) has unit standard deviation; ``grounds[entry]`` lists the
    (row, colour) pairs of a picture, white first; ``names`` lists the entries of each name and
    ``chances`` how likely each name is.
    """

    values: torch.Tensor
    entries: list[dict]
    grounds: list[list[tuple[int, str]]]
    names: list[list[int]]
    chances: np.ndarray


def plan(entries: list[dict], grounds: int, seed: int) -> list[tuple[int, str]]:
    """Which picture to encode on which ground: all on white, familiar names on some colours as well.

    Pairs that are held out are passed over, so the denoiser cannot have seen them.
    """
    pairs = [(i, "white") for i in range(len(entries))]
    rng = random.Random(seed)
    for i, entry in enumerate(entries):
        allowed = [c for c in COLOURS if c != "white" and not held_out(entry["name"], c)]
        wanted = grounds if entry["weight"] == 1 else int(entry["weight"] >= 0.1)
        pairs += [(i, colour) for colour in rng.sample(allowed, min(wanted, len(allowed)))]
    return pairs


@torch.no_grad()
def run(config: Config) -> None:
    """Write latents.pt, the latents and their pairs, and whitened.pt, the autoencoder that gives them unit deviation."""
    where = loop.device()
    vae = autoencoder.restore(config, "autoencoder").to(where).eval()
    pictures, entries = data.load(config)
    pairs = plan(entries, config.denoiser.grounds, config.seed)
    values, begun = [], time.monotonic()
    for start in range(0, len(pairs), 64):
        chunk = pairs[start : start + 64]
        rows = np.array([row for row, _ in chunk])
        images = autoencoder.composite(pictures[rows], np.array([COLOURS[colour] for _, colour in chunk]))
        # The mean alone: the posterior's own noise is far below what the denoiser is trained to remove.
        values.append(vae.encode(images.to(where)).latent_dist.mean.cpu())
        if start // 64 % 50 == 49:
            left = (time.monotonic() - begun) * (len(pairs) - start) / start / 60
            print(f"{start} of {len(pairs)} encoded  {left:.1f} min left", flush=True)
    values = torch.cat(values)
    map_ = autoencoder.whiten(vae, values)
    loop.save(config.folder / "whitened.pt", {"vae": vae.state_dict()})
    state = {
        "values": map_(values).half(),
        "rows": torch.tensor([row for row, _ in pairs]),
        "colours": [colour for _, colour in pairs],
    }
    loop.save(config.folder / "latents.pt", state)
    print(f"{len(pairs)} latents")


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
    for row, (entry, colour) in enumerate(zip(state["rows"].tolist(), state["colours"], strict=True)):
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
    )


def draw(latents: Latents, count: int, seed: int, white: float = 0.7) -> list[tuple[int, int, str]]:
    """Random (row of values, entry, colour): a name by its weight, one of its styles, one of its grounds.

    Four in five are of the house styles, which are what an unstyled prompt asks for.
    """
    rng = np.random.default_rng(seed)
    drawn = []
    for name in rng.choice(len(latents.names), size=count, p=latents.chances):
        entries = latents.names[name]
        house = [entry for entry in entries if latents.entries[entry]["style"] in HOUSE]
        entries = house if house and rng.random() < 0.8 else entries
        entry = entries[rng.integers(len(entries))]
        coloured = latents.grounds[entry][1:]
        plain = rng.random() < white or not coloured
        row, colour = latents.grounds[entry][0] if plain else coloured[rng.integers(len(coloured))]
        drawn.append((row, entry, colour))
    return drawn
