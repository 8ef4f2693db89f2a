"""Schedules that a user writes: a list of numbers, or a formula.

A formula is parsed, and only what is listed here is computed, by this file: numbers, names, + - * / ** and calls of a
few functions. It is never run as Python, its length is limited, and so is every number, being a float.
"""

import ast
import math
import operator
import re
from collections.abc import Callable
from typing import Annotated

from samplers import Length, hookimpl, schedule

LONGEST_FORMULA = 300
LIST = Length(30_000)  # a thousand sigmas, each with all of its digits

NUMBERS = 'sigmas, highest first, like "14.6, 3.9, 1.4, 0.4"; max and min stand for the ends of the model\'s range'
FORMULA = "sigma from t (0 at the first step, 1 at the last), i, n, sigma_min and sigma_max"

OPERATORS: dict[type, Callable] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: math.pow,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}
FUNCTIONS: dict[str, Callable] = {f.__name__: f for f in (abs, max, min)} | {
    name: getattr(math, name) for name in ("sqrt", "exp", "log", "sin", "cos", "tan", "atan", "tanh")
}
NAMES = ("t", "i", "n", "sigma_min", "sigma_max", "pi", "e")
ALLOWED = f"allowed are numbers, {', '.join(NAMES)}, + - * / **, brackets, and {', '.join(sorted(FUNCTIONS))}"


@schedule("Custom")
def custom(model, steps, *, numbers: Annotated[str, LIST, NUMBERS] = "max, min"):
    """The typed sigmas themselves where they are as many as `steps`; else so many on the line through their logs.

    They may be separated by commas, semicolons, spaces or line ends, and stand in brackets; a 0 at the end is the end
    that every run has, and is left out.
    """
    sigmas = _read_numbers(numbers, model)
    if len(sigmas) == steps or steps == 1:
        return sigmas[:steps]
    if len(sigmas) == 1:
        raise ValueError(f"one number makes one step, not {steps}; type at least two, or set steps to 1")
    logs = [math.log(sigma) for sigma in sigmas]
    places = [(len(logs) - 1) * i / (steps - 1) for i in range(steps)]
    return [sigmas[int(p)] if p == int(p) else math.exp(_between(logs, p)) for p in places]


def _between(values, place):
    part = place - int(place)
    return (1 - part) * values[int(place)] + part * values[int(place) + 1]


def _read_numbers(text, model):
    words = [word for word in re.split(r"[\s,;()\[\]]+", text) if word]
    sigmas = [_read_number(word, model) for word in words]
    if len(sigmas) > 1 and sigmas[-1] == 0:
        sigmas.pop()
    if not sigmas:
        raise ValueError("there is no number; type sigmas, highest first, like 14.6, 3.9, 1.4, 0.4")
    for place, sigma in enumerate(sigmas, start=1):
        if sigma <= 0:
            raise ValueError(f"number {place} is {sigma:g}; sigmas have to be above 0, except for a 0 at the end")
        if place > 1 and sigma >= sigmas[place - 2]:
            before = sigmas[place - 2]
            raise ValueError(f"number {place} is {sigma:g}, not below {before:g} before it; type the highest first")
    return sigmas


def _read_number(word, model):
    ends = dict(max=model.sigma_max, min=model.sigma_min)
    try:
        value = ends[word] if word in ends else float(word)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{word[:30]!r} is not a number; allowed are numbers like 14.6, max, and min")
    return value


@schedule("Formula")
def formula(model, steps, *, sigma: Annotated[str, FORMULA] = "sigma_max * (sigma_min / sigma_max) ** t"):
    """sigma as an expression of t; the default is Exponential. With one step, t is 0."""
    expression = _Expression(sigma)
    fixed = dict(n=float(steps), sigma_min=model.sigma_min, sigma_max=model.sigma_max, pi=math.pi, e=math.e)
    sigmas: list[float] = []
    for i in range(steps):
        value = expression(fixed | dict(i=float(i), t=i / max(1, steps - 1)))
        where = f"the formula gives {value:g} at step {i + 1} of {steps}"
        if not 0 < value < math.inf:
            raise ValueError(f"{where}; sigmas have to be above 0 and finite")
        if sigmas and value >= sigmas[-1]:
            raise ValueError(f"{where}, not below {sigmas[-1]:g} before it; sigmas have to fall")
        sigmas.append(value)
    return sigmas


class _Expression:
    """A parsed formula, every node of it allowed; called with the values of the names."""

    def __init__(self, text):
        if len(text) > LONGEST_FORMULA:
            raise ValueError(f"the formula is {len(text)} characters long; allowed are {LONGEST_FORMULA}")
        self.text = " ".join(text.split())
        try:
            tree = ast.parse(self.text, mode="eval").body
            nodes = list(ast.walk(tree))
        # Python's parser gives up on deep nesting and odd characters in several ways.
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            reason = getattr(error, "msg", "it is nested too deeply or has odd characters")
            raise ValueError(f"the formula cannot be read ({reason}); {ALLOWED}") from None
        called = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
        for node in nodes:
            wrong = None if id(node) in called else self._wrong(node)
            if wrong:
                raise ValueError(f"the formula has {wrong}; {ALLOWED}")
        try:
            self.value = self._compiled(tree)
        except (RecursionError, OverflowError):
            raise ValueError("the formula is nested too deeply or has a number without end; write it shorter") from None

    def __call__(self, names):
        """The value, a float; ValueError where it has none."""
        try:
            return self.value(names)
        except (ArithmeticError, ValueError, TypeError) as error:
            raise ValueError(f"the formula has no value at t = {names['t']:g}: {error}") from None
        except RecursionError:
            raise ValueError("the formula is nested too deeply; write it with fewer brackets") from None

    def _wrong(self, node):
        """What is not allowed about a node, in words, or None."""
        if isinstance(node, ast.Call):
            plain = not node.keywords and not any(isinstance(argument, ast.Starred) for argument in node.args)
            known = isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS
            return None if known and plain else f"the call {self._shown(node)}"
        if isinstance(node, ast.Name):
            if node.id in FUNCTIONS:
                return f"the function {node.id} without its brackets"
            return None if node.id in NAMES else f"the unknown name {self._shown(node)}"
        if isinstance(node, ast.Constant):
            real = isinstance(node.value, (int, float)) and not isinstance(node.value, bool)
            return None if real else f"{self._shown(node)}, which is not a real number"
        return None if isinstance(node, (ast.BinOp, ast.UnaryOp, ast.Load, *OPERATORS)) else self._shown(node)

    def _shown(self, node):
        part = ast.get_source_segment(self.text, node)
        return repr(part[:40]) if part else f"an operator ({type(node).__name__})"

    def _compiled(self, node):
        """The node as a function of the names. All values are floats: a power can overflow, but not grow."""
        if isinstance(node, ast.Name):
            return operator.itemgetter(node.id)
        if isinstance(node, ast.Constant):
            value = float(ast.literal_eval(node))
            return lambda names: value
        if isinstance(node, ast.UnaryOp):
            apply, inner = OPERATORS[type(node.op)], self._compiled(node.operand)
            return lambda names: apply(inner(names))
        if isinstance(node, ast.BinOp):
            apply, left, right = OPERATORS[type(node.op)], self._compiled(node.left), self._compiled(node.right)
            return lambda names: apply(left(names), right(names))
        call, arguments = FUNCTIONS[node.func.id], [self._compiled(argument) for argument in node.args]
        return lambda names: float(call(*(argument(names) for argument in arguments)))


@hookimpl
def register_schedules():
    return [custom, formula]
