"""LoRAs and models that make few steps enough, by their names, and the settings that their authors prescribe."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from weights.model_info import DISTILLED_GUIDANCE, ModelInfo
from weights.prompt_syntax import PromptError, lora_tags

MAX_STEPS = 16  # that a name can say


@dataclass(frozen=True)
class FewSteps:
    """The settings of a distilled LoRA or model: fields of a request, by their names there."""

    sampler: str
    steps: int
    guidance: float = 1.0
    options: Mapping[str, Any] = field(default_factory=dict)
    schedule: str = "Uniform trailing"

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of a request that they are."""
        return {name: getattr(self, name) for name in ("sampler", "schedule", "steps", "guidance", "options")}

    def __str__(self) -> str:
        options = "".join(f" with {name} {value:g}" for name, value in self.options.items())
        steps = "1 step" if self.steps == 1 else f"{self.steps} steps"
        return f"sampler {self.sampler}{options}, {steps}, guidance {self.guidance:g}, schedule {self.schedule}"


# What is in a name, and the settings; the first that fits counts, and a number of steps in the name goes before these.
# LCM: arXiv:2311.05556; TCD: arXiv:2402.19159; Hyper-SD: arXiv:2404.13686, whose LoRA for one step is for any number of
# them, and whose "CFG" ones keep guidance; Lightning: arXiv:2402.13929; DMD2: arXiv:2405.14867; Turbo: 2311.17042.
METHODS = (
    (r"hyper[-_ ]?sd.*[-_ ]1[-_ ]?step", FewSteps("TCD", 4, options={"gamma": 1.0})),
    (r"hyper[-_ ]?sd.*cfg", FewSteps("DDIM", 8, guidance=5.0)),
    (r"hyper", FewSteps("DDIM", 8)),
    (r"tcd", FewSteps("TCD", 4)),
    (r"lcm", FewSteps("LCM", 4)),
    (r"lightning", FewSteps("Euler", 4)),
    (r"dmd2?", FewSteps("LCM", 4)),
    (r"turbo", FewSteps("Euler", 4)),
)


def few_steps_of(name: str) -> FewSteps | None:
    """The settings that a LoRA, or a model, of this name is made for; None for a usual one."""
    for pattern, found in METHODS:
        if re.search(rf"(?i)(?<![a-z]){pattern}(?![a-z])", name):
            told = re.search(r"(?i)(?<!\d)(\d{1,2})[-_ ]?steps?", name)
            steps = int(told[1]) if told else 0
            # "1 step" may be named by what works with more of them.
            return replace(found, steps=steps) if 1 < steps <= MAX_STEPS else found
    return None


def few_steps_in(prompt: str, model: ModelInfo | None = None) -> FewSteps | None:
    """The settings of the first distilled LoRA that acts in a prompt, else those of a distilled model; None without."""
    try:
        tags = lora_tags(prompt)
    except PromptError:
        return None
    loras = (found for tag in tags if tag.unet > 0 and (found := few_steps_of(tag.name)))
    return next(loras, few_steps_for(model) if model else None)


def few_steps_for(model: ModelInfo) -> FewSteps | None:
    """The settings that a model is made for, by its input or its name; None for a usual one."""
    if model.takes_guidance:
        return FewSteps("LCM", 4, DISTILLED_GUIDANCE, schedule="LCM")
    return few_steps_of(model.name)
