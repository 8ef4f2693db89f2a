"""The prompts of a request: their random choices made, and their LoRAs and what joins them checked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from weights.model_info import ModelError
from weights.prompt_choices import OTHER_STREAM, come_out, has_choices
from weights.prompt_schedule import subprompts
from weights.prompt_syntax import PromptError, lora_tags

from .limits import Limits
from .request import Request, RequestError
from .text import as_sentence

if TYPE_CHECKING:
    from weights.extra_networks import ExtraNetworks


def prompts_as_they_come_out(
    request: Request, limits: Limits, extra: ExtraNetworks | None
) -> tuple[tuple[str, str], ...]:
    """(prompt, negative prompt) of each picture after its random choices; () where there are none. RequestError."""
    texts = request.prompt, request.negative_prompt
    if request.prompt_syntax != "full" or not any(map(has_choices, texts)):
        return ()
    if not limits.choices:
        raise RequestError(
            "Random choices such as {red|blue} and __file__ are off on this shared page: write one of them, or set "
            "prompt syntax to 'fixed', which draws them as words."
        )
    try:
        streams = (request.seeds, [seed + OTHER_STREAM for seed in request.seeds])
        made = [
            come_out(text, seeds, extra.folder if extra else None) for text, seeds in zip(texts, streams, strict=True)
        ]
    except PromptError as error:
        raise RequestError(as_sentence(str(error))) from None
    for name, each in zip(("prompt", "negative_prompt"), made, strict=True):
        if problems := [problem for text in each if (problem := limits.problem(name, text))]:
            raise RequestError(problems[0])
    return tuple(zip(*made, strict=True))


def check_prompts(prompt: str, negative: str, extra: ExtraNetworks | None, syntax: str = "full") -> None:
    """Raises RequestError for a LoRA that is not read rightly or not there, and for what the negative prompt may not
    have."""
    try:
        tags = lora_tags(prompt)
        if extra is not None:
            for tag in tags:
                extra.find(tag.name)
        wrong = lora_tags(negative)
    except (PromptError, ModelError) as error:
        raise RequestError(as_sentence(str(error))) from None
    if wrong:
        raise RequestError(
            f"The negative prompt names {wrong[0]}; LoRAs act on the whole run, name them in the prompt."
        )
    if syntax != "weights" and len(subprompts(negative)) > 1:
        raise RequestError("The negative prompt has AND, which joins prompts only; join its words with commas.")
