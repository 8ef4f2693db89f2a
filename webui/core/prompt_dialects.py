"""What of a prompt is syntax that is not applied, in sentences: other programs', and ours where it is switched off."""

from __future__ import annotations

import re

from weights.prompt_choices import has_choices
from weights.prompt_schedule import changes, subprompts

SHOWN = 60  # characters of a prompt in a sentence
# With bounds on every repetition: texts come from strangers.
FOREIGN = (
    ("NovelAI's weight; here it is (words:1.2)", re.compile(r"-?\d{1,4}(?:\.\d{1,4})?::[^:]{1,200}::")),
    ("NovelAI's weight; here it is (words:1.05)", re.compile(r"\{[^{}|$]{1,200}\}")),
    ("InvokeAI's weight; here it is (words:1.1)", re.compile(r"\)[+-]{1,9}(?=[\s,.)]|$)")),
    ("InvokeAI's way to join prompts; here it is AND", re.compile(r"\)\.(?:and|blend|swap)\(")),
    ("ComfyUI's way to name a textual inversion; here its name is enough", re.compile(r"\bembedding:[\w./-]{1,100}")),
)


def uses_syntax(text: str) -> bool:
    """Whether a prompt has syntax beyond weights, BREAK and LoRAs."""
    return has_choices(text) or changes(text) or len(subprompts(text)) > 1


def unapplied(text: str, syntax: str = "full") -> list[str]:
    """A sentence for each syntax in a prompt that is drawn as words.

    syntax  see `Request.prompt_syntax`
    """
    found = []
    if syntax != "full" and has_choices(text):
        found.append("Random choices such as {red|blue} and __file__ are drawn as words.")
    if syntax == "weights" and changes(text):
        found.append("Words that change during the run, such as [cat:dog:0.5], are drawn as words.")
    if syntax == "weights" and len(subprompts(text)) > 1:
        found.append("AND is drawn as a word.")
    # Choices have braces of their own.
    patterns = [(what, p) for what, p in FOREIGN if not (has_choices(text) and p.pattern.startswith(r"\{"))]
    matches = ((what, pattern.search(text)) for what, pattern in patterns)
    return found + [f"{match[0][:SHOWN]!r} is drawn as words: {what}." for what, match in matches if match]
