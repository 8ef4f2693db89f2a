"""Captions of the pictures, the pairs that are held out, and the tokenizer trained on all captions."""

from __future__ import annotations

import hashlib
import json
import random
import unicodedata
from collections.abc import Iterable, Sequence
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

STYLES = ("noto", "flat", "fluent", "twemoji", "3d")
#: Fluent's three share one composition for each name, so one of them is meant where no style is named.
HOUSE = ("flat", "fluent", "3d")


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


def join_names(names: Sequence[str], rng: random.Random) -> str:
    """Name the picture: one name, or two side by side, the left one first: "a rocket and an owl"."""
    if len(names) == 1:
        return names[0]
    article = rng.random() < 0.7
    return " and ".join(f"{'an' if name[0] in 'aeiou' else 'a'} {name}" if article else name for name in names)


def caption(names: Sequence[str], keywords: Sequence[str], style: str, colour: str, rng: random.Random) -> str:
    """One of the ways to ask for a picture of one name or of two side by side.

    The ground is always named unless it is white, the style unless it is a house style, and neither is ever wrong, so
    that both words keep a measurable meaning; white is often left out because nobody types it. A house style is named
    three times in four: two of them differ in their shading only, and need more training than a missing name.
    """
    text = join_names(names, rng)
    if rng.random() < 0.75 or style not in HOUSE:
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
