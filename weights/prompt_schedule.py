"""Prompts that change during a run, and several prompts at once, as A1111's page made them common.

    [from:to:0.5]  "from" for the first half of a pass's steps, then "to"; [to:0.5] and [from::0.5] leave one out
    [from:to:10]   the same after 10 steps; a number with a point is a share, one without counts steps
    [a|b|c]        one after another, a step each
    a AND b :0.7   both, the second at weight 0.7 (Liu et al. 2022, arXiv:2206.01714)

Brackets nest. In a second pass steps count on, and shares from 1 on are its own: [a:b:1.5] changes in the middle of it.
Brackets that are none of these are weights, see `weights.prompt_syntax`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

TOKEN = re.compile(r"\\.|[\[\]():|]|[^\\\[\]():|]+|.", re.DOTALL)
NUMBER = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*")
AND = re.compile(r"\bAND\b")
WEIGHT = re.compile(r"(.*?)\s*:\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*", re.DOTALL)
DEEPEST = 50  # brackets in brackets
CAPPED = 1e6  # steps; a number that is larger says no more


@dataclass(frozen=True)
class Clock:
    """The steps of a pass, by which a prompt changes.

    sigmas         of the pass, from its first to 0; step i, from 1 on, is from sigmas[i - 1] down to sigmas[i]
    steps_before   steps of the passes before it
    passes_before  their number
    """

    sigmas: tuple[float, ...]
    steps_before: int = 0
    passes_before: int = 0

    @property
    def steps(self) -> int:
        """Steps of this pass."""
        return max(1, len(self.sigmas) - 1)


COUNTED = Clock((1.0,) * 21)  # for what is said of a prompt before its run: 20 steps


@dataclass(frozen=True)
class SubPrompt:
    """One of several prompts that a picture follows at once, and its weight."""

    text: str
    weight: float = 1.0


@dataclass(frozen=True)
class Switch:
    """One text until a step, another after it."""

    before: tuple[str | Switch | Turns, ...]
    after: tuple[str | Switch | Turns, ...]
    when: str


@dataclass(frozen=True)
class Turns:
    """Texts that take turns, a step each."""

    texts: tuple[tuple[str | Switch | Turns, ...], ...]


Node = str | Switch | Turns


@dataclass
class _Frame:
    """An open bracket: the segments in it, and the separators between them."""

    opened: str
    segments: list[list[Node]] = field(default_factory=lambda: [[]])
    separators: list[str] = field(default_factory=list)
    broken: bool = False

    def add(self, *nodes: Node) -> None:
        self.segments[-1].extend(nodes)

    def plain(self, closed: str) -> list[Node]:
        """All of it as text."""
        nodes: list[Node] = [self.opened]
        for separator, segment in zip(["", *self.separators], self.segments, strict=True):
            nodes += [separator, *segment]
        return [*nodes, closed]


def subprompts(text: str) -> list[SubPrompt]:
    """The prompts that AND joins, at least one. A prompt without AND has no weight of its own."""
    parts = AND.split(text)
    if len(parts) == 1:
        return [SubPrompt(text)]
    matches = [(part.strip(), WEIGHT.fullmatch(part.strip())) for part in parts]
    return [SubPrompt(match[1], float(match[2])) if match else SubPrompt(part) for part, match in matches]


def stages(text: str, clock: Clock) -> list[tuple[int, str]]:
    """The texts of a prompt during a pass: (the last step, from 1 on, that has it, the text)."""
    nodes = parse_schedule(text)
    if all(isinstance(node, str) for node in nodes):
        return [(clock.steps, text)]
    found: list[tuple[int, str]] = []
    for step in range(1, clock.steps + 1):
        now = _text(nodes, step, clock)
        if found and found[-1][1] == now:
            found.pop()
        found.append((step, now))
    return found


def changes(text: str) -> bool:
    """Whether a prompt has words that change during the run."""
    return any(not isinstance(node, str) for node in parse_schedule(text))


def parse_schedule(text: str) -> tuple[Node, ...]:
    """The text of a prompt and what changes in it. Nothing raises: what is no change is text."""
    stack = [_Frame("")]
    for token in TOKEN.findall(text):
        top = stack[-1]
        if token in ("[", "(") and len(stack) <= DEEPEST:
            stack.append(_Frame(token))
        elif token in (":", "|") and top.opened == "[":
            top.separators.append(token)
            top.segments.append([])
        elif token == ")" and top.opened == "(":
            stack.pop()
            stack[-1].add(*top.plain(")"))
        elif token == "]" and any(frame.opened == "[" for frame in stack):
            while stack[-1].opened == "(":
                open_one = stack.pop()
                stack[-1].add(*open_one.plain(""))
                stack[-1].broken = True
            closed = stack.pop()
            stack[-1].add(*_closed(closed))
        else:
            top.add(token)
            # A bracket of another kind that nothing opened: then nothing around it is a change.
            top.broken = top.broken or token == ")"
    while len(stack) > 1:
        open_one = stack.pop()
        stack[-1].add(*open_one.plain(""))
    return tuple(stack[0].segments[0])


def _closed(frame: _Frame) -> list[Node]:
    if frame.broken or not frame.separators:
        return frame.plain("]")
    if ":" not in frame.separators:
        return [Turns(tuple(map(tuple, frame.segments)))]
    # With a colon, a bar is text.
    segments: list[list[Node]] = [frame.segments[0]]
    for separator, segment in zip(frame.separators, frame.segments[1:], strict=True):
        if separator == ":":
            segments.append(segment)
        else:
            segments[-1] = [*segments[-1], separator, *segment]
    when = "".join(node if isinstance(node, str) else "[" for node in segments[-1])
    if len(segments) > 3 or (number := NUMBER.fullmatch(when)) is None:
        return frame.plain("]")
    return [Switch(tuple(segments[0]) if len(segments) == 3 else (), tuple(segments[-2]), number[1])]


def _text(nodes: Sequence[Node], step: int, clock: Clock) -> str:
    parts = []
    for node in nodes:
        if isinstance(node, Switch):
            parts.append(_text(node.before if step <= _last_step(node.when, clock) else node.after, step, clock))
        elif isinstance(node, Turns):
            parts.append(_text(node.texts[(step - 1) % len(node.texts)], step, clock))
        else:
            parts.append(node)
    return "".join(parts)


def _last_step(when: str, clock: Clock) -> int:
    """The last step, from 1 on, before a change."""
    value = max(-CAPPED, min(CAPPED, float(when)))
    return int((value - clock.passes_before) * clock.steps if "." in when else value - clock.steps_before)
