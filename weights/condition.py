"""What the UNet reads of a prompt, as a `samplers.denoiser.Condition`."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, eq=False)
class TextCondition:
    """The hidden states of an encoded prompt, (images, tokens, width)."""

    states: torch.Tensor

    def repeat(self, images: int) -> TextCondition:
        """The states of one image for so many."""
        return TextCondition(self.states.expand(images, -1, -1))

    def join(self, other: TextCondition) -> TextCondition | None:
        """Both in one batch; None where the prompts have different numbers of tokens: padding changes the picture."""
        if self.states.shape[1:] != other.states.shape[1:]:
            return None
        return TextCondition(torch.cat([self.states, other.states]))
