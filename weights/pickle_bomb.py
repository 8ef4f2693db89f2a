"""Refuse pickles that would grow without end (pickle bombs), from their instructions alone."""

from __future__ import annotations

import pickle
import pickletools
from typing import Any

# Items that all tuples have together, each counted as often as it is in one; real checkpoints stay below 300,000.
MAX_ITEMS = 5_000_000
GLOBAL = 0  # the size of a class or a function: what may be called
PLAIN = {
    "NONE",
    "NEWFALSE",
    "NEWTRUE",
    "EMPTY_TUPLE",
    "EMPTY_LIST",
    "EMPTY_DICT",
    "EMPTY_SET",
    "BININT",
    "BININT1",
    "BININT2",
    "BINFLOAT",
    "BINUNICODE",
    "SHORT_BINSTRING",
    "LONG1",
}


def check_pickle_size(data: bytes) -> None:
    """Raise pickle.UnpicklingError for nested tuples that hold more than MAX_ITEMS items in all.

    A hundred times t = (t, t) is a short pickle, and the hash of t takes forever. This executes the instructions that
    torch's weights_only unpickler knows, with sizes in place of values. A damaged pickle raises ValueError, LookupError
    or the like.
    """
    stack: list[int] = []
    outer: list[list[int]] = []
    memo: dict[Any, int] = {}
    total = 0
    for instruction, value, _ in pickletools.genops(data):
        match instruction.name:
            case "PROTO" | "STOP":
                pass
            case "MARK":
                outer.append(stack)
                stack = []
            case "GLOBAL":
                stack.append(GLOBAL)
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[value])
            case "BINPUT" | "LONG_BINPUT":
                memo[value] = stack[-1]
            case "TUPLE":
                items, stack = stack, outer.pop()
                stack.append(1 + sum(items))
            case "TUPLE1" | "TUPLE2" | "TUPLE3" as name:
                stack.append(1 + sum([stack.pop() for _ in range(int(name[-1]))]))
            case "APPENDS" | "SETITEMS":
                stack = outer.pop()
            case "APPEND" | "BUILD":
                stack.pop()
            case "SETITEM":
                del stack[-2:]
            case "BINPERSID":
                stack[-1] = 1
            case "REDUCE" | "NEWOBJ":
                stack.pop()
                # The unpickler would write out whatever else it is asked to call.
                if stack.pop() != GLOBAL:
                    raise pickle.UnpicklingError("a call of what is no function")
                stack.append(1)
            case name if name in PLAIN:
                stack.append(1)
            case name:
                raise pickle.UnpicklingError(f"the instruction {name}")
        total += stack[-1] if stack else 0
        if total > MAX_ITEMS:
            raise pickle.UnpicklingError("tuples without end")
