"""Random choices in prompts, in the syntax of the package dynamicprompts: `{red|blue}`, `{2$$a|b|c}`, `__file__`.

A wildcard `__animals__` stands for a line of wildcards/animals.txt in the folder of weights; .yaml and .json files hold
lists by name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from .prompt_syntax import PromptError

FOLDER = "wildcards"  # in weights/
# A choice or a variable, and a wildcard. Other braces are text, such as NovelAI's {{word}}.
BRACES = re.compile(r"\{[^{}|]*(?:\{[^{}]*\}[^{}|]*)*\||\$\{|\{\d+(?:-\d+)?\$\$")
WILDCARD = re.compile(r"__(?P<name>[\w./*-]+?)__")
OTHER_STREAM = 1 << 40  # added to a seed for the negative prompt, which chooses by itself
SHOWN = 20  # names in an error


def has_choices(text: str) -> bool:
    """Whether a prompt has choices or wildcards."""
    return bool(BRACES.search(text) or WILDCARD.search(text))


def come_out(text: str, seeds: Sequence[int], weights: Path | None) -> list[str]:
    """A prompt as it comes out for each seed; equal seeds choose alike.

    weights  the folder that wildcards/ lies in; None for none
    Raises PromptError for choices that cannot be read and for wildcards that are not there.
    """
    if not has_choices(text):
        return [text] * len(seeds)
    # Imported here: it is not needed to open the page.
    from dynamicprompts.parser.parse import parse
    from pyparsing import ParseException

    manager = _wildcards(weights)
    _check_wildcards(text, manager)
    try:
        command = parse(text)
        made = [_sample(command, seed, manager) for seed in seeds]
    except ParseException as error:
        raise PromptError(
            f"the choices in the prompt cannot be read, near {text[error.loc :][:40]!r}: they are written "
            "{red|blue}, {2$$red|green|blue} or __file__, and every { needs its }"
        ) from None
    except RecursionError:
        raise PromptError("the choices in the prompt never end: a wildcard or variable names itself") from None
    except Exception as error:
        # The package raises many kinds, and a wildcard file may hold anything.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise PromptError(f"the choices in the prompt cannot be read: {reason}") from None
    for one in made:
        _check_wildcards(one, manager)
    return made


def names(weights: Path) -> list[str]:
    """The wildcards that are there."""
    return sorted(_wildcards(weights).get_collection_names())


def _sample(command: Any, seed: int, manager: Any) -> str:
    from dynamicprompts.enums import SamplingMethod
    from dynamicprompts.sampling_context import SamplingContext

    context = SamplingContext(SamplingMethod.RANDOM, manager, rand=Random(seed))
    return str(next(iter(context.sample_prompts(command, 1))))


def _wildcards(weights: Path | None) -> Any:
    from dynamicprompts.wildcards.wildcard_manager import WildcardManager

    folder = weights / FOLDER if weights else None
    return WildcardManager(folder if folder and folder.is_dir() else None)


def _check_wildcards(text: str, manager: Any) -> None:
    for match in WILDCARD.finditer(text):
        if not manager.get_values(match["name"]):
            known = sorted(manager.get_collection_names())
            there = ", ".join(known[:SHOWN]) + (" ..." if len(known) > SHOWN else "") if known else "none"
            raise PromptError(f"wildcard {match['name']!r} is not in weights/{FOLDER}/; there is {there}")
