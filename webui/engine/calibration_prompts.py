"""Prompts that calibrations are fitted and tested with, where the user names none."""

from __future__ import annotations

import random

from weights.model_info import ModelInfo

# For models whose card names nothing that they draw.
SUBJECTS = (
    *("a photo of a cat", "a red bicycle by a brick wall", "portrait of an old sailor", "a bowl of fruit on a table"),
    *("a mountain lake at dawn", "a robot in a garden", "a city street in the rain", "an owl on a branch, ink drawing"),
    *("a castle on a hill, oil painting", "a slice of cake", "a spaceship above the desert", "a child with a kite"),
    *("an astronaut on a horse", "a vintage car", "a forest in autumn", "a cup of coffee, top view"),
)
FILLS = ("", ", watercolour", ", studio light", ", wide angle", ", pencil sketch", ", at night", ", close-up", ", 3d")


def usual_prompts(model: ModelInfo) -> tuple[str, ...]:
    """Prompts that a model draws well: names of its card with its additions, or common subjects; always the same."""
    card, chance = model.card, random.Random(0)
    names = list(card.names[: len(card.familiar) + len(card.known)] if card else ())
    if not names:
        return tuple(f"{subject}{chance.choice(FILLS)}" for _ in range(8) for subject in SUBJECTS)
    chance.shuffle(names)
    additions = card.additions if card else ()
    return tuple(
        name + "".join(each.phrase.format(chance.choice(each.choices)) for each in additions if chance.random() < 0.4)
        for name in names
    )
