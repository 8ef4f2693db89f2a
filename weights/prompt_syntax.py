"""The prompt syntax that A1111's page made common: weights, BREAK, and prompts longer than the text encoder reads.

    (word)  1.1 times the attention        (word:1.3)  1.3 times      [word]  1/1.1 times
    \\( \\) \\[ \\] \\\\  the character itself   BREAK       the rest begins a new chunk

Brackets nest and multiply; one that is never closed reaches to the end. A backslash before anything else is left out.

    <lora:name>  <lora:name:0.8>  <lora:name:0.5:0.8>  a LoRA at strength 1, at 0.8, at 0.5 in the text encoder and 0.8
                                                       in the UNet; it may stand anywhere and is no word
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

STRONGER = 1.1
COMMA_REACH = 20  # tokens: a full chunk is ended after its last comma, if that is not further back
TOKEN = re.compile(
    r"""\\(?P<literal>[()\[\]\\])
    | (?P<open>[(\[])
    | :\s*+(?P<weight>[+-]?+(?:\d++\.?+\d*+|\.\d++))\s*+\)
    | (?P<close>[)\]])
    | (?P<lone>\\)
    | (?P<text>[^\\()\[\]:]+|.)""",
    re.VERBOSE | re.DOTALL,
)
BREAK = re.compile(r"\bBREAK\b")
TAG = re.compile(r"<(?P<kind>lora|lyco|hypernet):(?P<rest>[^<>]*)>")
MAX_STRENGTH = 10.0


class PromptError(ValueError):
    """A prompt whose syntax is wrong; the text says how it is written rightly."""


@dataclass(frozen=True)
class LoraTag:
    """A LoRA that a prompt names, and its strengths in the text encoder and in the UNet."""

    name: str
    text: float = 1.0
    unet: float = 1.0

    def __str__(self) -> str:
        strengths = (self.text,) if self.text == self.unet else (self.text, self.unet)
        return f"<lora:{self.name}:{':'.join(f'{strength:g}' for strength in strengths)}>"


@dataclass(frozen=True)
class PromptPart:
    """A piece of a prompt and its weight; `text` is None where a new chunk is asked for."""

    text: str | None
    weight: float = 1.0


@dataclass(frozen=True)
class Chunk:
    """What the text encoder reads at once: tokens without start, end and padding, and a weight for each."""

    tokens: tuple[int, ...]
    weights: tuple[float, ...]


def parse(text: str) -> list[PromptPart]:
    """A prompt as weighted parts in order; neighbours of equal weight are one part."""
    parts: list[PromptPart] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}
    factors: list[tuple[int, int, float]] = []  # of the parts from the first to before the second

    def scale(start: int, factor: float) -> None:
        factors.append((start, len(parts), factor))

    for match in TOKEN.finditer(text):
        kind, value = match.lastgroup, match[0]
        if kind == "open":
            opened[value].append(len(parts))
        elif kind == "weight" and opened["("]:
            scale(opened["("].pop(), float(match["weight"]))
        elif value == ")" and opened["("]:
            scale(opened["("].pop(), STRONGER)
        elif value == "]" and opened["["]:
            scale(opened["["].pop(), 1 / STRONGER)
        elif kind == "literal":
            parts.append(PromptPart(match["literal"]))
        elif kind != "lone":
            parts += _broken(value)
    for start in opened["("]:
        scale(start, STRONGER)
    for start in opened["["]:
        scale(start, 1 / STRONGER)
    # At once and in the order of closing: a long prompt may open thousands of brackets and close none.
    weights = np.ones(len(parts))
    with np.errstate(over="ignore"):
        for start, end, factor in factors:
            weights[start:end] *= factor
    return _merged([PromptPart(part.text, weight) for part, weight in zip(parts, weights.tolist(), strict=True)])


def without_tags(text: str) -> str:
    """A prompt without the LoRAs that it names."""
    return TAG.sub("", text)


def lora_tags(text: str) -> tuple[LoraTag, ...]:
    """The LoRAs that a prompt names, in order. Raises PromptError."""
    tags: dict[str, LoraTag] = {}
    for match in TAG.finditer(text):
        if match["kind"] == "hypernet":
            raise PromptError(f"{match[0]} names a hypernetwork, which is not supported; a LoRA is <lora:name:0.8>")
        name, *given = (part.strip() for part in match["rest"].split(":"))
        values = [_strength(each) for each in given] or [1.0]
        if not name or len(values) > 2 or any(map(math.isnan, values)):
            raise PromptError(
                f"{match[0][:100]} is not read: a LoRA is <lora:name>, <lora:name:0.8> or, for text encoder and UNet, "
                f"<lora:name:0.5:0.8>, with strengths from {-MAX_STRENGTH:g} to {MAX_STRENGTH:g}"
            )
        if name in tags:
            raise PromptError(f"LoRA {name!r} is named twice; name it once")
        tags[name] = LoraTag(name, values[0], values[-1])
    return tuple(tags.values())


def _strength(text: str) -> float:
    """A number in the range of strengths; NaN for any other text."""
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if abs(value) <= MAX_STRENGTH else math.nan


def split(
    parts: Sequence[PromptPart], tokenize: Callable[[str], Sequence[int]], size: int, comma: int | None
) -> list[Chunk]:
    """The chunks of at most `size` tokens that the parts fill, at least one.

    tokenize  the tokens of a text, without start and end
    comma     the token of a comma, after which a full chunk is rather ended than within a phrase; None is nowhere
    """
    chunks: list[Chunk] = []
    pending: list[tuple[int, float]] = []
    for part in parts:
        if part.text is None:
            chunks.append(_chunk(pending))
            pending = []
            continue
        for token in tokenize(part.text):
            if len(pending) == size:
                end = size if token == comma else _phrase_end(pending, comma)
                chunks.append(_chunk(pending[:end]))
                pending = pending[end:]
            pending.append((token, part.weight))
    return [*chunks, _chunk(pending)] if pending or not chunks else chunks


def _broken(text: str) -> Iterator[PromptPart]:
    pieces = BREAK.split(text)
    for index, piece in enumerate(pieces):
        if index:
            yield PromptPart(None)
            piece = piece.lstrip()
        if index < len(pieces) - 1:
            piece = piece.rstrip()
        if piece:
            yield PromptPart(piece)


def _merged(parts: Sequence[PromptPart]) -> list[PromptPart]:
    merged: list[PromptPart] = []
    for part in parts:
        last = merged[-1] if merged else PromptPart(None)
        if part.text is not None and last.text is not None and part.weight == last.weight:
            merged[-1] = PromptPart(last.text + part.text, part.weight)
        else:
            merged.append(part)
    return merged or [PromptPart("")]


def _phrase_end(pending: Sequence[tuple[int, float]], comma: int | None) -> int:
    """Where a full chunk is cut: after its last comma if that is near the end, else at the end."""
    for back in range(1, min(COMMA_REACH, len(pending) - 1) + 1):
        if pending[-back][0] == comma:
            return len(pending) - back + 1
    return len(pending)


def _chunk(pending: Sequence[tuple[int, float]]) -> Chunk:
    return Chunk(tuple(token for token, _ in pending), tuple(weight for _, weight in pending))
