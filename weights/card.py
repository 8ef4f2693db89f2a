"""What a model draws, from `card.json` beside its weights: names that it knows, what can be added, examples, sizes.

    {"draws": "emoji, by their English names", "familiar": ["cat", "rocket"], "known": [], "seldom": [],
     "words": {"kitten": ["cat"]}, "pair": "{} and {}", "sizes": [64, 96],
     "additions": [{"label": "Background", "phrase": " on a {} background", "choices": ["white", "blue"]}],
     "examples": [{"prompt": "rocket", "picture": "card/rocket.webp"}]}

Only "draws" is needed. Without names nothing is said about a prompt's words.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from itertools import chain, zip_longest
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

FILE = "card.json"
PICTURES = (".webp", ".png", ".jpg")
MOST_BYTES, PICTURE_BYTES = 4_000_000, 200_000
# Words that say nothing about what is to be seen.
LITTLE = frozenset("a an the and of in on at with to for from by is are its my your this that some one".split())
NEAR, COMPLETIONS = 3, 4  # names offered at once
SIMILAR = 0.85  # of 1, how alike two spellings are


class CardError(ValueError):
    """A card that cannot be used; the message names the file and what is wrong in it."""


def _with_place(phrase: str) -> str:
    if phrase.count("{}") != 1:
        raise ValueError("must have one {}")
    return phrase


def _beside(name: str) -> str:
    path = PurePosixPath(name)
    # Beside the card alone: a downloaded folder must not point anywhere else.
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or path.suffix not in PICTURES:
        raise ValueError(f"must be the name of a file beside the card that ends with {', '.join(PICTURES)}")
    return name


Line = Annotated[str, Field(min_length=1, max_length=200)]
Lines = Annotated[tuple[Line, ...], Field(max_length=20_000)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Addition(_Part):
    """Something that a prompt may add to any name, and the phrase that says it: ", {} style"."""

    label: Line
    phrase: Annotated[Line, AfterValidator(_with_place)]
    choices: Lines


class Example(_Part):
    """A prompt, and the name of a picture that the model drew of it, in the card's folder."""

    prompt: Line
    picture: Annotated[Line, AfterValidator(_beside)]


