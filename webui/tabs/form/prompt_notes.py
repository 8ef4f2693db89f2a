"""What the page says below a prompt: what was found in it, what comes out of it, and what is not applied."""

from __future__ import annotations

from webui.core.distilled_loras import few_steps_of
from webui.core.prompt_dialects import unapplied
from webui.core.text import as_sentence
from weights.extra_networks import ExtraNetworks
from weights.model_info import ModelError
from weights.prompt_choices import come_out, has_choices
from weights.prompt_schedule import COUNTED, stages, subprompts
from weights.prompt_syntax import PromptError, lora_tags, without_tags

SHOWN = 160  # characters of a prompt in a sentence
STAGES = 4  # changes that are told


def example_of(text: str, extra: ExtraNetworks, syntax: str = "full", choices: bool = True) -> tuple[str, list[str]]:
    """(an example of what comes out of a prompt, what is to know about it, a sentence each; errors among them).

    syntax   see `Request.prompt_syntax`
    choices  whether random choices are allowed here
    """
    notes = []
    if syntax == "full" and has_choices(text):
        if not choices:
            notes.append("Random choices such as {red|blue} and __file__ are off on this shared page.")
        else:
            try:
                text = come_out(text, [0], extra.folder)[0]
            except PromptError as error:
                return text, [as_sentence(str(error))]
            notes.append(f"Each picture's seed makes the choices; seed 0: {_short(text)}")
    if syntax != "weights":
        notes += _changes(text)
    return text, [*notes, *_extra_networks(text, extra), *unapplied(text, syntax)]


def _changes(text: str) -> list[str]:
    notes, parts = [], subprompts(without_tags(text))
    if len(parts) > 1:
        told = " and ".join(f"{_short(part.text)!r} at {part.weight:g}" for part in parts)
        notes.append(f"Follows {len(parts)} prompts at once: {told}.")
    for part in parts:
        found = stages(part.text, COUNTED)
        if len(found) > 1:
            told = ", ".join(f"to step {last} {_short(stage.strip())!r}" for last, stage in found[:STAGES])
            more = " and so on" if len(found) > STAGES else ""
            notes.append(f"Changes during the run; of {COUNTED.steps} steps: {told}{more}.")
    return notes


def _extra_networks(text: str, extra: ExtraNetworks) -> list[str]:
    try:
        tags = lora_tags(text)
    except PromptError as error:
        return [as_sentence(str(error))]
    notes = []
    for tag in tags:
        try:
            extra.find(tag.name)
        except ModelError as error:
            notes.append(as_sentence(str(error)))
            continue
        how = f"{tag.text:g} in the text encoder, {tag.unet:g} in the UNet" if tag.text != tag.unet else f"{tag.unet:g}"
        notes.append(f"LoRA {tag.name} at {how}.")
        if few := few_steps_of(tag.name):
            notes.append(f"It is made for few steps: {few}.")
    if words := extra.embeddings_in(text):
        notes.append(f"Textual inversion: {', '.join(words)}.")
    return notes


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} ..."
