"""Step ``card``: write what the model draws beside its weights: card.json, and a small picture of each example.

The names come from the data, in the order of how often they were shown; the pictures are the model's own.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from samplers.registry import Registry, discover
from weights.card import FILE, LITTLE, plain
from weights.diffusers_folder import read_folder
from weights.model import Model
from weights.opening import open_model

from . import data, lora
from .captions import COLOURS, STYLES
from .config import Config

#: Least weights of ``data.weight`` of names shown often and now and then.
OFTEN, SOMETIMES = 1.0, 0.3
MOST_NEAR = 3  # names for a word that is none
SIDE, QUALITY = 160, 95  # of the baked pictures: pixels at most, and WebP's quality
STEPS, GUIDANCE = 20, 5.0
#: What a visitor sees first. The number of an example is its seed.
EXAMPLES = (
    "rocket",
    "cat face on a blue background",
    "sunflower",
    "3d style octopus on a cyan background",
    "birthday cake",
    "noto style penguin",
    "strawberry on a pink background",
    "twemoji style rainbow",
    "balloon on a yellow background",
    "frog",
    "flat style mushroom on a green background",
    "guitar on an orange background",
    "crescent moon on a black background",
    "fluent style butterfly",
    "whale",
    "red heart on a pink background",
    "noto style house on a cyan background",
    "hamburger",
    "3d style owl on a purple background",
    "sailboat",
    "light bulb on a grey background",
    "cactus on a brown background",
    "unicorn",
    "a star and a red heart",
)


def near(entries: Iterable[dict]) -> dict[str, list[str]]:
    """Names for each keyword that is no name itself, the most shown first."""
    found: dict[str, dict[str, float]] = defaultdict(dict)
    names = {entry["name"] for entry in entries}
    for entry in entries:
        for word in entry["keywords"]:
            if len(word.split()) == 1 and word not in names and word not in LITTLE and len(word) > 2:
                found[word][entry["name"]] = entry["weight"]
    return {
        word: sorted(found[word], key=lambda name: (-found[word][name], name))[:MOST_NEAR] for word in sorted(found)
    }


def describe(entries: list[dict], size: int) -> dict:
    """The card as JSON data, without examples."""
    weights = {entry["name"]: entry["weight"] for entry in entries if plain(entry["name"])}
    names = sorted(weights)
    return {
        "draws": f"emoji by {len(names):,} English names, in {len(STYLES)} styles, on {len(COLOURS)} coloured grounds",
        "familiar": [name for name in names if weights[name] >= OFTEN],
        "known": [name for name in names if SOMETIMES <= weights[name] < OFTEN],
        "seldom": [name for name in names if weights[name] < SOMETIMES],
        "words": near(entries),
        "pair": "{} and {}",
        "additions": [
            {"label": "Style", "phrase": ", {} style", "choices": list(STYLES)},
            {"label": "Ground", "phrase": " on a {} background", "choices": list(COLOURS)},
        ],
        "sizes": [size],
    }


def picture(model: Model, registry: Registry, prompt: str, seed: int) -> Image.Image:
    """A picture as the page draws it."""
    drawn = model.decode(lora.picture(model, registry, prompt, seed, STEPS, GUIDANCE))[0]
    drawn.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return drawn


def bake(model: Model, folder: Path) -> list[dict]:
    """Draw and write the picture of each example; the examples as JSON data."""
    (folder / "card").mkdir(exist_ok=True)
    registry, examples = discover(Path("plugins"), packages=False), []
    for seed, prompt in enumerate(EXAMPLES):
        name = f"card/{plain(prompt).replace(' ', '-')}.webp"
        picture(model, registry, prompt, seed).save(folder / name, quality=QUALITY, method=6)
        examples.append({"prompt": prompt, "picture": name})
    for file in (folder / "card").glob("*.webp"):
        if f"card/{file.name}" not in {example["picture"] for example in examples}:
            file.unlink()
    return examples


def run(config: Config, folder: Path) -> None:
    """Write card.json and card/ into the model's folder."""
    _, entries = data.load(config)
    model = open_model(read_folder(folder), "cpu")
    card = describe(entries, model.info.defaults.size) | {"examples": bake(model, folder)}
    # A line for each part, so that a change of it can be read.
    lines = [f" {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in card.items()]
    (folder / FILE).write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    files = [folder / FILE, *(folder / "card").iterdir()]
    print(f"{folder / FILE}: {sum(file.stat().st_size for file in files) / 1e3:.0f} KB with {len(EXAMPLES)} pictures")
