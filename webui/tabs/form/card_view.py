"""What a model's card puts on the page: chips that write a prompt, the wall of the empty stage, a prompt's words."""

from __future__ import annotations

from webui.templates import render
from weights.card import Card, Reading, picture_bytes
from weights.model_info import ModelInfo
from weights.prompt_schedule import COUNTED, stages, subprompts
from weights.prompt_syntax import PromptError, PromptPart, parse, without_tags

# For models without a card.
EXAMPLES = (
    "red apple",
    "rocket",
    "cat face on a blue background",
    "sunflower",
    "blue whale",
    "birthday cake",
    "crescent moon",
    "octopus",
)
THINGS = 8  # names offered beside the dice


def chips(mode: str, info: ModelInfo | None) -> str:
    """Buttons that write a prompt: things, what can be added to them, and dice."""
    card = info.card if info else None
    if card is None or not card.names:
        return render("card", "chips", mode, EXAMPLES, EXAMPLES, ())
    plain = [example.prompt for example in card.examples if example.prompt in card.names]
    things = tuple(dict.fromkeys((*plain, *card.familiar, *card.known)))[:THINGS]
    return render("card", "chips", mode, things, card.familiar or things, card.additions)


def wall(mode: str, info: ModelInfo | None) -> str:
    """The empty stage: what the model draws and real pictures of it, each a button that draws one like it."""
    card, file = (info.card, info.card_file) if info else (None, None)
    if info is None or card is None or file is None:
        return render("form", "empty_stage")
    tiles = [(example.prompt, picture_bytes(file, example)) for example in card.examples]
    return render("card", "wall", mode, info.name, card.draws, [tile for tile in tiles if tile[1]])


def words_note(mode: str, info: ModelInfo | None, reading: Reading) -> str:
    """What a prompt says that the model does not know, and names to take; "" if there is nothing to say."""
    if info is None or not (reading.unknown or reading.seldom or reading.completions):
        return ""
    return render("card", "words", mode, info.name, reading)


def result_hint(mode: str, info: ModelInfo | None, prompt: str, also: tuple[str, ...] = ()) -> str:
    """A sentence that leads on from a picture of words that the model does not know; "" if it knows one of them."""
    card = info.card if info else None
    if info is None or card is None or not card.names:
        return ""
    # A space after it: nothing is being typed any more.
    reading = read_prompt(card, f"{prompt} ", also)
    if not reading.unknown and (reading.known or prompt.strip()):
        return ""
    offered = reading.near or tuple(example.prompt for example in card.examples[:3]) or card.familiar[:3]
    return render("card", "hint", mode, info.name, card.draws, reading, offered)


def read_prompt(card: Card, prompt: str, also: tuple[str, ...] = ()) -> Reading:
    """What a card says of a prompt with weights and LoRAs in it; `also` are textual inversions."""
    try:
        # All words that the run comes by, where they change.
        texts = [text for part in subprompts(without_tags(prompt)) for _, text in stages(part.text, COUNTED)]
        parts = [part for text in dict.fromkeys(texts) for part in (*parse(text), PromptPart(None))]
    except PromptError:
        return Reading()
    return card.read("".join(part.text or " " for part in parts), also)
