"""Step ``styles``: a judge of style alone, which goes on from the judge of names.

Fluent's coloured and its 3D pictures show the same thing in the same pose and differ in their shading only.
A network that is asked for names as well spends what it has on telling things apart.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from . import classifier, data, loop
from .captions import STYLES
from .config import Config


def loss(scores: torch.Tensor, name: torch.Tensor, style: torch.Tensor):
    return functional.cross_entropy(scores, style), {"style": scores.argmax(1) == style}


def run(config: Config, budget: loop.Budget | None = None) -> None:
    """Train the judge of styles: styles.pt."""
    names = len(classifier.names_of(data.load(config)[1]))
    first = classifier.restore(config, "classifier", names + len(STYLES))
    torch.manual_seed(config.seed)
    model = classifier.build(config, len(STYLES))
    # All but the last layer, whose outputs mean something else here.
    for ours, theirs in zip(model[:-1], first[:-1], strict=True):
        ours.load_state_dict(theirs.state_dict())
    classifier.learn(config, "styles.pt", model, loss, budget or loop.Budget(minutes=config.classifier.style_minutes))
