"""CLIP's tokenizer, built from the merges that the package clip-anytorch brings: nothing is fetched for it."""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, cast

from .model_info import ModelError

VOCABULARY = 49_408
LONGEST = 77
START, END = "<|startoftext|>", "<|endoftext|>"


def clip_tokenizer(pad: str = END) -> Any:
    """transformers' CLIPTokenizer with the 49,408 tokens of CLIP (Radford et al. 2021), 77 long.

    pad  the token that fills up: the end mark in Stable Diffusion 1, "!" in 2
    Raises ModelError if the merges are not installed.
    """
    from transformers import CLIPTokenizer

    merges = read_merges(merges_file())
    symbols = list(_byte_symbols())
    names = [*symbols, *(symbol + "</w>" for symbol in symbols), *(a + b for a, b in merges), START, END]
    vocabulary = {name: number for number, name in enumerate(names)}
    # transformers annotates names of files only, and takes the merges themselves as well.
    return CLIPTokenizer(vocabulary, cast(Any, merges), pad_token=pad, model_max_length=LONGEST)


def merges_file() -> Path:
    """Where clip-anytorch keeps the merges; the package itself is not imported. Raises ModelError."""
    spec = find_spec("clip")
    for folder in spec.submodule_search_locations or () if spec else ():
        file = Path(folder) / "bpe_simple_vocab_16e6.txt.gz"
        if file.is_file():
            return file
    raise ModelError("CLIP's tokenizer needs the package clip-anytorch; install it with: pip install clip-anytorch")


def read_merges(file: Path) -> list[tuple[str, str]]:
    """The pairs that byte-pair encoding joins, in order; the file has a title line and more pairs than CLIP uses."""
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        pairs = [line.split() for line in islice(lines, 1, VOCABULARY - 2 * 256 - 2 + 1)]
    return [(first, second) for first, second in pairs]


def _byte_symbols() -> list[str]:
    """A visible character for each byte, in CLIP's order: printable ones stand for themselves, the rest come after."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return [chr(byte) for byte in visible] + [chr(256 + place) for place in range(len(hidden))]
