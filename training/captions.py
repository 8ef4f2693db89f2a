"""Captions of the pictures, the pairs that are held out, and the tokenizer trained on all captions."""

from __future__ import annotations

import hashlib
import json
import random
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

#: Grounds that a caption can ask for, as sRGB. White comes first: it is meant when none is named.
COLOURS = {
    "white": (255, 255, 255),
    "black": (16, 16, 16),
    "grey": (136, 136, 136),
    "red": (214, 40, 40),
    "orange": (247, 140, 30),
    "yellow": (252, 220, 60),
    "green": (60, 160, 70),
    "cyan": (90, 205, 215),
    "blue": (45, 95, 205),
    "purple": (125, 60, 170),
    "pink": (248, 160, 195),
    "brown": (120, 75, 45),
}

#: Colours that a caption can ask a thing itself to have: those that are a hue.
HUES = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")

STYLES = ("noto", "flat", "fluent", "twemoji", "3d")


@dataclass(frozen=True)
class Look:
    """How one thing, or several alike, are shown, as far as it is said."""

    colour: str | None = None
    small: bool = False
    upside_down: bool = False
    tilted: str | None = None  # "left" or "right", as its head goes
    place: str | None = None  # one of ``PLACES``
    count: int = 1


PLACES = {"on the left": (-1, 0), "on the right": (1, 0), "at the top": (0, -1), "at the bottom": (0, 1)}
NUMBERS = {2: "two", 3: "three"}


def held_out(name: str, colour: str, share: int = 10) -> bool:
    """Whether a name on a ground is never trained on: one pair in ``share``, by hash, never on white.

    A rule rather than a list, so that anybody can tell seen from unseen pairs without our data.
    """
    if colour == "white":
        return False
    return int(hashlib.sha256(f"{name}|{colour}".encode()).hexdigest(), 16) % share == 0


def plain(label: str) -> str:
    """A label as people type it: lower case, ASCII, no punctuation but hyphens and apostrophes.

    >>> plain("Piñata: 12 o’clock")
    "pinata 12 o'clock"
    """
    ascii_only = unicodedata.normalize("NFKD", label.replace("’", "'")).encode("ascii", "ignore").decode()
    kept = "".join(c if c.isalnum() or c in "'-#*" else " " for c in ascii_only.lower())
    return " ".join(kept.split())


def plural(name: str) -> str:
    """Several of a name.

    >>> [plural(name) for name in ("red apple", "cherry", "fox", "key", "jack-o-lantern")]
    ['red apples', 'cherries', 'foxes', 'keys', 'jack-o-lanterns']
    """
    if name.endswith(("s", "x", "ch", "sh")):
        return f"{name}es"
    return f"{name[:-1]}ies" if name.endswith("y") and name[-2:-1] not in "aeiou" else f"{name}s"


def article(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def describe(name: str, look: Look) -> str:
    """A name with what is said of its look: "small blue rocket tilted left on the right"."""
    words = [
        "small" if look.small else "",
        "upside down" if look.upside_down else "",
        look.colour or "",
        name if look.count == 1 else f"{NUMBERS[look.count]} {plural(name)}",
        f"tilted {look.tilted}" if look.tilted else "",
        look.place or "",
    ]
    return " ".join(word for word in words if word)


def join_names(names: Sequence[str], above: bool, rng: random.Random) -> str:
    """Two things, the left or the upper one first: "a rocket and an owl", "a rocket above an owl"."""
    word = " above " if above else " and "
    return word.join(names if rng.random() < 0.3 else map(article, names))


def caption(what: str, keywords: Sequence[str], style: str, colour: str, rng: random.Random) -> str:
    """One of the ways to ask for a picture of ``what``, as `describe` or `join_names` put it, on a ground.

    The ground is always named unless it is white, which is often left out because nobody types it. The style is named
    three times in five, so that silence means any.
    """
    text = what
    if rng.random() < 0.6:
        text = f"{style} style {text}" if rng.random() < 0.5 else f"{text}, {style} style"
    if keywords and rng.random() < 0.1:
        text += ", " + ", ".join(rng.sample(keywords, min(len(keywords), rng.randint(1, 2))))
    if colour != "white" or rng.random() < 0.5:
        text += f" on a {colour} background" if rng.random() < 0.8 else f", {colour} background"
    return text


def corpus(entries: Iterable[dict]) -> list[str]:
    """All names, keywords, styles and grounds, as the tokenizer's training text."""
    lines = [f"{style} style" for style in STYLES] * 50
    lines += [f"on a {colour} background" for colour in COLOURS] * 50
    lines += [describe("", Look(small=True, upside_down=True, tilted=side)) for side in ("left", "right")] * 50
    lines += [*PLACES, *NUMBERS.values(), "above"] * 50
    for entry in entries:
        lines += [entry["name"]] * 4 + list(entry["keywords"])
    return lines


def train_tokenizer(lines: Iterable[str], vocabulary: int, length: int, folder: Path) -> None:
    """Learn byte-pair merges (arXiv:1508.07909) and write them in the files of CLIP's tokenizer.

    The vocabulary follows CLIP's order - 256 bytes, the same ending a word, the merges, the two
    special tokens - so any text at all has a spelling, also in letters that no caption uses.
    """
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    split = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    endings = [c + "</w>" for c in alphabet]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        initial_alphabet=alphabet,
        # Endings given here have the same numbers in every run, so ties between equally frequent pairs are resolved
        # alike; otherwise the order of a hash table would decide.
        special_tokens=endings,
        end_of_word_suffix="</w>",
        min_frequency=2,
        show_progress=False,
    )
    learner.train_from_iterator(lines, trainer)
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    room = vocabulary - 2 * len(alphabet) - 2
    merges = merges[:room]
    tokens = alphabet + endings + ["".join(pair) for pair in merges]
    tokens = list(dict.fromkeys(tokens)) + ["<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(
        vocab={token: i for i, token in enumerate(tokens)}, merges=merges, model_max_length=length
    )
    tokenizer.save_pretrained(folder)
    # The two files of the original format beside tokenizer.json, for readers other than transformers.
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]):
    """Token ids, shape (captions, length), padded and cut as StableDiffusionPipeline does."""
    encoded = tokenizer(
        captions, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
    )
    return encoded.input_ids