class Card(_Part):
    """What a model draws.

    draws     in a few words, as the end of "This model draws ..."
    familiar  names that it was shown often; known: now and then; seldom: too rarely to be drawn well
    words     names for words that it was not taught, nearest first
    pair      the phrase for two names in one picture; "" if it cannot
    sizes     sides in pixels at which its pictures hold together; none if any size of its network will do
    """

    draws: Line
    familiar: Lines = ()
    known: Lines = ()
    seldom: Lines = ()
    words: dict[str, Lines] = {}
    pair: Annotated[str, Field(max_length=50)] = ""
    additions: Annotated[tuple[Addition, ...], Field(max_length=8)] = ()
    examples: Annotated[tuple[Example, ...], Field(max_length=60)] = ()
    sizes: Annotated[tuple[Annotated[int, Field(ge=8, le=8192)], ...], Field(max_length=60)] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All names, those that are drawn best first."""
        return (*self.familiar, *self.known, *self.seldom)

    @cached_property
    def _plain(self) -> dict[str, str]:
        """The names as `plain` writes them; a prompt is looked up at every keystroke."""
        return {name: plain(name) for name in self.names}

    @cached_property
    def _spellings(self) -> dict[str, None]:
        return dict.fromkeys(chain(self.words, *(text.split() for text in self._plain.values())))

    @cached_property
    def _table(self) -> dict[tuple[str, ...], str]:
        """Names by their words; "" for the words of an addition, with and without what leads to it."""
        table = {tuple(text.split()): name for name, text in reversed(self._plain.items())}
        for addition in self.additions:
            head, tail = addition.phrase.split("{}")
            for choice in addition.choices:
                table |= {tuple(plain(text).split()): "" for text in (f"{head}{choice}{tail}", f"{choice}{tail}")}
        return table

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self._table), default=0)

    def read(self, prompt: str, also: Collection[str] = ()) -> Reading:
        """What of a prompt is known.

        also  words that mean something by other means, such as textual inversions
        """
        if not self.names:
            return Reading()
        words, place = plain(prompt).split(), 0
        typed, completions = self._complete(words) if prompt[-1:].isalnum() else (0, ())
        known: list[str] = []
        unknown: list[str] = []
        allowed = {word.casefold() for word in also} | LITTLE
        while place < len(words):
            length, name = self._longest_at(words, place)
            if length:
                known += [name] if name else []
            # A word that is still being typed is not yet unknown.
            elif words[place] not in allowed and not (completions and place >= len(words) - typed):
                unknown.append(words[place])
            place += max(1, length)
        return self._reading(tuple(dict.fromkeys(known)), tuple(dict.fromkeys(unknown)), typed, completions)

    def _reading(
        self, known: tuple[str, ...], unknown: tuple[str, ...], typed: int, completions: tuple[str, ...]
    ) -> Reading:
        # The first of each word before the second of any.
        ranks = zip_longest(*map(self._near, unknown))
        near = dict.fromkeys(name for name in chain.from_iterable(ranks) if name and name not in known)
        # Of two things and a word between them, the things can be had.
        instead = self.pair.replace("{}", "%s") % known[:2] if self.pair and unknown and len(known) > 1 else ""
        seldom = tuple(name for name in known if name in self.seldom)
        return Reading(known, seldom, unknown, tuple(near)[: NEAR + 1], instead, typed, completions)

    def _longest_at(self, words: list[str], place: int) -> tuple[int, str]:
        """(how many words from a place on are a name or an addition, the name or ""); (0, "") if none are."""
        for length in range(min(self._longest, len(words) - place), 0, -1):
            *first, last = words[place : place + length]
            for form in _singular(last):
                if (name := self._table.get((*first, form))) is not None:
                    return length, name
        return 0, ""

    def _near(self, word: str) -> tuple[str, ...]:
        for form in _singular(word):
            if form in self.words:
                return self.words[form][:NEAR]
            if containing := [name for name, text in self._plain.items() if form in text.split()]:
                return tuple(containing[:NEAR])
        similar = get_close_matches(word, self._spellings, 1, SIMILAR) if len(word) > 3 else []
        return self._near(similar[0]) if similar and similar[0] != word else ()

    def _complete(self, words: list[str]) -> tuple[int, tuple[str, ...]]:
        """(how many of the last words begin a name, the names that they begin)."""
        for typed in range(min(3, len(words)), 0, -1):
            begun = " ".join(words[-typed:])
            if words[-typed] in LITTLE or len(begun) < 2:
                continue
            texts = ((name, self._plain[name]) for name in (*self.familiar, *self.known))
            if found := [name for name, text in texts if text.startswith(begun) and text != begun][:COMPLETIONS]:
                return typed, tuple(found)
        return 0, ()


@dataclass(frozen=True)
class Reading:
    """What a card says of a prompt.

    known        names in it; seldom are those among them that are hardly drawn
    unknown      words that mean nothing to the model
    near         names to take in their place
    instead      a prompt that says as much of it as the model knows; "" if there is none
    typed        how many of the last words are the beginning of `completions`, which are names
    """

    known: tuple[str, ...] = ()
    seldom: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    near: tuple[str, ...] = ()
    instead: str = ""
    typed: int = 0
    completions: tuple[str, ...] = ()


def plain(text: str) -> str:
    """A text in lower case and ASCII, its words set apart by single spaces."""
    ascii_only = unicodedata.normalize("NFKD", text.replace("’", "'")).encode("ascii", "ignore").decode()
    return " ".join(re.findall(r"[a-z0-9'#*-]+", ascii_only.lower()))


def _singular(word: str) -> Iterator[str]:
    yield word
    if word.endswith("es") and len(word) > 4:
        yield word[:-2]
    if word.endswith("s") and len(word) > 3:
        yield word[:-1]


def read_card(file: Path) -> Card:
    """The card in a file. Raises CardError."""
    where = f"{file.parent.name}/{file.name}"
    try:
        if file.stat().st_size > MOST_BYTES:
            raise CardError(f"{where} is larger than {MOST_BYTES // 1_000_000} MB")
        return Card.model_validate_json(file.read_bytes())
    except OSError as error:
        raise CardError(f"{where} cannot be read: {error.strerror or error}") from None
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"]))
        raise CardError(f"{where} cannot be used: {place + ': ' if place else ''}{problem['msg']}") from None


def picture_bytes(file: Path, example: Example) -> bytes | None:
    """The picture of an example of the card in a file; None if it is missing or too large to be shown."""
    picture = file.parent / example.picture
    try:
        return picture.read_bytes() if picture.stat().st_size <= PICTURE_BYTES else None
    except OSError:
        return None
